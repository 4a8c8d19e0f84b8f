//! A part of a response must never pass for the whole.

use dmsg_http::forward::ForwardConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{World, host, run, words};

async fn origin_that_says(answer: &'static [u8]) -> World {
    World::raw(ForwardConfig::default(), move |mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_ends_with_its_code_for_a_partial_file() {
    for (answer, codes) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly a part"[..], &[18][..]),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nparts\r\n", &[18]),
        // Nothing of an answer, half a head, and no HTTP at all: a 502 of the proxy, which -f turns into 22.
        (b"", &[22]),
        (b"HTTP/1.1 200 OK\r\nContent-", &[22]),
        (b"SSH-2.0-OpenSSH\r\n\r\n", &[22]),
        // A length that some take for another one, or for none.
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfour", &[22]),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nfour", &[22]),
    ] {
        let world = origin_that_says(answer).await;
        let (proxy, url) = (format!("http://{}", world.proxy), format!("http://{}/", host()));
        let Some(output) = run("curl", words(&["-sSf", "-x", &proxy, &url])).await else { return };
        let code = output.status.code().unwrap();
        assert!(codes.contains(&code), "{:?}: exit {code}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_ended_by_its_close_is_whole() {
    let world = origin_that_says(b"HTTP/1.0 200 OK\r\n\r\nall of it").await;
    let (proxy, url) = (format!("http://{}", world.proxy), format!("http://{}/", host()));
    let Some(output) = run("curl", words(&["-sSf", "-x", &proxy, &url])).await else { return };
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"all of it"[..]));
}

/// Answers without a length, whose end only the stream's end could be, and whose stream breaks. `told` waits for a second
/// piece of the request before that.
async fn breaking(is_told: bool) -> World {
    World::raw(ForwardConfig::default(), move |mut stream| async move {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nonly a part").await;
        if is_told {
            let _ = stream.read(&mut request).await;
        }
        let _ = stream.set_zero_linger();
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_without_length_whose_stream_breaks_is_broken() {
    let world = breaking(true).await;
    for version in ["1.0", "1.1"] {
        let mut program = TcpStream::connect(world.proxy).await.unwrap();
        let ask = format!(
            "PUT http://{host}/ HTTP/{version}\r\nHost: {host}\r\nContent-Length: 1\r\nConnection: close\r\n\r\n",
            host = host()
        );
        program.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("only a part") {
            assert!(program.read_buf(&mut answer).await.unwrap() > 0);
        }
        // Its body tells the origin that we have the part.
        program.write_all(b"x").await.unwrap();
        let ended = program.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("\r\n0\r\n\r\n"), "HTTP/{version}: {answer:?} looks whole");
        let is_chunked = answer.to_lowercase().contains("\r\ntransfer-encoding: chunked\r\n");
        assert!(ended.is_err() || is_chunked, "HTTP/{version}: {answer:?} ended as if whole");
    }
    let world = breaking(false).await;
    let (proxy, url) = (format!("http://{}", world.proxy), format!("http://{}/", host()));
    for version in ["--http1.0", "--http1.1"] {
        let arguments = words(&["-sSf", version, "-x", &proxy, &url]);
        let Some(output) = run("curl", arguments).await else { return };
        // 22: the reset overtook the head, and the answer is a 502.
        assert!(matches!(output.status.code(), Some(18 | 22 | 56)), "{:?}", output.status);
    }
}

/// A program of HTTP/1.0 has no other sign of the end than the connection's; SOCKS has none at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_proxy_that_stops_cuts_is_broken() {
    let part = b"HTTP/1.1 200 OK\r\n\r\nonly a part";
    let mut world = World::raw(ForwardConfig::default(), move |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let _ = stream.write_all(part).await;
        // Until the proxy hangs up.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let host = host();
    let mut program = TcpStream::connect(world.proxy).await.unwrap();
    let ask = format!("GET http://{host}/ HTTP/1.0\r\nHost: {host}\r\n\r\n");
    program.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("only a part") {
        assert!(program.read_buf(&mut answer).await.unwrap() > 0);
    }
    let mut tunnel = world.socks(&host, 80).await.unwrap();
    tunnel.write_all(b"x").await.unwrap();
    tunnel.read_exact(&mut vec![0; part.len()]).await.unwrap();
    world.stop().await;
    program.read_to_end(&mut answer).await.expect_err("it ended as if whole");
    tunnel.read_to_end(&mut answer).await.expect_err("it ended as if whole");
    TcpStream::connect(world.proxy).await.expect_err("the port is free");
}
