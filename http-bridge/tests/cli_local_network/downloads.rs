//! `dmsg curl` against a service that plays a script: what is in the file afterwards, and what the program says of it.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Stdio,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    pattern,
    program::{LocalNetwork, Running, assert_exit, dmsg, stderr, stdout},
};

/// A service behind `serve --to` that answers one request after the other, each on a connection of its own.
struct Scripted {
    url: String,
    requests: JoinHandle<Vec<String>>,
    _serve: Running,
}

fn scripted(network: &LocalNetwork, answers: Vec<(String, Vec<u8>)>) -> Scripted {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", upstream.local_addr().unwrap());
    let requests = thread::spawn(move || {
        let mut seen = Vec::new();
        for (head, body) in answers {
            let (mut stream, _) = upstream.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let mut request = String::from_utf8(request).unwrap().to_lowercase();
            if let Some((_, rest)) = request.split_once("\r\ncontent-length: ") {
                let length = rest.lines().next().unwrap().parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                request += &String::from_utf8(body).unwrap();
            }
            seen.push(request);
            write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").unwrap();
            // Whoever has seen enough hangs up.
            let _ = stream.write_all(&body);
        }
        seen
    });
    let discovery = network.discovery.as_str();
    let mut serve =
        Running::start(&["serve", "--discovery", discovery, "--log", "warn", "--to", &target]);
    let url = format!("{}file", serve.line());
    Scripted { url, requests, _serve: serve }
}

fn part(first: usize, last: usize, total: usize, whole: &[u8]) -> (String, Vec<u8>) {
    let length = last + 1 - first;
    let head = format!(
        "206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes {first}-{last}/{total}\r\nContent-Length: {length}"
    );
    (head, whole[first..=last].to_vec())
}

#[test]
fn only_what_is_whole_counts_as_whole() {
    let network = LocalNetwork::start(&[]);
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    let whole = pattern(4_000);
    let short = whole[1_000..1_500].to_vec();
    let cut_range = format!(
        "206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes 1000-1999/4000\r\nContent-Length: {}",
        1000
    );
    let length = |status: &str, length: usize| format!("{status}\r\nContent-Length: {length}");
    let script = scripted(
        &network,
        vec![
            // A server may send less than the rest.
            part(5, 9, 100, &whole),
            part(10, 99, 100, &whole),
            // A part by itself that breaks off.
            (cut_range, short),
            (length("404 Not Found", 7), b"nothing".to_vec()),
            (length("200 OK", 11), b"01234567890".to_vec()),
            ("200 OK".to_owned(), b"01234567890".to_vec()),
            (length("200 OK", 11), Vec::new()),
            (length("200 OK\r\nX-Seen: 1", 3), b"abc".to_vec()),
        ],
    );
    let url = &script.url;
    let curl = |args: &[&str]| network.curl_in(here, &[args, &[url]].concat());
    let file = here.join("f");

    fs::write(&file, &whole[..5]).unwrap();
    let partial = curl(&["-C", "-", "-o", "f"]);
    assert_exit(&partial, 18);
    assert!(stderr(&partial).contains("holds the first 10 bytes"), "{}", stderr(&partial));
    let rest = curl(&["-C", "-", "-o", "f"]);
    assert_exit(&rest, 0);
    assert!(fs::read(&file).unwrap() == whole[..100]);

    let cut = curl(&["-r", "1000-1999", "-o", "r"]);
    assert_exit(&cut, 18);
    assert!(!stderr(&cut).contains("first"), "{}", stderr(&cut));
    assert!(!here.join(".r.dmsg-part").exists(), "nothing to go on with");

    let absent = curl(&["-C", "-", "-o", "absent"]);
    assert_exit(&absent, 33);
    assert!(!here.join("absent").exists(), "the text of an error is no beginning");

    // What is too large leaves the file alone, be its length stated or not.
    for _ in 0..2 {
        fs::write(&file, "precious").unwrap();
        assert_exit(&curl(&["--max-filesize", "10", "-o", "f"]), 63);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    let head = curl(&["-I", "-o", "f"]);
    assert_exit(&head, 0);
    assert_eq!(stdout(&head), "");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert_exit(&curl(&["-i", "-o", "f"]), 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("x-seen: 1\r\n") && text.ends_with("\r\n\r\nabc"), "{text}");

    let requests = script.requests.join().unwrap();
    assert!(requests[1].contains("\r\nrange: bytes=10-\r\n"), "{}", requests[1]);
    assert!(requests[6].starts_with("head "), "{}", requests[6]);
}

#[test]
fn stdin_is_read_once_and_neither_it_nor_stdout_holds_up_a_time_limit() {
    let network = LocalNetwork::start(&[]);
    let ok = |body: &str| {
        (format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes().to_vec())
    };
    let large = pattern(4_000_000);
    let script = scripted(
        &network,
        vec![ok("1"), ok("2"), (format!("200 OK\r\nContent-Length: {}", large.len()), large)],
    );
    let url = script.url.as_str();
    let curl = |args: &[&str]| {
        let mut command = dmsg(&["curl", "--discovery", &network.discovery]);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };

    let mut twice = curl(&["-d", "@-", url, url]);
    twice.stdin.take().unwrap().write_all(b"x").unwrap();
    let output = twice.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "12");

    // Nobody writes to its stdin; nobody reads its stdout.
    for arguments in [&["--max-time", "0.5", "-d", "@-", url][..], &["--max-time", "2", url]] {
        let begun = Instant::now();
        let mut stuck = curl(arguments);
        let (stdin, stdout) = (stuck.stdin.take(), stuck.stdout.take());
        let code = stuck.wait().unwrap().code();
        assert_eq!(code, Some(28), "{arguments:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        drop((stdin, stdout));
    }
    let requests = script.requests.join().unwrap();
    assert!(
        requests[0].ends_with("\r\n\r\nx") && requests[1].ends_with("\r\n\r\nx"),
        "{requests:?}"
    );
}
