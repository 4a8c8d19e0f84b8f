//! A client that has a session and then sends anything, against a whole relay in simulated time.
//!
//! Input: `seed, bytes`. The session is genuine; the bytes are its mux frames. Another client sits beside it, so that
//! genuine requests in the corpus have a destination. When both are gone every gauge must be back at zero.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use dmsg_engine::{
    driver::sim::{Chunking, Link, Net, RawConn},
    identity::{PublicKey, SecretKey},
    pool::Slice,
    relay::{Cores, Relay, RelayConfig, RelayLimits, Stats},
    session::{SessionHandshake, Step},
};

use crate::input::Input;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = input.byte();
    let mut net = Net::new(u64::from(seed));
    let chunking = if seed.is_multiple_of(2) { Chunking::Whole } else { Chunking::Random(50) };
    net.set_link(Link { chunking, ..Link::default() });
    let secret_key = SecretKey::from_seed(b"server");
    let server = secret_key.public_key();
    let (cores, stats) = (Arc::new(Cores::new(1)), Arc::new(Stats::default()));
    let config = RelayConfig { secret_key, limits: RelayLimits::default(), newcomers: None };
    let node = net.add(Relay::new(config, 0, Arc::clone(&cores), Arc::clone(&stats)));
    let address = net.listen(node);
    let peers = [b"a", b"b"].map(|seed| {
        let raw = net.raw_connect(address);
        handshake(&mut net, &raw, server, seed);
        raw
    });
    net.raw_write(&peers[0], input.rest());
    net.run_for(Duration::from_secs(20));
    drop(net.raw_read(&peers[0]));
    for peer in &peers {
        net.kill(peer.wire());
    }
    net.run_for(Duration::from_secs(1));
    let left = [&stats.sessions, &stats.stream_halves, &stats.pending_bytes, &stats.handshakes];
    assert_eq!(left.map(|gauge| gauge.load(Relaxed)), [0; 4], "something was left behind");
    assert!(cores.keys().is_empty(), "a key was left behind");
}

fn handshake(net: &mut Net, raw: &RawConn, server: PublicKey, seed: &[u8]) {
    let (key, ephemeral) = (SecretKey::from_seed(seed), SecretKey::from_seed(b"ephemeral"));
    let mut hello = Vec::new();
    let mut handshake = SessionHandshake::initiator(&key, server, ephemeral, &mut hello);
    net.raw_write(raw, &hello);
    loop {
        assert!(net.step(), "the handshake came to a halt");
        let bytes = net.raw_read(raw);
        if bytes.is_empty() {
            continue;
        }
        let mut reply = Vec::new();
        let step = handshake.receive(Slice::from_vec(bytes), &mut reply);
        net.raw_write(raw, &reply);
        if matches!(step.expect("a genuine server"), Step::Done(_)) {
            return;
        }
    }
}
