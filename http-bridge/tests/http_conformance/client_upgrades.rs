//! 101 Switching Protocols: the stream behind it is the caller's, for as long as he holds it.

use std::time::Duration;

use dmsg_http::http::{HttpClient, HttpConfig, HttpError, Reply};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
};

use crate::common::{PipeDial, PipeListener, pipe, read_head, url};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nfirst";

async fn ask(
    client: &HttpClient<PipeDial>,
    listener: &mut PipeListener,
) -> (DuplexStream, JoinHandle<Result<Reply, HttpError>>) {
    let request = client.get(url("/")).header("connection", "upgrade").header("upgrade", "chat");
    let sent = tokio::spawn(request.send());
    let mut stream = listener.next().await;
    let head = read_head(&mut stream).await;
    assert!(head.contains("\r\nUpgrade: chat\r\n"), "{head}");
    (stream, sent)
}

#[tokio::test(start_paused = true)]
async fn the_raw_stream_follows_a_101_and_is_never_reclaimed() {
    let (dial, mut listener) = pipe();
    let mut config = HttpConfig::default();
    config.streams_max = 1;
    let client = HttpClient::with_config(dial.clone(), config);
    let (mut peer, sent) = ask(&client, &mut listener).await;
    peer.write_all(SWITCH).await.unwrap();
    let reply = sent.await.unwrap().unwrap();
    assert_eq!(
        (reply.status().as_u16(), &reply.headers()["upgrade"]),
        (101, &"chat".parse().unwrap())
    );
    let mut ours = reply.upgrade().await.unwrap();
    let mut buffer = [0; 5];
    ours.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"first", "what came with the head is not lost");

    tokio::time::sleep(Duration::from_secs(3600)).await;
    let other = client.get(url("/")).send().await;
    assert!(matches!(other, Err(HttpError::StreamsExhausted { max: 1 })), "it keeps its place");
    ours.write_all(b"still").await.unwrap();
    peer.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"still");
    drop(ours);
    assert_eq!(peer.read(&mut buffer).await.unwrap(), 0);
    assert_eq!((client.stream_counts(), dial.open_count()), ((0, 0), 0));
}

#[tokio::test]
async fn a_peer_that_declines_answers_as_usual() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial);
    let (mut peer, sent) = ask(&client, &mut listener).await;
    peer.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    let reply = sent.await.unwrap().unwrap();
    assert_eq!(reply.status(), 426);
    assert!(matches!(reply.upgrade().await, Err(HttpError::Request(_))));
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_an_error_and_its_data_unread() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let sent = tokio::spawn(client.get(url("/")).send());
    let mut peer = listener.next().await;
    read_head(&mut peer).await;
    peer.write_all(SWITCH).await.unwrap();
    let error = sent.await.unwrap().unwrap_err();
    assert!(matches!(error, HttpError::Malformed { .. }), "{error}");
    dial.wait_open(0).await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_takes_is_closed() {
    let (dial, mut listener) = pipe();
    let client = HttpClient::new(dial.clone());
    let (mut peer, sent) = ask(&client, &mut listener).await;
    peer.write_all(SWITCH).await.unwrap();
    drop(sent.await.unwrap().unwrap());
    dial.wait_open(0).await;
    assert_eq!(client.stream_counts(), (0, 0));
}
