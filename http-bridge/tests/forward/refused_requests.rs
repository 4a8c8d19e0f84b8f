use axum::{Router, routing::get};

use crate::world::{World, host, socks};

/// What the proxy does not pass on, the status it answers, and a word of the reason.
#[tokio::test]
async fn each_gets_a_status_and_a_sentence() {
    let world = World::web(Router::new().route("/", get(async || "served"))).await;
    let host = host();
    let key = host.strip_suffix(".dmsg").unwrap();
    let off_curve = format!("02{}5.dmsg", "0".repeat(63));
    let absolute = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
    let cases: Vec<(String, &str, &str)> = vec![
        ("GET / HTTP/1.1\r\nHost: x\r\n".into(), "400", "DMSG proxy"),
        (absolute("example.org"), "403", "--allow-clearnet"),
        (absolute("127.0.0.1"), "403", "--allow-clearnet"),
        (absolute("short.dmsg"), "400", "public key"),
        (absolute(&off_curve), "400", "public key"),
        (absolute(&format!("{host}:9")), "502", "nobody listens"),
        (absolute(&format!("{host}:10")), "504", "timed out"),
        (format!("CONNECT {host}:10 HTTP/1.1\r\nHost: {host}:10\r\n"), "504", "timed out"),
        (format!("GET https://{host}/ HTTP/1.1\r\nHost: {host}\r\n"), "400", "CONNECT"),
        (absolute(&format!("{host}:99999")), "400", "port"),
        (absolute(&format!("{host}:0")), "400", "port"),
        (format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n"), "400", ""),
        (
            "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n".into(),
            "403",
            "--allow-clearnet",
        ),
        (format!("CONNECT {host}:9 HTTP/1.1\r\nHost: {host}:9\r\n"), "502", "nobody listens"),
        (format!("GET http://{host}/ HTTP/1.1\r\n"), "400", "Host"),
        (
            absolute(&host) + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "400",
            "Transfer-Encoding",
        ),
        (absolute(&host) + "Content-Length: 3\r\nContent-Length: 4\r\n", "400", ""),
        (absolute(&host) + "Content-Length: -1\r\n", "400", ""),
        (absolute(&host) + " folded: line\r\n", "400", ""),
        (absolute(&host) + "Bad Name: x\r\n", "400", ""),
        (absolute(&host) + &format!("X-Large: {}\r\n", "x".repeat(300_000)), "431", ""),
    ];
    for (head, status, word) in cases {
        let answer = world.exchange(head.clone() + "Connection: close\r\n\r\n").await;
        let line = answer.lines().next().unwrap_or_default().to_owned();
        let shown = &head[..head.len().min(200)];
        assert!(line.contains(status), "{shown:?} got {line:?}");
        assert!(answer.contains(word), "{shown:?}: {answer:?} does not say {word:?}");
        assert!(!answer.contains("served"), "{shown:?} was passed on");
    }
    // The target counts, and what a program took for the host does not: Node names the proxy there.
    let named = format!("GET http://{host}/ HTTP/1.1\r\nHost: {key}\r\nConnection: close\r\n\r\n");
    assert!(world.exchange(named).await.ends_with("served"));
    let served = world.exchange(absolute(&host) + "Connection: close\r\n\r\n").await;
    assert!(served.ends_with("served"), "{served}");
}

#[tokio::test]
async fn socks_requests_get_their_reply_codes() {
    let world = World::web(Router::new()).await;
    let host = host();
    for (host, port, reply) in [
        ("example.org", 80, 2),
        ("short.dmsg", 80, 4),
        (host.as_str(), 9, 4),
        (host.as_str(), 0, 4),
    ] {
        let answer = world.exchange(socks(host, port)).await.into_bytes();
        assert_eq!(answer[..4], [5, 0, 5, reply], "{host}:{port}");
    }
}
