//! What the program does before it touches a network: arguments, environment, configuration file,
//! exit codes, and nothing but data on stdout.
#![allow(clippy::unwrap_used)]

#[path = "common/program.rs"]
mod program;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use program::{assert_exit, dmsg, run, stderr, stdout};

const KEY: &str = "03af6d996f86b9bd3b0e0af7945176f63114a85e63fdf2cca4e945e1afa2fdb188";

#[test]
fn bad_arguments_end_with_2_and_say_so_on_stderr_only() {
    let url = format!("dmsg://{KEY}/");
    for args in [
        &["nonsense"][..],
        &["curl"],
        &["curl", "--nonsense", &url],
        &["curl", &url],
        &["curl", "--server", "x@y", &url],
        &["curl", "--server", &format!("{KEY}@host"), &url],
        &["curl", "--discovery", &url, &url],
        &["curl", "--discovery", "http://x", "-H", "no colon", &url],
        &["curl", "--discovery", "http://x", "-X", "B AD", &url],
        &["curl", "--discovery", "http://x", "-C", "-", &url],
        &["curl", "--discovery", "http://x", "-C", "x", "-o", "f", &url],
        &["curl", "--discovery", "http://x", "-o", "f", &url, &url],
        &["curl", "--discovery", "http://x", "-T", "-", &url, &url],
        &["curl", "--discovery", "http://x", "-C", "-", "-i", "-o", "f", &url],
        &["curl", "--discovery", "http://x", "--max-time", "1e19", &url],
        &[
            "serve",
            "--discovery",
            "http://x",
            "--to",
            "http://127.0.0.1:1",
            "--answer-timeout",
            "0",
        ],
        &[
            "serve",
            "--discovery",
            "http://x",
            "--to",
            "http://127.0.0.1:1",
            "--answer-timeout",
            "1e19",
        ],
        &["proxy", "--discovery", "http://x", "--connections", "10000000000000000000"],
        &["proxy", "--discovery", "http://x", "--connections", "0"],
        &["proxy", "--discovery", "http://x", "--answer-timeout", "1e19"],
        &["curl", "--discovery", "http://x", "--max-time", "-1", &url],
        &["serve", "--discovery", "http://x"],
        &["serve", "--discovery", "http://x", "--dir", ".", "--to", "http://127.0.0.1:1"],
        &["serve", "--discovery", "http://x", "--to", "http://10.0.0.1:1"],
        &["serve", "--discovery", "http://x", "--dir", ".", "--allow", "mistyped"],
        &["serve", "--discovery", "http://x", "--dir", ".", "--port", "0"],
        &["server"],
        &["key", "public"],
        &["key", "show", "--log", "((("],
        &["key", "new", "--log", "loud"],
        &["key", "new", "--log", ""],
        &["key", "new", "--log", "info,loud"],
        &["curl", "--discovery", "http://x", "-r", "abc", &url],
        &["curl", "--discovery", "http://x", "-r", "5-2", &url],
        &["curl", "--discovery", "http://x", "-r", "+0-4", &url],
        &["curl", "--discovery", "http://x", "-o", "f", "-C", "half", &url],
        &["curl", "--discovery", "http://x", "--connect-timeout", "0", &url],
        &["curl", "--discovery", "http://x", "--sessions", "-1", &url],
        &["serve", "--discovery", "http://x", "--to", "http://127.0.0.1:99999"],
        &["serve", "--discovery", "http://x", "--to", "http://127.0.0.1:0"],
    ] {
        let output = run(args);
        assert_exit(&output, 2);
        assert_eq!(stdout(&output), "", "{args:?}");
        assert_ne!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn bad_urls_end_with_3() {
    for url in ["http://x/", "dmsg://mistyped/", &format!("dmsg://{KEY}:99999/"), KEY] {
        let output = run(&["curl", "--discovery", "http://127.0.0.1:1", url]);
        assert_exit(&output, 3);
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn addresses_of_a_discovery_are_checked_before_anything_is_dialled() {
    let url = format!("dmsg://{KEY}/");
    for (discovery, needle) in [
        ("x", "no URL"),
        ("ftp://x", "\"ftp\""),
        ("https://x", "\"https\""),
        ("http://", "no base address"),
        ("http://127.0.0.1:99999", "port"),
        ("http://127.0.0.1:0", "port"),
        ("http://user:secret@x", "user name"),
        ("http://x/?a=b", "query"),
    ] {
        let output = run(&["curl", "--discovery", discovery, &url]);
        assert_exit(&output, 3);
        assert!(stderr(&output).contains(needle), "{discovery}: {}", stderr(&output));
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn an_address_that_is_no_redis_is_an_argument_and_its_password_is_not_repeated() {
    for url in [
        "http://user:secret@x",
        "x",
        "",
        "redis://",
        "redis://user:secret@x:99999",
        "rediss://user:secret@x",
    ] {
        let output = run(&["discovery", "--listen", "127.0.0.1:0", "--redis", url]);
        assert_exit(&output, 2);
        assert!(!stderr(&output).contains("secret"), "{url}: {}", stderr(&output));
    }
}

#[test]
fn a_server_finds_out_what_is_wrong_before_it_tells_anybody_its_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (args, code, needle) in [
        (&["--discovery", "dmsg://x"][..], 3, "invalid host address"),
        (&["--discovery", "https://x"], 3, "\"https\""),
        (&["--discovery", "http://x:99999"], 3, "port"),
        (&["--public-address", "x"], 2, "HOST:PORT"),
        (&["--public-address", "x:0"], 2, "1 to 65535"),
        (&["--public-address", "::1:80"], 2, "[IPv6]"),
        (&["--public-address", ":80"], 2, "no host"),
        (&["--sessions-max", "0"], 2, "--sessions-max"),
        (&["--threads", "0"], 2, "--threads"),
        (&["--cpus", "0,x"], 2, "0,2-3"),
        (&["--cpus", "3-1"], 2, "above its end"),
        (&["--cpus", "1023"], 1, "CPU 1023"),
        (&["--admin", &taken], 1, "admin page"),
        (&["--discovery", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"], 2, "--public-address"),
    ] {
        let listen: &[&str] =
            if args.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut server = dmsg(&["server"]);
        server.args(listen).args(args).env("DMSG_SECRET_KEY", "11".repeat(32));
        let output = server.output().unwrap();
        assert_exit(&output, code);
        assert_eq!(stdout(&output), "", "{args:?}");
        assert!(stderr(&output).contains(needle), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_discovery_without_http_needs_a_key_and_a_first_server() {
    let server = format!("{KEY}@127.0.0.1:1");
    for (args, needle) in
        [(&["--dmsg-only"][..], "--server"), (&["--dmsg-only", "--server", &server], "secret key")]
    {
        let output = run(&[&["discovery"], args].concat());
        assert_exit(&output, 2);
        assert!(stderr(&output).contains(needle), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn help_is_data_and_lists_the_exit_codes() {
    let output = run(&["--help"]);
    assert_exit(&output, 0);
    assert_eq!(stderr(&output), "");
    for (code, what) in [(0, "done"), (2, "bad arguments"), (18, "broke off"), (33, "range")] {
        let listed = stdout(&output)
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{code}  ")) && line.contains(what));
        assert!(listed, "{code} {what}");
    }
}

#[test]
fn the_documents_list_the_same_exit_codes() {
    let help = stdout(&run(&["--help"]));
    let codes = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim_start_matches(['|', ' ']).split([' ', '|']).next())
            .filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()))
            .map(str::to_owned)
            .collect()
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let document = fs::read_to_string(path).unwrap();
    let table = document.split("## Exit codes").nth(1).unwrap();
    assert!(codes(&help).len() > 10);
    assert_eq!(codes(&help), codes(table.split("\n## ").next().unwrap()));
}

#[test]
fn keys_are_made_kept_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.key");
    let file = path.to_str().unwrap();
    let made = run(&["key", "new", "--out", file]);
    assert_exit(&made, 0);
    assert_eq!(stdout(&made).trim().len(), 66);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let public = run(&["key", "public", "--secret-key-file", file]);
    assert_eq!(stdout(&public), stdout(&made));

    let before = fs::read(&path).unwrap();
    let again = run(&["key", "new", "--out", file]);
    assert_exit(&again, 23);
    assert!(stderr(&again).contains("never overwritten"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_secret_key_comes_by_file_environment_or_under_protest_as_argument() {
    let secret = "11".repeat(32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    fs::write(&path, format!("{secret}\n")).unwrap();
    let by_file = run(&["key", "public", "--secret-key-file", path.to_str().unwrap()]);
    assert!(stderr(&by_file).contains("chmod 600"), "others can read it: {}", stderr(&by_file));
    let by_env = dmsg(&["key", "public"]).env("DMSG_SECRET_KEY", &secret).output().unwrap();
    assert_eq!(stderr(&by_env), "");
    let by_argument = run(&["key", "public", "--secret-key", &secret]);
    assert!(stderr(&by_argument).contains("list of processes"));
    for output in [&by_file, &by_env, &by_argument] {
        assert_exit(output, 0);
        assert_eq!(stdout(output), stdout(&by_file));
    }
}

#[test]
fn a_mistyped_secret_is_not_repeated() {
    let secret = format!("{}x", "5e".repeat(31));
    let output = dmsg(&["key", "public"]).env("DMSG_SECRET_KEY", &secret).output().unwrap();
    assert_exit(&output, 2);
    let help = dmsg(&["key", "public", "--help"]).env("DMSG_SECRET_KEY", &secret).output().unwrap();
    let shown = stderr(&output) + &stdout(&help) + &stderr(&help);
    assert!(!shown.contains("5e5e5e5e5e5e"), "{shown}");
}

#[test]
fn what_is_no_secret_key_is_refused_with_the_rule_it_breaks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("k");
    for (content, rule) in [
        (Vec::new(), "64 hex digits"),
        (b"11".to_vec(), "64 hex digits"),
        (format!("0x{}", "11".repeat(31)).into_bytes(), "hex digits only"),
        ("00".repeat(32).into_bytes(), "order of secp256k1"),
        ("ff".repeat(32).into_bytes(), "order of secp256k1"),
        (vec![0xff; 64], "hex digits"),
        (vec![b'1'; 5000], "more than 1024 bytes"),
    ] {
        fs::write(&path, &content).unwrap();
        let by_file = run(&["key", "public", "--secret-key-file", path.to_str().unwrap()]);
        assert_exit(&by_file, 26);
        assert!(stderr(&by_file).contains(rule), "{rule}: {}", stderr(&by_file));
        let Ok(text) = String::from_utf8(content) else { continue };
        let by_env = dmsg(&["key", "public"]).env("DMSG_SECRET_KEY", &text).output().unwrap();
        assert_exit(&by_env, 2);
    }
    // A file without end is not read to its end.
    assert_exit(&run(&["key", "public", "--secret-key-file", "/dev/zero"]), 26);
}

/// `key public` prints which secret key won, so it shows precedence without a network.
fn public_key_with(
    folder: &Path,
    file: Option<&str>,
    env: Option<&str>,
    flag: Option<&str>,
) -> String {
    let mut command = dmsg(&["key", "public"]);
    if let Some(text) = file {
        let path = folder.join("dmsg.toml");
        fs::write(&path, text).unwrap();
        command.arg("--config").arg(path);
    }
    if let Some(name) = env {
        command.env("DMSG_SECRET_KEY_FILE", folder.join(name));
    }
    if let Some(name) = flag {
        command.arg("--secret-key-file").arg(folder.join(name));
    }
    let output = command.current_dir(folder).output().unwrap();
    assert_exit(&output, 0);
    stdout(&output).trim().to_owned()
}

#[test]
fn flag_beats_environment_beats_section_beats_top_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let made = |name: &str| {
        let path = folder.join(name);
        stdout(&run(&["key", "new", "--out", path.to_str().unwrap()])).trim().to_owned()
    };
    let (flag, env, section, top) = (made("flag"), made("env"), made("section"), made("top"));
    let only_top = Some("secret_key_file = \"top\"\n");
    let both = Some("secret_key_file = \"top\"\n[key]\nsecret_key_file = \"section\"\n");
    assert_eq!(public_key_with(folder, only_top, None, None), top);
    assert_eq!(public_key_with(folder, both, None, None), section);
    assert_eq!(public_key_with(folder, both, Some("env"), None), env);
    assert_eq!(public_key_with(folder, both, Some("env"), Some("flag")), flag);
    assert_eq!(public_key_with(folder, None, Some("env"), None), env);
}

#[test]
fn the_file_is_named_by_the_environment_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, "nonsense = 1\n").unwrap();
    let output = dmsg(&["key", "new"]).env("DMSG_CONFIG", &path).output().unwrap();
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("nonsense"));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmsg.toml");
    let url = format!("dmsg://{KEY}/");
    for (text, needles) in [
        ("# one\n\nlisten_on = \"x\"\n", &["line 3", "listen_on"][..]),
        ("[server]\nlisten = \"127.0.0.1:0\"\nsessions = 4\n", &["line 3", "sessions", "[server]"]),
        ("[sever]\nlisten = \"127.0.0.1:0\"\n", &["[sever]"]),
        ("config = \"x\"\n", &["line 1", "config"]),
        ("[curl]\nurls = [\"x\"]\n", &["line 2", "urls"]),
        ("[curl]\nsessions = \"many\"\n", &["line 2", "--sessions", "many"]),
        ("\n[curl]\nsessions = -1\n", &["line 3", "--sessions", "-1"]),
        ("[curl]\ninclude = \"perhaps\"\n", &["line 2", "include", "true or false"]),
        ("[curl]\nfail = 1.0\n", &["line 2", "fail", "true or false"]),
        ("[curl]\ndriver = [\"epoll\", \"uring\"]\n", &["line 2", "driver", "no list"]),
        ("log = \"loud\"\n", &["line 1", "loud"]),
        ("[curl]\n[curl]\n", &["line 2", "duplicate"]),
        ("[curl]\nsessions = { a = 1 }\n", &["line 2", "sessions"]),
        ("[curl\n", &["dmsg.toml"]),
        ("log = 1\nlog = 2\n", &["dmsg.toml"]),
    ] {
        fs::write(&path, text).unwrap();
        let output = run(&["--config", path.to_str().unwrap(), "curl", &url]);
        assert_exit(&output, 2);
        assert_eq!(stdout(&output), "");
        let said = stderr(&output);
        assert!(!said.contains("Usage:"), "nobody typed this: {said}");
        for needle in needles.iter().chain(&["dmsg.toml"]) {
            assert!(said.contains(needle), "{text:?} gave {said:?}, without {needle:?}");
        }
    }
    let output = run(&["--config", "/nonexistent/dmsg.toml", "key", "new"]);
    assert_exit(&output, 2);
    assert!(stderr(&output).contains("/nonexistent/dmsg.toml"));
}

#[test]
fn nobody_to_connect_to_ends_with_7_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    fs::write(&path, format!("[curl]\nserver = [\"{KEY}@127.0.0.1:1\"]\nconnect_timeout = 0.5\n"))
        .unwrap();
    let url = format!("dmsg://{KEY}/");
    let output = run(&["curl", "--config", path.to_str().unwrap(), &url]);
    assert_exit(&output, 7);
    assert_eq!(stdout(&output), "");
    let output = run(&["curl", "--config", path.to_str().unwrap(), "--max-time", "0.1", &url]);
    assert_exit(&output, 28);
}

/// `dmsg server` behind a shell that sets limits of open files.
fn server_with_files(limit: &str) -> std::process::Command {
    let mut shell = std::process::Command::new("sh");
    let server = env!("CARGO_BIN_EXE_dmsg");
    let script =
        format!("ulimit {limit} && exec '{server}' server --listen 127.0.0.1:0 --log warn");
    shell.args(["-c", &script]).env("DMSG_SECRET_KEY", "11".repeat(32));
    shell
}

#[test]
fn too_few_open_files_are_an_error_that_says_what_to_do() {
    // Too few for the threads; enough for them, but not for the server.
    for files in [8, 10] {
        let output = server_with_files(&format!("-n {files}")).output().unwrap();
        if output.status.code() == Some(127) {
            continue; // Too few to load the program.
        }
        assert_exit(&output, 1);
        assert!(stderr(&output).contains("raise the open-files limit (ulimit -n)"), "{output:?}");
    }
}

#[test]
fn a_server_with_fewer_open_files_than_sessions_says_so() {
    let mut server = server_with_files("-n 900");
    let mut server = server
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let stderr = server.stderr.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut said).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(said.contains("(ulimit -n) of 900 is too small for the 2048 sessions"), "{said}");
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let server = format!("{KEY}@127.0.0.1:1");
    let mut program =
        dmsg(&["proxy", "--server", &server, "--listen", "127.0.0.1:0", "--log", "off"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -S -n 100; exec \"$0\" \"$@\""]);
    shell.arg(program.get_program()).args(program.get_args()).stdin(std::process::Stdio::null());
    program = shell;
    let mut running = program::Running::spawn(program);
    running.line();
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = files.split_whitespace().skip(3);
    assert_eq!(numbers.next(), numbers.next(), "{files}");
}
