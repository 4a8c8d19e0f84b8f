//! Short bodies that nobody reads: under pressure they are read into memory, their streams are free, and nothing is lost.

use std::time::Duration;

use dmsg_http::http::{HttpClient, HttpConfig, HttpError, ResponseBody};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::common::{PipeDial, PipeListener, pipe, read_head, url};

/// Answers every request on every stream with this.
async fn answer_with(mut listener: PipeListener, reply: String) {
    loop {
        let (mut stream, reply) = (listener.next().await, reply.clone());
        tokio::spawn(async move {
            while stream.read_u8().await.is_ok() {
                read_head(&mut stream).await;
                if stream.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

/// Answers every request on every stream with a head, the first part of a body, and the second after `pause`; `None`: the stream
/// ends instead.
async fn answer(mut listener: PipeListener, pause: Option<Duration>) {
    loop {
        let mut stream = listener.next().await;
        tokio::spawn(async move {
            loop {
                // The end of the caller's interest ends this task.
                if stream.read_u8().await.is_err() {
                    return;
                }
                read_head(&mut stream).await;
                stream.write_all(format!("{HEAD}he").as_bytes()).await.unwrap();
                let Some(pause) = pause else { return };
                sleep(pause).await;
                if stream.write_all(b"llo").await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A client with two streams, and so one that may be unread.
fn narrow(pause: Option<Duration>, buffer_bytes: usize) -> (HttpClient<PipeDial>, PipeDial) {
    let (dial, listener) = pipe();
    tokio::spawn(answer(listener, pause));
    let mut config = HttpConfig::default();
    config.streams_max = 2;
    config.unread_buffer_max_bytes = buffer_bytes;
    (HttpClient::with_config(dial.clone(), config), dial)
}

async fn body(client: &HttpClient<PipeDial>) -> ResponseBody {
    client.send(dmsg_http::http::Request::get(url("/"))).await.unwrap().into_body()
}

/// Until what was begun in the background is done.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_kept_bodies_need_two_streams_and_are_whole() {
    let (client, dial) = narrow(Some(Duration::ZERO), 1 << 20);
    let (mut kept, begun) = (Vec::new(), Instant::now());
    for _ in 0..100 {
        kept.push(body(&client).await);
    }
    assert!(begun.elapsed() < Duration::from_millis(200), "nobody waits for a body to be old");
    assert!(dial.dial_count() <= 2, "{}", dial.dial_count());
    assert!(client.unread_buffer_bytes() >= 98 * 5);
    for body in &kept {
        assert_eq!(body.size_hint().exact(), Some(5));
    }
    let dropped = kept.split_off(50);
    for body in kept {
        assert_eq!(body.read_to_end(5).await.unwrap(), "hello");
    }
    drop(dropped);
    settle().await;
    assert_eq!((client.unread_buffer_bytes(), client.stream_counts().1), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn when_the_memory_is_full_the_oldest_gives_way_if_it_is_old_enough() {
    let (client, _) = narrow(Some(Duration::ZERO), 10);
    let begun = Instant::now();
    let first = body(&client).await;
    let rest = [body(&client).await, body(&client).await, body(&client).await];
    assert!(begun.elapsed() < Duration::from_millis(50), "two in memory, two on their streams");
    let late = body(&client).await;
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    let error = first.read_to_end(5).await.unwrap_err();
    assert!(matches!(error, HttpError::Reclaimed { .. }), "{error}");
    assert_eq!(late.read_to_end(5).await.unwrap(), "hello");
    drop(rest);
    settle().await;
    assert_eq!((client.unread_buffer_bytes(), client.stream_counts().1), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_soon_is_its_holders_again() {
    let (client, _) = narrow(Some(Duration::from_secs(1)), 1 << 20);
    let first = body(&client).await;
    let second = body(&client).await;
    sleep(Duration::from_millis(400)).await;
    assert_eq!(client.stream_counts().1, 2, "it goes on on its stream");
    assert_eq!(first.size_hint().exact(), Some(5));
    assert_eq!(first.read_to_end(5).await.unwrap(), "hello");
    assert_eq!(second.read_to_end(5).await.unwrap(), "hello");
    assert_eq!(client.unread_buffer_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_reads_while_it_is_read_ahead_waits_for_the_rest() {
    let (client, _) = narrow(Some(Duration::from_millis(100)), 1 << 20);
    let first = body(&client).await;
    let _second = body(&client).await;
    let begun = Instant::now();
    assert_eq!(first.read_to_end(5).await.unwrap(), "hello");
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn one_that_breaks_off_is_an_error_and_no_short_body() {
    let (client, _) = narrow(None, 1 << 20);
    let first = body(&client).await;
    let _second = body(&client).await;
    settle().await;
    let error = first.read_to_end(5).await.unwrap_err();
    assert!(matches!(error, HttpError::Incomplete { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn those_of_unknown_length_are_read_ahead_too_with_their_trailers() {
    for (reply, data, trailers) in [
        ("3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello", 0),
        ("5\r\nhello\r\n0\r\nx: 1\r\n\r\n", "hello", 1),
        ("0\r\nx: 1\r\n\r\n", "", 1),
        ("0\r\n\r\n", "", 0),
    ] {
        let (dial, listener) = pipe();
        tokio::spawn(answer_with(listener, format!("{CHUNKED}{reply}")));
        let mut config = HttpConfig::default();
        config.streams_max = 2;
        let client = HttpClient::with_config(dial.clone(), config);
        let mut kept = Vec::new();
        for _ in 0..20 {
            kept.push(body(&client).await);
        }
        assert!(dial.dial_count() <= 2, "{}", dial.dial_count());
        for body in kept {
            let whole = body.collect().await.unwrap();
            assert_eq!(whole.trailers().map_or(0, http::HeaderMap::len), trailers);
            assert_eq!(whole.to_bytes(), data);
        }
        assert_eq!(client.unread_buffer_bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_one_of_unknown_length_goes_on_where_it_was_left() {
    let (dial, listener) = pipe();
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    tokio::spawn(answer_with(listener, format!("{CHUNKED}{}0\r\n\r\n", chunk.repeat(10))));
    let mut config = HttpConfig::default();
    config.streams_max = 2;
    let client = HttpClient::with_config(dial, config);
    let first = body(&client).await;
    let _second = body(&client).await;
    settle().await;
    assert!((64 << 10..192 << 10).contains(&client.unread_buffer_bytes()));
    assert_eq!(client.stream_counts().1, 2, "its stream is still its own");
    assert_eq!(first.read_to_end(1 << 20).await.unwrap().len(), 10 * 0x8000);
}
