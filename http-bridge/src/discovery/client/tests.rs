//! Back-off, deadlines and locks of updates, against a transport made of a closure, in paused time.
#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use dmsg_engine::identity::SecretKey;
use http::Response;

use super::*;
use crate::{
    discovery::{Entry, RawEntry},
    transport::ExchangeFuture,
};

const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

type Reply = Box<dyn Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync>;

/// Answers by a closure; `None` never answers. Keeps what was asked.
struct Script {
    reply: Reply,
    asked: Mutex<Vec<Request<Bytes>>>,
}

impl HttpTransport for Script {
    fn exchange(&self, request: Request<Bytes>, limits: Limits) -> ExchangeFuture<'_> {
        let answer = (self.reply)(&request);
        self.asked.lock().unwrap().push(request);
        Box::pin(async move {
            match answer {
                Some(answer) => Ok(answer),
                None => {
                    tokio::time::sleep(limits.timeout).await;
                    Err(TransportError::Timeout(limits.timeout))
                }
            }
        })
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Option<Response<Bytes>> {
    Some(Response::builder().status(status).body(body.into()).unwrap())
}

fn refused(error: EntryError) -> Option<Response<Bytes>> {
    answer(error.status().as_u16(), format!("{{\"code\":1,\"message\":\"{error}\"}}"))
}

fn client(
    reply: impl Fn(&Request<Bytes>) -> Option<Response<Bytes>> + Send + Sync + 'static,
) -> (Arc<DiscoveryClient>, Arc<Script>) {
    let script = Arc::new(Script { reply: Box::new(reply), asked: Mutex::default() });
    let options = ClientOptions { clock: Arc::new(|| NOW), ..ClientOptions::default() };
    let client = DiscoveryClient::new("dmsg://key:80/", script.clone(), options).unwrap();
    (Arc::new(client), script)
}

fn secret() -> SecretKey {
    SecretKey::from_seed(b"updates")
}

fn publish(entry: &mut Entry) {
    entry.client = Some(crate::discovery::ClientPart { delegated_servers: Some(Vec::new()) });
}

impl Script {
    fn written(&self) -> Vec<Entry> {
        let asked = self.asked.lock().unwrap();
        let writes = asked.iter().filter(|request| *request.method() != Method::GET);
        writes.map(|request| RawEntry::parse(request.body()).unwrap().into_entry()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_always_conflicts_gives_up_after_five_tries_and_doubling_waits() {
    let (client, script) = client(|request| match *request.method() {
        Method::GET => refused(EntryError::NotFound),
        _ => refused(EntryError::SequenceNotGreater),
    });
    let start = tokio::time::Instant::now();
    let result = client.update(&secret(), &[], &publish).await;
    assert_eq!(result, Err(ClientError::Conflict(5)));
    assert_eq!(start.elapsed().as_millis(), 100 + 200 + 400 + 800);
    assert_eq!(script.written().len(), 5);
    assert_eq!(
        script.asked.lock().unwrap()[0].uri().path().len(),
        "/dmsg-discovery/entry/".len() + 66
    );
}

#[tokio::test(start_paused = true)]
async fn busy_and_rate_limiting_answers_are_waited_out() {
    let count = AtomicUsize::new(0);
    let (client, script) = client(move |request| {
        let limited = || {
            Some(
                Response::builder()
                    .status(429)
                    .header("retry-after", "2")
                    .header("content-type", "text/plain")
                    .body("rate limit exceeded".into())
                    .unwrap(),
            )
        };
        match (count.fetch_add(1, Ordering::SeqCst), request.method()) {
            (0, _) => limited(),
            (2, _) => answer(503, "<html>busy</html>"),
            (_, &Method::GET) => refused(EntryError::NotFound),
            _ => answer(200, "{}"),
        }
    });
    let start = tokio::time::Instant::now();
    let entry = client.update(&secret(), &[], &publish).await.unwrap();
    assert_eq!((entry.sequence, entry.timestamp), (0, NOW.0));
    assert_eq!(start.elapsed().as_millis(), 2000 + 100);
    assert_eq!(script.written().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_sequence_exceeds_what_is_stored_and_what_we_wrote() {
    let stored = Arc::new(Mutex::new(None::<u64>));
    let (client, script) = client({
        let stored = Arc::clone(&stored);
        move |request| match (request.method(), *stored.lock().unwrap()) {
            (&Method::GET, Some(sequence)) => {
                let mut entry = Entry::client(secret().public_key(), Vec::new());
                entry.sequence = sequence;
                entry.timestamp = NOW.0 + 5;
                entry.sign(&secret());
                answer(200, entry.to_text())
            }
            (&Method::GET, None) => refused(EntryError::NotFound),
            _ => answer(200, "{}"),
        }
    });
    let sequence_with = async |value| {
        *stored.lock().unwrap() = value;
        client.update(&secret(), &[], &publish).await.map(|e| (e.sequence, e.timestamp - NOW.0))
    };
    assert_eq!(sequence_with(None).await, Ok((0, 0)));
    assert_eq!(sequence_with(None).await, Ok((1, 0)));
    assert_eq!(sequence_with(Some(41)).await, Ok((42, 6)));
    assert_eq!(sequence_with(Some(7)).await, Ok((43, 6)));
    assert_eq!(sequence_with(Some(u64::MAX)).await, Err(ClientError::SequenceExhausted));
    assert_eq!(script.written().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lying_discovery_does_not_choose_what_we_sign() {
    let (client, script) = client(|request| match *request.method() {
        Method::GET => {
            let mut entry = Entry::server(secret().public_key(), "203.0.113.66:6", 6);
            entry.client_type = "evil".into();
            entry.sequence = u64::MAX - 1;
            entry.timestamp = i64::MAX;
            entry.signature = "00".repeat(65);
            answer(200, entry.to_text())
        }
        _ => answer(200, "{}"),
    });
    client.update(&secret(), &[], &publish).await.unwrap();
    let written = script.written().pop().unwrap();
    written.verify().unwrap();
    assert_eq!(written.sequence, (1 << 40) + 1);
    assert_eq!(written.timestamp, NOW.0);
    assert_eq!((written.server, written.client_type.as_str()), (None, ""));
}

#[tokio::test(start_paused = true)]
async fn an_own_server_entry_is_known_again_under_the_discoverys_label() {
    let (client, script) = client(|request| match *request.method() {
        Method::GET => {
            let mut entry = Entry::server(secret().public_key(), "203.0.113.7:7", 7);
            entry.client = Some(crate::discovery::ClientPart::default());
            entry.server.as_mut().unwrap().server_type = "sesame".into();
            entry.sequence = 1 << 50;
            entry.sign(&secret());
            entry.server.as_mut().unwrap().server_type = "official".into();
            answer(200, entry.to_text())
        }
        _ => answer(200, "{}"),
    });
    client.update(&secret(), &["sesame"], &|_| {}).await.unwrap();
    let known = script.written().pop().unwrap();
    assert_eq!((known.sequence, known.client.is_some()), ((1 << 50) + 1, true));
    client.update(&SecretKey::from_seed(b"updates"), &[], &publish).await.unwrap();
    assert_eq!(script.written().pop().unwrap().server, None);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_update_holds_up_the_next_one_no_longer_than_its_deadline() {
    let (client, _) = client(|_| None);
    let limit = client.options.update_timeout;
    let first = tokio::spawn({
        let client = Arc::clone(&client);
        async move { client.update(&secret(), &[], &publish).await }
    });
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    let secret_key = secret();
    let second = client.update(&secret_key, &[], &publish);
    let short = tokio::time::timeout(Duration::from_secs(3), second).await;
    assert!(short.is_err(), "the lock was not held");
    // The stalled exchange ends by its own time-out, and with it the update.
    let first = first.await.unwrap();
    assert!(matches!(first, Err(ClientError::Transport(TransportError::Timeout(_)))), "{first:?}");
    assert!(start.elapsed() < limit);
    let held = client.writer.lock().await;
    let start = tokio::time::Instant::now();
    assert_eq!(client.update(&secret(), &[], &publish).await, Err(ClientError::Busy(limit)));
    assert_eq!(start.elapsed(), limit);
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn withdrawing_signs_a_fresh_iteration_and_nothing_stored_is_fine() {
    let (client, script) = client(|request| match *request.method() {
        Method::GET => {
            let mut entry = Entry::client(secret().public_key(), Vec::new());
            entry.sequence = 3;
            entry.sign(&secret());
            answer(200, entry.to_text())
        }
        _ => answer(200, "{}"),
    });
    client.withdraw(&secret(), &[], &publish).await.unwrap();
    let written = script.written().pop().unwrap();
    assert_eq!((written.sequence, written.timestamp), (4, NOW.0));
    written.verify().unwrap();
    assert_eq!(*script.asked.lock().unwrap()[1].method(), Method::DELETE);

    let (client, script) = self::client(|_| refused(EntryError::NotFound));
    client.withdraw(&secret(), &[], &publish).await.unwrap();
    assert!(script.written().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_that_was_asked_for_outlives_the_call_and_is_bounded() {
    let start = tokio::time::Instant::now();
    let answered = Arc::new(Mutex::new(Vec::new()));
    let (client, script) = client({
        let answered = Arc::clone(&answered);
        move |_| {
            answered.lock().unwrap().push(start.elapsed().as_secs());
            // A proxy's page, in plain text, with a wait far beyond reason.
            let text = "come back tomorrow";
            Some(
                Response::builder()
                    .status(503)
                    .header("retry-after", "86400")
                    .body(text.into())
                    .unwrap(),
            )
        }
    });
    for _ in 0..20 {
        let result = client.update(&secret(), &[], &publish).await;
        let asked = result.unwrap_err().retry_after();
        assert!(asked.is_some(), "it says how long");
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    // Asked at the beginning and then every 120 s, not by every caller that comes by.
    let answered = answered.lock().unwrap().clone();
    assert_eq!(answered.len(), script.asked.lock().unwrap().len());
    assert_eq!(answered[0], 0);
    assert!(answered.len() >= 2, "{answered:?}");
    assert!(answered.windows(2).all(|pair| pair[1] - pair[0] == 120), "{answered:?}");
}

#[test]
fn a_base_address_needs_scheme_and_host() {
    for base in ["", "dmsgd.example", "/path", "http://", "http:// x"] {
        let script = Arc::new(Script { reply: Box::new(|_| None), asked: Mutex::default() });
        let made = DiscoveryClient::new(base, script, ClientOptions::default());
        assert_eq!(made.err(), Some(ClientError::BadBase(base.into())), "{base}");
    }
}
