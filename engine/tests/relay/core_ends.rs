//! A core that ends without being told to, as when its driver fails or it panics: the others go on, and know.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use dmsg_engine::{
    driver::sim::Net,
    identity::SecretKey,
    mux::MuxKind,
    relay::{Cores, RefuseReason, Relay, RelayConfig, RelayLimits, Stats},
};

use crate::{
    peer::Peer,
    two_cores::{connect_across, settle_all, two_cores},
};

/// A relay that has to do with nothing.
fn spare() -> Relay {
    let config = RelayConfig {
        secret_key: SecretKey::from_seed(b"spare"),
        limits: RelayLimits::default(),
        newcomers: None,
    };
    Relay::new(config, 0, Arc::new(Cores::new(1)), Arc::new(Stats::default()))
}

#[test]
fn its_streams_end_its_keys_are_forgotten_and_its_counts_given_back() {
    let mut net = Net::new(340);
    let cores = two_cores(&mut net);
    let stats = Arc::clone(&cores[0].0.stats);
    let mut a = Peer::connect(&mut net, &cores[0].0, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &cores[1].0, b"b", MuxKind::Yamux);
    let _half_a_handshake = net.raw_connect(cores[1].0.address);
    let (at_a, at_b) = connect_across(&mut net, &cores, &mut a, &mut b);
    b.send(at_b, b"hello");
    settle_all(&mut net, &cores, &mut [&mut a, &mut b]);
    let count = |gauge: &std::sync::atomic::AtomicU64| gauge.load(Relaxed);
    let counts =
        || [&stats.sessions, &stats.handshakes, &stats.stream_halves, &stats.streams].map(count);
    assert_eq!(counts(), [2, 1, 2, 1]);

    let ended = net.with(cores[1].0.node, |relay: &mut Relay, _| std::mem::replace(relay, spare()));
    drop(ended);
    assert_eq!(cores[0].0.cores.find(&b.key()), None);
    assert_eq!(counts(), [1, 0, 1, 1], "the half of a is still there");
    settle_all(&mut net, &cores, &mut [&mut a]);
    assert!(a.was_reset(at_a), "and hears of it");
    assert_eq!(counts(), [1, 0, 0, 0]);

    let (again, _) = a.send_request(&a.request(b.key()));
    settle_all(&mut net, &cores, &mut [&mut a]);
    assert!(a.finished(again), "refused at once");
    assert_eq!(stats.refused_count(RefuseReason::NoSession), 1);
}
