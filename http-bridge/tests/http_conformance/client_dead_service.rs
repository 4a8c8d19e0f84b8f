//! A service that answers nobody: callers in a loop cost those of another one nothing, and it is found again at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use dmsg_engine::{
    identity::SecretKey,
    wire::{Addr, Port},
};
use dmsg_http::{
    http::{BoxError, Dial, HttpClient, HttpError, Request},
    url::DmsgUrl,
};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::common::{read_head, service, url};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[derive(Clone, Copy, PartialEq)]
enum Death {
    RefusesDials,
    BreaksOff,
}

/// Two services: one answers everything, the other nothing until it is revived.
#[derive(Clone)]
struct TwoServices {
    death: Death,
    is_revived: Arc<AtomicBool>,
    dials_of_the_dead: Arc<AtomicUsize>,
}

fn dead() -> Addr {
    Addr { key: SecretKey::from_seed(b"dead").public_key(), port: Port::MIN }
}

impl Dial for TwoServices {
    type Stream = DuplexStream;

    async fn dial(&self, to: Addr) -> Result<DuplexStream, BoxError> {
        let answers = to == service() || self.is_revived.load(SeqCst);
        if to == dead() {
            self.dials_of_the_dead.fetch_add(1, SeqCst);
        }
        if !answers && self.death == Death::RefusesDials {
            return Err("refused".into());
        }
        let (near, mut far) = duplex(1024);
        tokio::spawn(async move {
            read_head(&mut far).await;
            let sent = if answers { ANSWER } else { &ANSWER[..20] };
            far.write_all(sent).await
        });
        Ok(near)
    }
}

async fn get(client: &HttpClient<TwoServices>, url: DmsgUrl) -> Result<(), HttpError> {
    client.send(Request::get(url)).await?.into_body().read_to_end(100).await.map(drop)
}

async fn hammered(death: Death) {
    let dial = TwoServices { death, is_revived: Arc::default(), dials_of_the_dead: Arc::default() };
    let client = HttpClient::new(dial.clone());
    let nowhere = DmsgUrl::new(dead(), "/").unwrap();
    let mut hammer = JoinSet::new();
    for _ in 0..64 {
        let (client, nowhere) = (client.clone(), nowhere.clone());
        hammer.spawn(async move { while get(&client, nowhere.clone()).await.is_err() {} });
    }
    for _ in 0..100 {
        let begun = Instant::now();
        get(&client, url("/")).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        sleep(Duration::from_millis(100)).await;
    }
    // As many as 64 may be under way before one has failed; then 20 a second, with jitter.
    let dials = dial.dials_of_the_dead.load(SeqCst);
    assert!((150..=64 + 250).contains(&dials), "{dials} dials in 10 s");
    assert_eq!(client.stream_counts().1, 0, "nobody holds a place while it waits for its turn");
    // With the first answer everybody has one.
    dial.is_revived.store(true, SeqCst);
    let begun = Instant::now();
    while let Some(done) = hammer.join_next().await {
        done.unwrap();
    }
    assert!(begun.elapsed() <= Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_that_refuses_every_dial_is_asked_twenty_times_a_second() {
    hammered(Death::RefusesDials).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_breaks_off_in_the_head_is_asked_twenty_times_a_second() {
    hammered(Death::BreaksOff).await;
}
