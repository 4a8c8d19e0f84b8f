//! The HTTP client against scripted peers: bytes, pooling, retries, deadlines, limits
//! (`dmsg-http.md §3`, conformance checks 1, 3, 4, 5, 6 and 7 of §9).
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{PipeDial, PipeListener, pipe, read_head, service, url};
use dmsg_http::http::{HttpClient, HttpConfig, HttpError, Request, RequestBody};
use http::{Method, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BODY_MAX: u64 = 1 << 20;

async fn get(client: &HttpClient<PipeDial>, target: &str) -> Result<Bytes, HttpError> {
    client.send(Request::get(url(target))).await?.into_body().read_to_end(BODY_MAX).await
}

/// Answers `count` requests on one stream with `reply` each, then keeps the stream for as long as the peer does.
async fn answer(listener: &mut PipeListener, reply: &'static str, count: usize) {
    let mut stream = listener.next().await;
    tokio::spawn(async move {
        for _ in 0..count {
            read_head(&mut stream).await;
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
        let _ = stream.read_u8().await;
    });
}

#[tokio::test]
async fn a_get_has_the_bytes_of_the_spec() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let target = format!("dmsg://{}:80/path?x=1", service().key);
    let request = Request::get(target.parse().unwrap());
    let reply = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
    let mut stream = listener.next().await;
    let expected = format!(
        "GET /path?x=1 HTTP/1.1\r\nHost: {}:80\r\nUser-Agent: {}\r\n\r\n",
        service().key,
        dmsg_http::http::USER_AGENT
    );
    assert_eq!(read_head(&mut stream).await, expected);
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(reply.await.unwrap().unwrap(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_post_states_its_length_and_a_stream_is_chunked() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let mut request = Request::new(Method::POST, url("/"));
    request.body = RequestBody::Full(Bytes::from_static(b"hello"));
    tokio::spawn({
        let client = client.clone();
        async move { client.send(request).await.map(drop) }
    });
    let mut stream = listener.next().await;
    assert!(read_head(&mut stream).await.contains("\r\nContent-Length: 5\r\n"));
    let mut body = [0; 5];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"hello");

    let pieces =
        futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"ab")))]);
    let mut request = Request::new(Method::PUT, url("/"));
    request.body = RequestBody::Stream(Box::pin(StreamBody::new(pieces)));
    tokio::spawn(async move { client.send(request).await.map(drop) });
    let mut stream = listener.next().await;
    assert!(read_head(&mut stream).await.contains("\r\nTransfer-Encoding: chunked\r\n"));
    let mut body = [0; 12];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"2\r\nab\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_reply_without_length_ends_with_the_stream() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await.unwrap();
    });
    assert_eq!(get(&client, "/").await.unwrap(), "until the end");
    dial.wait_open(0).await;
}

#[tokio::test]
async fn a_chunked_reply_leaves_the_stream_for_the_next_request() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        answer(&mut listener, chunked, 3).await;
    });
    for _ in 0..3 {
        assert_eq!(get(&client, "/").await.unwrap(), "abc");
    }
    assert_eq!((dial.dial_count(), dial.open_count()), (1, 1));
    assert_eq!(client.stream_counts(), (1, 0));
    client.close_idle();
    dial.wait_open(0).await;
}

#[tokio::test]
async fn informational_replies_are_skipped() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    tokio::spawn(async move {
        let reply = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n\
                     HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        answer(&mut listener, reply, 1).await;
    });
    assert_eq!(get(&client, "/").await.unwrap(), "ok");
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A peer that answers the first request, takes the second and closes without an answer, and answers on every later stream.
async fn closes_a_pooled_stream(mut listener: PipeListener) {
    let mut stream = listener.next().await;
    read_head(&mut stream).await;
    stream.write_all(OK.as_bytes()).await.unwrap();
    read_head(&mut stream).await;
    drop(stream);
    loop {
        answer(&mut listener, OK, 1).await;
    }
}

#[tokio::test]
async fn a_get_on_a_stale_stream_is_repeated_unseen() {
    let (dial, listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(closes_a_pooled_stream(listener));
    assert_eq!(get(&client, "/").await.unwrap(), "ok");
    assert_eq!(get(&client, "/").await.unwrap(), "ok");
    assert_eq!(dial.dial_count(), 2);
}

#[tokio::test]
async fn a_post_that_was_written_is_not_repeated() {
    for body in [
        RequestBody::Full(Bytes::from_static(b"x")),
        RequestBody::Stream(Box::pin(StreamBody::new(futures_util::stream::iter([Ok(
            http_body::Frame::data(Bytes::from_static(b"x")),
        )])))),
    ] {
        let (dial, listener) = pipe();
        let client = HttpClient::new(dial.clone());
        tokio::spawn(closes_a_pooled_stream(listener));
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        let mut post = Request::new(Method::POST, url("/"));
        post.body = body;
        let error = client.send(post).await.map(drop).unwrap_err();
        assert!(
            matches!(error, HttpError::Incomplete { .. } | HttpError::Stream { .. }),
            "{error}"
        );
        assert_eq!(dial.dial_count(), 1);
    }
}

#[tokio::test]
async fn a_stream_the_peer_closed_while_idle_is_not_used() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let server = tokio::spawn(async move {
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        drop(stream);
        answer(&mut listener, OK, 1).await;
        listener
    });
    assert_eq!(get(&client, "/").await.unwrap(), "ok");
    dial.wait_open(0).await;
    // Not even a POST needs a second try now: it never goes out on the dead stream.
    let mut post = Request::new(Method::POST, url("/"));
    post.body = RequestBody::Full(Bytes::new());
    assert_eq!(client.send(post).await.unwrap().status(), 200);
    assert_eq!(dial.dial_count(), 2);
    drop(server);
}

#[tokio::test]
async fn connection_close_and_http_1_0_are_not_pooled() {
    for reply in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        tokio::spawn(async move { answer(&mut listener, reply, 1).await });
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        dial.wait_open(0).await;
        assert_eq!(client.stream_counts(), (0, 0));
    }
}

#[tokio::test]
async fn ten_thousand_bodies_dropped_unread_leave_nothing_behind() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        loop {
            let mut stream = listener.next().await;
            tokio::spawn(async move {
                read_head(&mut stream).await;
                // Far longer than what is drained, and it never ends.
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
                let _ = stream.write_all(head).await;
                let _ = stream.read_u8().await;
            });
        }
    });
    for _ in 0..10_000 {
        drop(client.send(Request::get(url("/"))).await.unwrap());
    }
    assert_eq!(dial.dial_count(), 10_000);
    dial.wait_open(0).await;
    assert_eq!(client.stream_counts(), (0, 0));
}

#[tokio::test]
async fn a_short_body_dropped_unread_is_drained_and_its_stream_kept() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        tokio::spawn(async move { answer(&mut listener, reply, 2).await });
        drop(client.send(Request::get(url("/"))).await.unwrap());
        while client.stream_counts() != (1, 0) {
            tokio::task::yield_now().await;
        }
        assert_eq!(get(&client, "/").await.unwrap(), "ok");
        assert_eq!(dial.dial_count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_hangs_is_not_drained_for_long() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        let hanging = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
        answer(&mut listener, hanging, 1).await;
        listener.next().await
    });
    drop(client.send(Request::get(url("/"))).await.unwrap());
    tokio::time::sleep(Duration::from_millis(300)).await;
    dial.wait_open(0).await;
}

#[tokio::test]
async fn a_truncated_reply_is_an_error() {
    for reply in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        tokio::spawn(async move {
            let mut stream = listener.next().await;
            read_head(&mut stream).await;
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        let error = get(&client, "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Incomplete { .. }), "{error:?}");
        dial.wait_open(0).await;
    }
}

#[tokio::test]
async fn malformed_replies_are_refused() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000)).leak();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101)).leak();
    for reply in [
        "SSH-2.0-OpenSSH_9.0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        &*huge,
        &*many,
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial.clone());
        let reply: &'static str = reply;
        tokio::spawn(async move {
            let mut stream = listener.next().await;
            read_head(&mut stream).await;
            let _ = stream.write_all(reply.as_bytes()).await;
            let _ = stream.read_u8().await;
        });
        let error = get(&client, "/").await.unwrap_err();
        assert!(matches!(error, HttpError::Malformed { .. }), "{:.40} gave {error:?}", reply);
        dial.wait_open(0).await;
    }
}

#[tokio::test]
async fn a_body_above_the_readers_limit_is_an_error() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    tokio::spawn(async move { answer(&mut listener, OK, 1).await });
    let response = client.send(Request::get(url("/"))).await.unwrap();
    let error = response.into_body().read_to_end(1).await.unwrap_err();
    assert!(matches!(error, HttpError::BodyTooLarge { max: 1 }));
}

#[tokio::test(start_paused = true)]
async fn each_wait_has_its_deadline() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let error = {
        let silent = tokio::spawn(async move {
            let stream = listener.next().await;
            (listener, stream)
        });
        let error = get(&client, "/").await.unwrap_err();
        let (back, _stream) = silent.await.unwrap();
        listener = back;
        error
    };
    assert!(matches!(error, HttpError::HeadTimeout { .. }), "{error}");

    tokio::spawn(async move {
        answer(&mut listener, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 1).await;
        listener.next().await
    });
    let error = get(&client, "/").await.unwrap_err();
    assert!(matches!(error, HttpError::BodyTimeout { .. }), "{error}");
    dial.wait_open(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_readers_own_pauses_are_no_timeout() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    tokio::spawn(async move {
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab";
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(70)).await;
        stream.write_all(b"cd").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let mut body = client.send(Request::get(url("/"))).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cd");
}

#[tokio::test(start_paused = true)]
async fn idle_streams_expire() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        answer(&mut listener, OK, 2).await;
        listener.next().await
    });
    get(&client, "/").await.unwrap();
    tokio::time::sleep(Duration::from_secs(80)).await;
    get(&client, "/").await.unwrap();
    assert_eq!(dial.dial_count(), 1);
    tokio::time::sleep(Duration::from_secs(100)).await;
    dial.wait_open(0).await;
    assert_eq!(client.stream_counts(), (0, 0));
}

#[tokio::test]
async fn no_more_idle_streams_are_kept_than_allowed() {
    let (dial, mut listener) = pipe();
    let mut config = HttpConfig::default();
    config.idle_per_destination_max = 4;
    let client = HttpClient::with_config(dial.clone(), config);
    tokio::spawn(async move {
        loop {
            answer(&mut listener, OK, 1).await;
        }
    });
    let mut replies = Vec::new();
    for _ in 0..6 {
        replies.push(client.send(Request::get(url("/"))).await.unwrap());
    }
    for reply in replies {
        reply.into_body().read_to_end(BODY_MAX).await.unwrap();
    }
    dial.wait_open(4).await;
    assert_eq!(client.stream_counts(), (4, 0));
}

#[tokio::test]
async fn a_client_that_keeps_no_streams_says_so() {
    let (dial, mut listener) = pipe();
    let mut config = HttpConfig::default();
    config.idle_per_destination_max = 0;
    let client = HttpClient::with_config(dial.clone(), config);
    let reply = tokio::spawn(async move { get(&client, "/").await });
    let mut stream = listener.next().await;
    let head = read_head(&mut stream).await;
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    stream.write_all(OK.as_bytes()).await.unwrap();
    assert_eq!(reply.await.unwrap().unwrap(), "ok");
    dial.wait_open(0).await;
}

#[tokio::test]
async fn who_waited_for_a_place_takes_the_stream_that_became_idle() {
    let (dial, mut listener) = pipe();
    let mut config = HttpConfig::default();
    config.streams_per_destination_max = 3;
    let client = HttpClient::with_config(dial.clone(), config);
    tokio::spawn(async move {
        loop {
            answer(&mut listener, OK, 100).await;
        }
    });
    let requests = (0..60).map(|_| get(&client, "/"));
    let replies = futures_util::future::join_all(requests).await;
    assert!(replies.iter().all(Result::is_ok));
    assert_eq!(dial.dial_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_reclaimed_a_request_waits_five_seconds_for_a_stream_and_says_so() {
    let (dial, listener) = pipe();
    let mut config = tight(2);
    config.unread_min_age = None;
    let client = HttpClient::with_config(dial.clone(), config);
    tokio::spawn(endless(listener));
    let first = client.send(Request::get(url("/"))).await.unwrap();
    let _second = client.send(Request::get(url("/"))).await.unwrap();
    let begun = tokio::time::Instant::now();
    let error = client.send(Request::get(url("/"))).await.map(drop).unwrap_err();
    assert!(matches!(error, HttpError::StreamsExhausted { max: 2 }), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    let third = tokio::spawn({
        let client = client.clone();
        async move { client.send(Request::get(url("/"))).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(first);
    third.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_asks_on_where_the_queue_is_full_too_lets_others_have_a_turn() {
    let (dial, listener) = pipe();
    let mut config = tight(1);
    config.waiting_max = 0;
    config.unread_min_age = None;
    let client = HttpClient::with_config(dial, config);
    tokio::spawn(endless(listener));
    let _only = client.send(Request::get(url("/"))).await.unwrap();
    let spinning = tokio::spawn(async move {
        for _ in 0..1_000_000 {
            let error = client.send(Request::get(url("/"))).await.map(drop).unwrap_err();
            assert!(matches!(error, HttpError::StreamsExhausted { max: 1 }), "{error}");
        }
    });
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    assert!(!spinning.is_finished(), "it had this thread for itself");
}

fn tight(streams_max: usize) -> HttpConfig {
    let mut config = HttpConfig::default();
    config.streams_max = streams_max;
    config
}

/// Answers every request with a body that never ends.
async fn endless(mut listener: PipeListener) {
    loop {
        answer(&mut listener, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nab", 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_nobody_reads_gives_way_to_a_new_request() {
    let (dial, listener) = pipe();
    let client = HttpClient::with_config(dial.clone(), tight(2));
    tokio::spawn(endless(listener));
    let mut forgotten = client.send(Request::get(url("/"))).await.unwrap().into_body();
    // A reader at work is spared as long as it waits for the next piece.
    let mut reader = client.send(Request::get(url("/"))).await.unwrap().into_body();
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = reader.frame().await {} });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _third = client.send(Request::get(url("/"))).await.unwrap();
    dial.wait_open(2).await;
    let error = loop {
        match forgotten.frame().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HttpError::Reclaimed { .. }), "{error}");
    assert!(!reading.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_response_nobody_reads_loses_its_stream_in_the_end() {
    let (dial, listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(endless(listener));
    let forgotten = client.send(Request::get(url("/"))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(310)).await;
    dial.wait_open(0).await;
    drop(forgotten);
    assert_eq!(client.stream_counts(), (0, 0));
}

#[tokio::test]
async fn cancelling_a_request_closes_its_stream() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let request = tokio::spawn({
        let client = client.clone();
        async move { client.send(Request::get(url("/"))).await.map(drop) }
    });
    let mut stream = listener.next().await;
    read_head(&mut stream).await;
    request.abort();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the peer sees the end");
    dial.wait_open(0).await;
    assert_eq!(client.stream_counts(), (0, 0));
}

#[tokio::test]
async fn redirects_are_followed_within_the_key_only() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    tokio::spawn(async move {
        let mut stream = listener.next().await;
        assert!(read_head(&mut stream).await.starts_with("POST /old "));
        let mut body = [0; 1];
        stream.read_exact(&mut body).await.unwrap();
        let found = "HTTP/1.1 303 See Other\r\nLocation: /new\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(found.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("GET /new "));
        stream.write_all(OK.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
        let out = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(out.as_bytes()).await.unwrap();
        let _ = stream.read_u8().await;
    });
    let mut post = Request::new(Method::POST, url("/old"));
    post.body = RequestBody::Full(Bytes::from_static(b"x"));
    let (last, response) = client.send_following(post).await.unwrap();
    assert_eq!((last.target(), response.status().as_u16()), ("/new", 200));
    drop(response.into_body().read_to_end(9).await.unwrap());
    let error = client.send_following(Request::get(url("/out"))).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("leaves DMSG"), "{error}");
}

#[tokio::test]
async fn a_get_keeps_its_body_of_unknown_length() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let pieces =
        futures_util::stream::iter([Ok(http_body::Frame::data(Bytes::from_static(b"ab")))]);
    let mut request = Request::get(url("/_search"));
    request.body = RequestBody::Stream(Box::pin(StreamBody::new(pieces)));
    tokio::spawn(async move { client.send(request).await.map(drop) });
    let mut stream = listener.next().await;
    assert!(read_head(&mut stream).await.contains("\r\nTransfer-Encoding: chunked\r\n"));
    let mut body = [0; 12];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"2\r\nab\r\n0\r\n\r\n");
}

/// Method, status and whether the body can be sent twice; the request at the new address, if there is one.
#[tokio::test]
async fn each_redirect_repeats_or_becomes_a_get_or_fails() {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        None,
        Full,
        Stream,
    }
    use Kind::{Full, None as Nothing, Stream};
    for (method, status, kind, expected) in [
        (Method::GET, 301, Nothing, Some("GET")),
        (Method::HEAD, 303, Nothing, Some("HEAD")),
        (Method::DELETE, 301, Nothing, Some("DELETE")),
        (Method::DELETE, 302, Nothing, Some("DELETE")),
        (Method::DELETE, 303, Nothing, Some("GET")),
        (Method::POST, 301, Full, Some("GET")),
        (Method::POST, 302, Stream, Some("GET")),
        (Method::PUT, 303, Stream, Some("GET")),
        (Method::PUT, 302, Full, Some("PUT")),
        (Method::POST, 307, Full, Some("POST")),
        (Method::PUT, 308, Full, Some("PUT")),
        (Method::PUT, 308, Stream, None),
        (Method::PUT, 302, Stream, None),
        (Method::POST, 307, Stream, None),
    ] {
        let (dial, mut listener) = pipe();
        let client = HttpClient::new(dial);
        let scripted = tokio::spawn(async move {
            let mut stream = listener.next().await;
            read_head(&mut stream).await;
            if kind != Nothing {
                stream.read_exact(&mut [0; 2]).await.unwrap();
            }
            let moved = format!(
                "HTTP/1.1 {status} Moved\r\nLocation: /new\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(moved.as_bytes()).await.unwrap();
            drop(stream);
            let mut stream = listener.next().await;
            let head = read_head(&mut stream).await;
            if head.contains("\r\nContent-Length: 2\r\n") {
                stream.read_exact(&mut [0; 2]).await.unwrap();
            }
            stream.write_all(OK.as_bytes()).await.unwrap();
            head
        });
        let mut request = Request::new(method.clone(), url("/old"));
        request.headers.insert("content-type", "text/plain".parse().unwrap());
        request.body = match kind {
            Nothing => RequestBody::Empty,
            Full => RequestBody::Full(Bytes::from_static(b"ab")),
            // Its length is known, so that the peer can tell when it has all.
            Stream => RequestBody::Stream(Box::pin(
                http_body_util::Full::new(Bytes::from_static(b"ab")).map_err(|e| match e {}),
            )),
        };
        let result = client.send_following(request).await;
        match expected {
            Some(method) => {
                assert_eq!(result.unwrap().1.status(), 200, "{method} {status}");
                let head = scripted.await.unwrap();
                assert!(head.starts_with(&format!("{method} /new ")), "{status}: {head}");
                assert_eq!(
                    head.contains("Content-Type"),
                    method != "GET" || kind == Nothing && status != 303
                );
            }
            None => {
                let error = result.err();
                assert!(
                    matches!(error, Some(HttpError::RedirectedBody(_))),
                    "{method} {status}: {error:?}"
                );
                scripted.abort();
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_read_on_is_the_senders_own_failure() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    tokio::spawn(async move {
        let mut stream = listener.next().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let pieces = futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"ab"))),
        Err(std::io::Error::other("the disk is gone").into()),
    ]);
    let mut request = Request::new(Method::PUT, url("/"));
    request.body = RequestBody::Stream(Box::pin(StreamBody::new(pieces)));
    let error = client.send(request).await.unwrap_err();
    assert!(matches!(error, HttpError::RequestBody(_)), "{error:?}");
    assert!(error.to_string().contains("the disk is gone"), "{error}");
}

#[tokio::test]
async fn limits_beyond_all_time_are_no_limits() {
    let (dial, mut listener) = pipe();
    let mut config = HttpConfig::default();
    config.head_timeout = Duration::MAX;
    config.body_timeout = Duration::MAX;
    config.total_timeout = Some(Duration::MAX);
    let client = HttpClient::with_config(dial, config);
    tokio::spawn(async move {
        let mut stream = listener.next().await;
        read_head(&mut stream).await;
        tokio::task::yield_now().await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(b"ok").await.unwrap();
        let _ = stream.read_u8().await;
    });
    assert_eq!(get(&client, "/").await.unwrap(), "ok");
}
