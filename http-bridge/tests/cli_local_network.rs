//! `local`, `serve`, `curl`, `server` and `discovery` as separate processes on loopback.
#![allow(clippy::unwrap_used)]

#[path = "cli_local_network/admin.rs"]
mod admin;
#[path = "cli_local_network/downloads.rs"]
mod downloads;
#[path = "cli_local_network/logging.rs"]
mod logging;
#[path = "common/program.rs"]
mod program;
#[path = "cli_local_network/serving_limits.rs"]
mod serving_limits;

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use program::{LocalNetwork, Running, assert_exit, dmsg, run, stderr, stdout};

/// Bytes that repeat at no power of two.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn serve_folder(network: &LocalNetwork, folder: &Path, extra: &[&str]) -> (Running, String) {
    let mut args = vec!["serve", "--discovery", &network.discovery, "--log", "warn", "--dir"];
    args.push(folder.to_str().unwrap());
    args.extend(extra);
    let mut program = Running::start(&args);
    let url = program.line();
    assert!(url.starts_with("dmsg://") && url.ends_with('/'), "{url}");
    (program, url)
}

#[test]
fn a_file_travels_whole_resumes_and_reports_what_it_cannot_do() {
    let network = LocalNetwork::start(&[]);
    let (site, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (site, here) = (site.path(), here.path());
    let big = pattern(5_000_003);
    fs::write(site.join("big"), &big).unwrap();
    fs::write(site.join("index.html"), "hello").unwrap();
    let (_program, url) = serve_folder(&network, site, &[]);
    let big_url = format!("{url}big");
    let got = here.join("got");
    let curl = |args: &[&str]| network.curl_in(here, args);

    // Whole, to stdout and to files.
    let output = curl(&[&url]);
    assert_exit(&output, 0);
    assert_eq!((&output.stdout[..], stderr(&output)), (&b"hello"[..], String::new()));
    let output = curl(&["-o", "got", &big_url]);
    assert_exit(&output, 0);
    assert_eq!((stdout(&output), stderr(&output)), (String::new(), String::new()));
    assert!(fs::read(&got).unwrap() == big);
    assert_exit(&curl(&["-O", &big_url]), 0);
    assert!(fs::read(here.join("big")).unwrap() == big);
    let two = curl(&[&url, &url]);
    assert_eq!(stdout(&two), "hellohello");

    // Resumed, and complete already.
    let complete = curl(&["-C", "-", "-o", "got", &big_url]);
    assert_exit(&complete, 0);
    fs::File::options().write(true).open(&got).unwrap().set_len(1_234_567).unwrap();
    assert_exit(&curl(&["-C", "-", "-o", "got", &big_url]), 0);
    assert!(fs::read(&got).unwrap() == big);
    fs::write(&got, [&big[..], b"more"].concat()).unwrap();
    assert_exit(&curl(&["-C", "-", "-o", "got", &big_url]), 33);

    // Parts, heads, and refusals.
    let part = curl(&["-r", "1000-1999", &big_url]);
    assert!(part.stdout == big[1000..2000]);
    let head = stdout(&curl(&["-I", &big_url]));
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 5000003"),
        "{head}"
    );
    let both = stdout(&curl(&["-i", &url]));
    assert!(both.starts_with("HTTP/1.1 200 OK\r\n") && both.ends_with("\r\n\r\nhello"), "{both}");
    let absent = format!("{url}absent");
    assert_exit(&curl(&[&absent]), 0);
    let failed = curl(&["-f", "-o", "absent", &absent]);
    assert_exit(&failed, 22);
    assert!(!here.join("absent").exists());
    assert_exit(&curl(&["--max-filesize", "1000", &big_url]), 63);
    assert_exit(&curl(&["-o", "/nonexistent/x", &url]), 23);
    assert_exit(&curl(&["-T", "/nonexistent/x", &url]), 26);
    let denied = curl(&["-d", "x", "-f", &url]);
    assert_exit(&denied, 22);
    assert!(stderr(&denied).contains("405"), "{}", stderr(&denied));
}

#[test]
fn an_interrupted_download_says_so_and_is_taken_up_unless_the_file_changed() {
    let network = LocalNetwork::start(&[]);
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    // A service that sends the first part and then stands still.
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("http://{}", upstream.local_addr().unwrap());
    let whole = pattern(300_000);
    let parts = whole.clone();
    let requests = thread::spawn(move || {
        let mut seen = Vec::new();
        for (head, body, holds) in [
            ("200 OK\r\nETag: \"v1\"\r\nContent-Length: 300000", &parts[..100_000], true),
            (
                "206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes 100000-299999/300000\r\n\
                 Content-Length: 200000",
                &parts[100_000..200_000],
                false,
            ),
            ("200 OK\r\nETag: \"v2\"\r\nContent-Length: 3", b"new", false),
        ] {
            let (mut stream, _) = upstream.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            seen.push(String::from_utf8(request).unwrap().to_lowercase());
            write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").unwrap();
            stream.write_all(body).unwrap();
            if holds {
                // Until the other side has given up.
                let _ = stream.read(&mut [0]);
            }
        }
        seen
    });
    let mut serve = Running::start(&[
        "serve",
        "--discovery",
        &network.discovery,
        "--log",
        "warn",
        "--to",
        &target,
    ]);
    let url = format!("{}file", serve.line());

    // 1: times out after 100 000 bytes.
    let stuck = network.curl_in(here, &["--max-time", "1.5", "-o", "file", &url]);
    assert_exit(&stuck, 28);
    assert!(stderr(&stuck).contains("holds the first 100000 bytes"), "{}", stderr(&stuck));
    assert!(fs::read(here.join("file")).unwrap() == whole[..100_000]);
    // 2: goes on, and is broken off by the service.
    let broken = network.curl_in(here, &["-C", "-", "-o", "file", &url]);
    assert_exit(&broken, 18);
    assert!(fs::read(here.join("file")).unwrap() == whole[..200_000]);
    // 3: the file has changed meanwhile: nothing of the old one stays.
    let fresh = network.curl_in(here, &["-C", "-", "-o", "file", &url]);
    assert_exit(&fresh, 0);
    assert_eq!(fs::read(here.join("file")).unwrap(), b"new");
    assert_eq!(fs::read_dir(here).unwrap().count(), 1, "no note is left over");

    let requests = requests.join().unwrap();
    assert!(!requests[0].contains("range:"), "{}", requests[0]);
    for (request, offset) in [(&requests[1], 100_000), (&requests[2], 200_000)] {
        assert!(request.contains(&format!("\r\nrange: bytes={offset}-\r\n")), "{request}");
        assert!(request.contains("\r\nif-range: \"v1\"\r\n"), "{request}");
    }
}

#[test]
fn only_listed_keys_may_call() {
    let network = LocalNetwork::start(&[]);
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("index.html"), "for friends").unwrap();
    let key_file = site.path().join("friend.key");
    let friend = stdout(&run(&["key", "new", "--out", key_file.to_str().unwrap()]));
    let (_program, url) = serve_folder(&network, site.path(), &["--allow", friend.trim()]);
    assert_exit(&network.curl(&["-f", &url]), 22);
    let output = network.curl(&["-f", "--secret-key-file", key_file.to_str().unwrap(), &url]);
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "for friends");
}

#[test]
fn the_discovery_is_reached_through_a_relay_without_plain_http() {
    let network = LocalNetwork::start(&[]);
    let args = ["curl", "--log", "warn", "--discovery", &network.dmsg_discovery, "--server"];
    let output = dmsg(&args).args([&network.relay, &network.web]).output().unwrap();
    assert_exit(&output, 0);
    assert!(stdout(&output).starts_with("<!doctype html>"));
    // And a peer that is found without any discovery: the page has a session with every relay.
    let output = run(&["curl", "--log", "warn", "--server", &network.relay, &network.web]);
    assert_exit(&output, 0);
    let health = format!("{}/health", network.dmsg_discovery);
    let output = run(&["curl", "--log", "warn", "--server", &network.relay, &health]);
    let health: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(health["dmsg_servers"].as_array().unwrap().len(), 2);
}

#[test]
fn the_page_shows_what_happens() {
    let network = LocalNetwork::start(&[]);
    assert_exit(&network.curl(&[&network.web]), 0);
    let output = network.curl(&[&format!("{}state.json", network.web)]);
    let state: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(state["discovery"]["servers"], 2);
    assert_eq!(state["discovery"]["sessions"], 2);
    assert_eq!(state["relays"].as_array().unwrap().len(), 2);
    let relayed: u64 = state["relays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["relayed_bytes"].as_u64().unwrap())
        .sum();
    assert!(relayed > 3000, "the page went through: {state}");
    assert!(state["web"]["requests"].as_u64().unwrap() >= 2);
}

#[test]
fn curl_is_silent_unless_it_is_asked_or_something_is_wrong() {
    let network = LocalNetwork::start(&[]);
    let curl = |args: &[&str]| {
        let args = [&["curl", "--discovery", &network.discovery], args, &[&network.web]].concat();
        let output = run(&args);
        assert_exit(&output, 0);
        assert!(stdout(&output).starts_with("<!doctype html>"));
        stderr(&output)
    };
    assert_eq!(curl(&[]), "");
    let verbose = curl(&["-v"]);
    for part in ["> GET / HTTP/1.1", "< HTTP/1.1 200 OK", "session is up"] {
        assert!(verbose.contains(part), "no {part:?} in {verbose}");
    }
    assert!(curl(&["--log", "info"]).contains("session is up"));
    assert!(!curl(&["-v", "--log", "off"]).contains("session is up"));
    // A suffix begins with a hyphen, like a flag.
    let tail = run(&["curl", "--discovery", &network.discovery, "-r", "-9", &network.web]);
    assert_exit(&tail, 0);
}

#[test]
fn the_printed_commands_work_as_they_are() {
    let network = LocalNetwork::start(&[]);
    // As printed, run by a shell in the folder in which `local` was started.
    for hint in &network.curl_hints {
        let output = Command::new("sh").args(["-c", hint]).output().unwrap();
        assert_exit(&output, 0);
        assert!(stdout(&output).starts_with("<!doctype html>"), "{hint}");
    }
}

#[test]
fn what_cannot_be_gone_on_with_is_not_offered_to_be() {
    let network = LocalNetwork::start(&[]);
    let output = network.curl(&["-o", "/dev/full", &network.web]);
    assert_exit(&output, 23);
    assert!(!stderr(&output).contains("--continue-at"), "{}", stderr(&output));
}

#[test]
fn a_peer_that_nobody_knows_ends_with_6_and_one_without_listener_with_7() {
    let network = LocalNetwork::start(&[]);
    let unknown = "dmsg://03af6d996f86b9bd3b0e0af7945176f63114a85e63fdf2cca4e945e1afa2fdb188/";
    assert_exit(&network.curl(&[unknown]), 6);
    let closed_port = format!("{}:4242/", network.web.trim_end_matches('/'));
    assert_exit(&network.curl(&[&closed_port]), 7);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let network = LocalNetwork::start(&[]);
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("big"), pattern(5_000_000)).unwrap();
    let (_program, url) = serve_folder(&network, site.path(), &[]);
    let mut child = dmsg(&["curl", "--discovery", &network.discovery, "--log", "warn"])
        .arg(format!("{url}big"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_signal_ends_each_program_within_two_seconds_with_0() {
    let network = LocalNetwork::start(&[]);
    let site = tempfile::tempdir().unwrap();
    let key = site.path().join("relay.key");
    let key = key.to_str().unwrap();
    assert_exit(&run(&["key", "new", "--out", key]), 0);
    let (serve, _) = serve_folder(&network, site.path(), &[]);
    let mut server = Running::start(&[
        "server",
        "--secret-key-file",
        key,
        "--listen",
        "127.0.0.1:0",
        "--discovery",
        &network.discovery,
        "--log",
        "warn",
    ]);
    let server_line = server.line();
    assert!(server_line.contains("@127.0.0.1:"), "{server_line}");
    let mut discovery = Running::start(&["discovery", "--listen", "127.0.0.1:0", "--log", "warn"]);
    assert!(discovery.line().starts_with("http://127.0.0.1:"));
    for (name, program, signal) in [
        ("serve", serve, "-TERM"),
        ("server", server, "-INT"),
        ("discovery", discovery, "-TERM"),
        ("local", network.program, "-INT"),
    ] {
        let (code, took, _) = program.stop(signal);
        assert_eq!(code, Some(0), "{name}");
        assert!(took < Duration::from_secs(2), "{name} took {took:?}");
    }
}

#[test]
fn server_discovery_and_serve_work_apart_from_local() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (relay_key, discovery_key, store) = (path("relay"), path("discovery"), path("store"));
    for key in [&relay_key, &discovery_key] {
        assert_exit(&run(&["key", "new", "--out", key]), 0);
    }
    let mut discovery = Running::start(&[
        "discovery",
        "--listen",
        "127.0.0.1:0",
        "--allow-loopback",
        "--store",
        &store,
        "--secret-key-file",
        &discovery_key,
        "--log",
        "warn",
    ]);
    let (http, over_dmsg) = (discovery.line(), discovery.line());
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut server = Running::start(&[
        "server",
        "--secret-key-file",
        &relay_key,
        "--listen",
        "127.0.0.1:0",
        "--discovery",
        &http,
        "--admin",
        &admin,
        "--log",
        "warn",
    ]);
    let relay = server.line();
    fs::write(folder.path().join("hello.txt"), "hello").unwrap();
    // The server registers behind its start; `serve` waits for it like any client.
    let mut serve = Running::start(&[
        "serve",
        "--discovery",
        &over_dmsg,
        "--server",
        &relay,
        "--dir",
        &path(""),
        "--log",
        "error",
    ]);
    let url = format!("{}hello.txt", serve.line());
    let output = run(&["curl", "--discovery", &http, "--log", "error", &url]);
    assert_exit(&output, 0);
    assert_eq!(stdout(&output), "hello");

    let metrics = Command::new("curl").args(["-s", &format!("http://{admin}/metrics")]).output();
    if let Ok(metrics) = metrics {
        for name in ["sessions", "connections", "receive_buffers_lent"] {
            let line = format!("\ndmsg_server_{name} ");
            assert!(stdout(&metrics).contains(&line), "{name}: {}", stdout(&metrics));
        }
    }
}
