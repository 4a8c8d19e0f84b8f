//! What is logged: it holds nobody up, names no secret, and is short.

use std::{fs, io::Write};

use crate::{
    program::{LocalNetwork, assert_exit, stdout},
    serve_folder,
};

/// Threat 40. The pipe is full from the start: whoever writes to it waits, unless it does not care.
#[test]
fn a_stderr_that_nobody_reads_holds_nobody_up() {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe takes.
    writer.write_all(&[b'.'; 64 * 1024]).unwrap();
    let network = LocalNetwork::start_to(&["--log", "trace"], writer.into());
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("index.html"), "hello").unwrap();
    let (_serve, url) = serve_folder(&network, site.path(), &[]);
    for _ in 0..3 {
        let output = network.curl(&["--max-time", "20", &url]);
        assert_exit(&output, 0);
        assert_eq!(stdout(&output), "hello");
    }
    // It still ends in time, too.
    let (code, took, _) = network.program.stop("-TERM");
    assert_eq!(code, Some(0));
    assert!(took.as_secs() < 5, "{took:?}");
}

/// Threat 34. Everything that is logged at all, of a network and what runs over it, with keys that are known.
#[test]
fn no_log_at_any_level_has_a_secret_key_in_it() {
    let (folder, site) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, home) = (folder.path().join("log"), folder.path().join("home"));
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let stderr = fs::File::create(&log).unwrap();
    let network = LocalNetwork::start_to(&["--log", "trace", "--dir", &path(&home)], stderr.into());
    let token = "4f".repeat(32);
    fs::write(site.path().join("index.html"), &token).unwrap();
    let (_serve, url) = serve_folder(&network, site.path(), &[]);
    let secret = "5d".repeat(32);
    for args in [&["-v"][..], &["-v", "-d", "body"]] {
        let mut curl = crate::dmsg(&["curl", "--discovery", &network.discovery, "--log", "trace"]);
        let output = curl.args(args).arg(&url).env("DMSG_SECRET_KEY", &secret).output().unwrap();
        assert_exit(&output, 0);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.lines().count() > 10 && !said.contains(&secret[..32]), "{said}");
    }
    let (code, ..) = network.program.stop("-TERM");
    assert_eq!(code, Some(0));
    let text = fs::read_to_string(&log).unwrap().to_lowercase();
    assert!(text.lines().count() > 100, "{} lines of everything?", text.lines().count());
    let secrets = secrets_below(&home);
    assert!(secrets.len() >= 9, "two relays and seven services have keys: {}", secrets.len());
    for secret in secrets {
        // In hex, and as Rust and Go print bytes.
        let bytes: Vec<String> = (0..secret.len() / 2)
            .map(|at| u8::from_str_radix(&secret[2 * at..2 * at + 2], 16).unwrap().to_string())
            .collect();
        for form in [secret[..32].to_owned(), bytes[..16].join(", "), bytes[..16].join(" ")] {
            assert!(!text.contains(&form), "a secret key is in the log");
        }
    }
}

/// Every line of 64 hex digits in the files below a folder.
fn secrets_below(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(secrets_below(&entry.path()));
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            let is_key =
                |line: &&str| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit());
            found.extend(text.lines().map(str::trim).filter(is_key).map(str::to_lowercase));
        }
    }
    found
}

/// User wishes 65 and 66. What happens all the time is not said at `info`.
#[test]
fn requests_add_no_line_at_info() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let network = LocalNetwork::start(&[]);
    let path = folder.path().to_str().unwrap().to_owned();
    let mut command = crate::dmsg(&["serve", "--discovery", &network.discovery, "--dir", &path]);
    command.env_remove("RUST_LOG");
    let stderr = fs::File::create(&log).unwrap();
    let mut serve = crate::program::Running::spawn_to(command, stderr.into());
    let url = serve.line();
    let lines = || fs::read_to_string(&log).unwrap();
    assert_exit(&network.curl(&[&url]), 0);
    let before = lines();
    assert!((2..=12).contains(&before.lines().count()), "a dozen lines at the start: {before}");
    for _ in 0..5 {
        assert_exit(&network.curl(&["-f", &format!("{url}nothing")]), 22);
        assert_exit(&network.curl(&[&url, &url, &url]), 0);
    }
    // Twenty requests; a change of state may fall into their time.
    let after = lines();
    assert!(after.lines().count() <= before.lines().count() + 3, "{after}");
}
