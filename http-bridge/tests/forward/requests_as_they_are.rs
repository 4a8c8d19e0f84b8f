//! What of a request must arrive as the program sent it.

use std::sync::{Arc, Mutex};

use dmsg_http::forward::{ForwardConfig, clearnet::Clearnet};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::world::{World, host};

type Record = Arc<Mutex<Vec<u8>>>;

/// Notes what comes, and answers once that ends with `end`.
async fn note(mut stream: TcpStream, record: Record, end: &'static [u8]) {
    let mut seen = Vec::new();
    while !seen.ends_with(end) && matches!(stream.read_buf(&mut seen).await, Ok(1..)) {}
    record.lock().unwrap().extend(seen);
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let _ = stream.write_all(ok).await;
}

/// A proxy whose origin records requests.
async fn recording(end: &'static [u8]) -> (World, Record) {
    let record = Record::default();
    let noting = Arc::clone(&record);
    let config = ForwardConfig { clearnet: Clearnet::Any, ..ForwardConfig::default() };
    let world = World::raw(config, move |stream| note(stream, Arc::clone(&noting), end)).await;
    (world, record)
}

fn taken(record: &Record) -> String {
    String::from_utf8(std::mem::take(&mut *record.lock().unwrap())).unwrap()
}

#[tokio::test]
async fn a_get_keeps_its_chunked_body() {
    let end = b"0\r\n\r\n";
    let (world, record) = recording(end).await;
    // The same over TCP.
    let outside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = outside.local_addr().unwrap().to_string();
    let noting = Arc::clone(&record);
    tokio::spawn(async move {
        while let Ok((stream, _)) = outside.accept().await {
            tokio::spawn(note(stream, Arc::clone(&noting), end));
        }
    });
    for host in [host(), address] {
        for method in ["GET", "HEAD", "POST"] {
            let ask = format!(
                "{method} http://{host}/_search HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\
                 Connection: close\r\n\r\n1\r\na\r\n0\r\n\r\n"
            );
            let answer = world.exchange(ask).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let got = taken(&record);
            let head = got.to_lowercase();
            assert!(head.contains("\r\ntransfer-encoding: chunked\r\n"), "{got}");
            assert!(got.ends_with("\r\n\r\n1\r\na\r\n0\r\n\r\n"), "{got}");
        }
    }
}

/// Programs sign targets, and send what no URL of ours could hold.
#[tokio::test]
async fn targets_arrive_byte_for_byte() {
    let (world, record) = recording(b"\r\n\r\n").await;
    let host = host();
    let long = format!("/saml?{}", "a".repeat(20_000));
    for target in ["/a?x[]=1|2", "/100%", "/a%2fb/../c?d=%zz", "/a\"b{c}", "/?a=//b?c", &long] {
        let ask = format!(
            "GET http://{host}{target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        let answer = world.exchange(ask).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        let got = taken(&record);
        assert!(got.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{target}: {got}");
    }
}

/// Said hop by hop, and needed by services that send trailers to nobody who does not say so.
#[tokio::test]
async fn that_trailers_are_taken_is_said_on() {
    let (world, record) = recording(b"\r\n\r\n").await;
    let host = host();
    let ask = format!(
        "GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n"
    );
    let answer = world.exchange(ask).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let got = taken(&record).to_lowercase();
    assert!(
        got.contains("\r\nte: trailers\r\n") && got.contains("\r\nconnection: te\r\n"),
        "{got}"
    );
}

/// As curl leaves them behind, other programs do not.
#[tokio::test]
async fn a_name_and_password_are_for_the_program_and_its_own_name_is_its_own() {
    let (world, record) = recording(b"\r\n\r\n").await;
    let host = host();
    let ask = |head: &str| {
        format!(
            "GET http://me:secret@{host}/ HTTP/1.1\r\nHost: {host}\r\n{head}Connection: close\r\n\r\n"
        )
    };
    for (said, agents) in [("", 0), ("User-Agent: mine\r\n", 1)] {
        let answer = world.exchange(ask(said)).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let got = taken(&record).to_lowercase();
        assert!(!got.contains("secret"), "{got}");
        assert_eq!(got.matches("user-agent: ").count(), agents, "{got}");
        assert_eq!(got.matches("user-agent: mine\r\n").count(), agents, "{got}");
    }
}
