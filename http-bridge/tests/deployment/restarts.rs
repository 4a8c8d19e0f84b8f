//! A relay server that was killed starts again at once, though the kernel may still take its ring apart.

use std::net::TcpListener;

use crate::{
    program::{Running, assert_exit, dmsg},
    support::Place,
};

#[test]
fn a_killed_server_starts_again_at_once_on_its_port() {
    let place = Place::new();
    let key = place.path("server.key");
    assert_exit(&dmsg(&["key", "new", "--out"]).arg(&key).output().unwrap(), 0);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let args = [
        "server",
        "--log",
        "warn",
        "--listen",
        &address,
        "--secret-key-file",
        key.to_str().unwrap(),
    ];
    for _ in 0..5 {
        let mut server = Running::start(&args);
        assert!(server.line().ends_with(&address));
        // Dropping it is SIGKILL.
    }
}
