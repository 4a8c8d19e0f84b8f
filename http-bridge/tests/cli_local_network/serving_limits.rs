//! `serve --to` over a real network: its limits of bodies and of its own end, and answers that break off.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::program::{LocalNetwork, Running, assert_exit, stderr, stdout};

/// A service whose every connection is handled so.
fn service(handle: impl Fn(TcpStream) + Send + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, handle) = (stream.unwrap(), handle.clone());
            thread::spawn(move || handle(stream));
        }
    });
    target
}

fn head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        seen.push(byte[0]);
    }
}

fn start(network: &LocalNetwork, target: &str, extra: &[&str]) -> (Running, String) {
    let args = ["serve", "--discovery", &network.discovery, "--log", "warn", "--to", target];
    let mut program = Running::start(&[&args[..], extra].concat());
    let url = program.line();
    (program, url)
}

#[test]
fn a_body_beyond_max_body_is_a_413_and_a_broken_answer_is_18() {
    let network = LocalNetwork::start(&[]);
    let target = service(|mut stream| {
        head(&mut stream);
        // The head, one chunk, and then nothing more: all in one write.
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nparts\r\n");
    });
    let (_serve, url) = start(&network, &target, &["--max-body", "10"]);
    for _ in 0..5 {
        let cut = network.curl(&[&url]);
        assert_exit(&cut, 18);
        assert_eq!(stdout(&cut), "parts", "what came is there: {}", stderr(&cut));
    }
    let refused = network.curl(&["-f", "-d", "01234567890", &url]);
    assert_exit(&refused, 22);
    assert!(stderr(&refused).contains("413"), "{}", stderr(&refused));
}

#[test]
fn requests_under_way_may_finish_within_drain_and_no_longer() {
    let network = LocalNetwork::start(&[]);
    let (asked, is_asked) = mpsc::channel();
    // Answers a second after it was asked.
    let target = service(move |mut stream| {
        head(&mut stream);
        asked.send(()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = stream.read(&mut [0]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        let _ = stream.read(&mut [0]);
    });
    for (drain, is_answered) in [("8", true), ("0.2", false)] {
        let (serve, url) = start(&network, &target, &["--drain", drain]);
        thread::scope(|scope| {
            let (network, url) = (&network, &url);
            let asking = scope.spawn(move || network.curl(&[url]));
            is_asked.recv().unwrap();
            let (code, took, _) = serve.stop("-TERM");
            let output = asking.join().unwrap();
            assert_eq!(
                output.status.success(),
                is_answered,
                "--drain {drain}: {}",
                stderr(&output)
            );
            if is_answered {
                assert_eq!(stdout(&output), "late");
            }
            assert_eq!(code, Some(0));
            assert!(took < Duration::from_secs(6), "--drain {drain} took {took:?}");
        });
    }
}
