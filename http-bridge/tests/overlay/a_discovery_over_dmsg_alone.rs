//! No plain HTTP anywhere: relay, discovery, service and caller as programs that know one relay and the discovery's key.

use std::{fs, path::Path};

use crate::program::{Running, assert_exit, dmsg, run, stderr, stdout};

fn new_key(folder: &Path, name: &str) -> (String, String) {
    let file = folder.join(name).to_str().unwrap().to_owned();
    let output = run(&["key", "new", "--out", &file]);
    assert_exit(&output, 0);
    (file, stdout(&output).trim().to_owned())
}

#[test]
fn a_relay_registers_through_itself_and_everybody_finds_everybody() {
    let folder = tempfile::tempdir().unwrap();
    let (relay_file, relay_key) = new_key(folder.path(), "relay");
    let (discovery_file, discovery_key) = new_key(folder.path(), "discovery");
    let discovery_url = format!("dmsg://{discovery_key}:80");

    let mut relay = Running::start(&[
        "server",
        "--log",
        "warn",
        "--secret-key-file",
        &relay_file,
        "--listen",
        "127.0.0.1:0",
        "--discovery",
        &discovery_url,
    ]);
    let relay_address = relay.line();
    assert!(relay_address.starts_with(&format!("{relay_key}@127.0.0.1:")), "{relay_address}");
    let mut discovery = Running::start(&[
        "discovery",
        "--log",
        "warn",
        "--secret-key-file",
        &discovery_file,
        "--dmsg-only",
        "--allow-loopback",
        "--server",
        &relay_address,
    ]);
    assert_eq!(discovery.line(), discovery_url, "and no http:// line");

    fs::write(folder.path().join("hello"), "hello over DMSG").unwrap();
    let site = folder.path().to_str().unwrap();
    let reach = ["--discovery", &discovery_url, "--server", &relay_address, "--log", "warn"];
    let mut serve = Running::start(&[&["serve", "--dir", site], &reach[..]].concat());
    let site_url = serve.line();
    let output = run(&[&["curl", &format!("{site_url}hello")], &reach[..]].concat());
    assert_exit(&output, 0);
    assert_eq!((stdout(&output), stderr(&output)), ("hello over DMSG".into(), String::new()));

    // The relay is listed, though nobody speaks plain HTTP here.
    let servers = format!("{discovery_url}/dmsg-discovery/all_servers");
    let listed = loop {
        let output = dmsg(&[&["curl", "-f", &servers], &reach[..]].concat()).output().unwrap();
        if output.status.success() {
            break stdout(&output);
        }
        // 404 until the relay's first try, or its second after a second, has arrived.
        assert_exit(&output, 22);
    };
    assert!(listed.contains(&relay_key), "{listed}");
}
