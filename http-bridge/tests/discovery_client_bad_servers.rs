//! The client against servers that answer anything but the API: each ends in a typed error, in time.
#![allow(clippy::unwrap_used)]

mod discovery_common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use discovery_common::{key, secret, signed};
use dmsg_http::discovery::{ClientError, ClientOptions, DiscoveryClient, Entry, EntryError};
use dmsg_http::transport::{TcpTransport, TransportError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server that gives these answers, one a connection, the last one for ever; it does not read what it is sent
/// beyond the head.
struct Canned {
    base: String,
    answers: Arc<Vec<Answer>>,
    served: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Bytes(Bytes),
    /// Sends the first bytes, then holds the connection open.
    Hang(Bytes),
    /// Sends the first bytes, then the second again and again.
    Endless(Bytes, Bytes),
}

async fn canned(answers: Vec<Answer>) -> Canned {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (answers, served) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    let canned = Canned { base, answers: Arc::clone(&answers), served: Arc::clone(&served) };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let index = served.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
            let answer = answers[index].clone();
            tokio::spawn(async move {
                read_head(&mut stream).await;
                match answer {
                    Answer::Bytes(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                    }
                    Answer::Hang(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        std::future::pending::<()>().await;
                    }
                    Answer::Endless(first, more) => {
                        let _ = stream.write_all(&first).await;
                        while stream.write_all(&more).await.is_ok() {}
                    }
                }
            });
        }
    });
    canned
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

fn http(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    );
    Answer::Bytes(text.into())
}

impl Canned {
    fn client(&self) -> DiscoveryClient {
        let options =
            ClientOptions { exchange_timeout: Duration::from_millis(500), ..Default::default() };
        DiscoveryClient::new(&self.base, Arc::new(TcpTransport::new()), options).unwrap()
    }

    async fn entry_error(&self) -> ClientError {
        self.client().entry(key("c")).await.unwrap_err()
    }
}

async fn error_of(answer: Answer) -> ClientError {
    canned(vec![answer]).await.entry_error().await
}

#[tokio::test]
async fn errors_of_proxies_are_quoted_not_parsed() {
    let html = "<html><body>Internal Server Error</body></html>";
    for status in ["500 Internal Server Error", "502 Bad Gateway", "503 Busy", "301 Elsewhere"] {
        let error = error_of(http(status, "content-type: text/html\r\n", html)).await;
        let ClientError::Unavailable { status: got, text, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(status.starts_with(got.as_str()) && text.starts_with("<html>"));
        assert!(error.is_transient());
    }
    let long = "é".repeat(5000);
    let ClientError::Unavailable { text, .. } = error_of(http("500 X", "", &long)).await else {
        panic!("not quoted")
    };
    assert!(text.len() <= 130);
}

#[tokio::test]
async fn every_message_of_the_protocol_becomes_its_error() {
    for expected in EntryError::ALL {
        let body = format!(r#"{{"code":{},"message":"{expected}"}}"#, expected.status().as_u16());
        let status = format!("{} X", expected.status().as_u16());
        let error = error_of(http(&status, "", &body)).await;
        assert_eq!(error, ClientError::Refused(expected));
    }
    let error = error_of(http("422 X", "", r#"{"message":"a rule of tomorrow"}"#)).await;
    assert!(matches!(error, ClientError::Unavailable { .. }));
}

#[tokio::test]
async fn a_plain_text_429_is_waited_out_once_if_it_is_short() {
    let entry = signed(Entry::client(key("c"), vec![key("s")]), "c");
    let limited = |wait: &str| {
        http(
            "429 Too Many Requests",
            &format!("content-type: text/plain\r\nretry-after: {wait}\r\n"),
            "rate limit exceeded",
        )
    };
    let server = canned(vec![limited("0"), http("200 OK", "", &entry)]).await;
    assert_eq!(server.client().entry(key("c")).await.unwrap().raw.text(), entry);

    let server = canned(vec![limited("60"), http("200 OK", "", &entry)]).await;
    let retry_after = Duration::from_secs(60);
    assert_eq!(server.entry_error().await, ClientError::RateLimited { retry_after });
    assert_eq!(server.served.load(Ordering::SeqCst), 1);

    let server = canned(vec![limited("0")]).await;
    let retry_after = Duration::ZERO;
    assert_eq!(server.entry_error().await, ClientError::RateLimited { retry_after });
    assert_eq!(server.served.load(Ordering::SeqCst), 2);
    assert_eq!(server.answers.len(), 1);
}

#[tokio::test]
async fn a_200_that_is_no_answer_is_malformed() {
    for body in ["", "<html>", "{", "[]", "null", r#"{"static":"zz"}"#, "\u{0}"] {
        let error = error_of(http("200 OK", "", body)).await;
        assert!(matches!(error, ClientError::Malformed { .. }), "{body}: {error:?}");
    }
    let server = canned(vec![http("200 OK", "", "<html>")]).await;
    let client = server.client();
    assert!(matches!(client.all_servers().await, Err(ClientError::Malformed { .. })));
    assert!(matches!(client.client_keys().await, Err(ClientError::Malformed { .. })));
    assert!(matches!(client.clients_by_server().await, Err(ClientError::Malformed { .. })));
    assert!(matches!(client.entries_of(&[key("a")]).await, Err(ClientError::Malformed { .. })));
    assert!(matches!(client.health().await, Err(ClientError::Malformed { .. })));
}

#[tokio::test]
async fn what_is_no_http_breaks_the_exchange() {
    for bytes in ["SSH-2.0-OpenSSH\r\n", "", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort"] {
        let error = error_of(Answer::Bytes(bytes.into())).await;
        assert!(
            matches!(error, ClientError::Transport(TransportError::Exchange(_))),
            "{bytes}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_silent_and_a_stalling_server_are_left_in_time() {
    for first in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
        let error = error_of(Answer::Hang(first.into())).await;
        let expected = TransportError::Timeout(Duration::from_millis(500));
        assert_eq!(error, ClientError::Transport(expected), "{first}");
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let head = Bytes::from("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    let chunk = Bytes::from(format!("1000\r\n{}\r\n", "x".repeat(4096)));
    let error = error_of(Answer::Endless(head, chunk)).await;
    assert!(matches!(error, ClientError::Transport(TransportError::BodyTooLarge(_))), "{error:?}");
    let head = Bytes::from("HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n");
    let error = error_of(Answer::Endless(head, "y".repeat(4096).into())).await;
    assert!(matches!(error, ClientError::Transport(TransportError::BodyTooLarge(_))), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_and_another_scheme_have_errors_of_their_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = |base: &str| {
        DiscoveryClient::new(base, Arc::new(TcpTransport::new()), ClientOptions::default()).unwrap()
    };
    let error = client(&base).entry(key("c")).await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(TransportError::Connect(_))), "{error:?}");
    let base = format!("dmsg://{}:80", key("disc"));
    let error = client(&base).entry(key("c")).await.unwrap_err();
    let ClientError::Transport(TransportError::UnsupportedScheme(_)) = error else {
        panic!("{error:?}")
    };
    assert!(!error.is_transient());
    assert!(error.to_string().contains("http:// and https:// only"));
}

#[tokio::test]
async fn entries_of_others_and_unsigned_ones_are_not_believed() {
    let client_entry = Entry::client(key("c"), vec![key("s")]);
    let good = signed(client_entry.clone(), "c");
    let wrong_key = signed(Entry::client(key("x"), Vec::new()), "x");
    assert_eq!(error_of(http("200 OK", "", &wrong_key)).await, ClientError::WrongKey(key("c")));
    let altered = good.replace(&key("s").to_string(), &key("t").to_string());
    for body in [client_entry.to_text(), altered, signed(client_entry, "x")] {
        assert_eq!(error_of(http("200 OK", "", &body)).await, ClientError::Unverified(key("c")));
    }
    // A server's entry is usable with the discovery's label, and even unverified.
    let mut server = Entry::server(key("c"), "203.0.113.1:1", 1);
    server.sign(&secret("c"));
    server.server.as_mut().unwrap().server_type = "community".into();
    let fetch = async |body: String| {
        let server = canned(vec![http("200 OK", "", &body)]).await;
        server.client().entry(key("c")).await.unwrap().verified
    };
    assert!(fetch(server.to_text()).await);
    server.server.as_mut().unwrap().address.push('1');
    assert!(!fetch(server.to_text()).await);
}

#[tokio::test]
async fn one_bad_element_does_not_spoil_a_list() {
    let good = signed(Entry::server(key("s"), "203.0.113.1:1", 1), "s");
    let client = signed(Entry::client(key("c"), Vec::new()), "c");
    let list = format!("[7,{{}},null,{good},{{\"static\":\"zz\"}},{client}]");
    let server = canned(vec![http("200 OK", "", &list)]).await;
    let servers = server.client().all_servers().await.unwrap();
    assert_eq!(servers.len(), 1);
    assert_eq!(servers[0].raw.text(), good);

    let altered = client.replace("0.0.1", "0.0.2");
    let map = format!(
        "{{\"{c}\":{client},\"{x}\":{client},\"{a}\":{altered},\"?\":1}}",
        c = key("c"),
        x = key("x"),
        a = key("a")
    );
    let server = canned(vec![http("200 OK", "", &map)]).await;
    let found = server.client().entries_of(&[key("c"), key("x"), key("a")]).await.unwrap();
    assert_eq!(found.into_keys().collect::<Vec<_>>(), [key("c")]);
    // What was not asked for is not taken.
    let found = server.client().entries_of(&[key("x")]).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test]
async fn lists_of_clients_may_be_keys_or_entries() {
    let entry = signed(Entry::client(key("b"), Vec::new()), "b");
    let list = format!("[\"{}\",{entry},\"no key\",7]", key("a"));
    let server = canned(vec![http("200 OK", "", &list)]).await;
    let clients = server.client().clients_of(key("s")).await.unwrap();
    assert_eq!(clients, [key("a"), key("b")]);

    let map = format!("{{\"{}\":{list},\"{}\":null,\"?\":[]}}", key("s"), key("t"));
    let server = canned(vec![http("200 OK", "", &map)]).await;
    let map = server.client().clients_by_server().await.unwrap();
    assert_eq!(map.len(), 2);
    assert_eq!(map[&key("s")], [key("a"), key("b")]);

    let server = canned(vec![http("200 OK", "", "null")]).await;
    assert!(server.client().clients_of(key("s")).await.unwrap().is_empty());
    assert!(server.client().client_keys().await.unwrap().is_empty());
}
