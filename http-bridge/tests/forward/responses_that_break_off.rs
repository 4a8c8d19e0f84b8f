//! A part of a response must never pass for the whole.

use dmsg_http::forward::ForwardConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
