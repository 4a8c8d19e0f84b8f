//! Halves on two cores: what is said to a stream that is gone must not reach the one that took its id.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use dmsg_engine::{
    driver::sim::Net,
    identity::SecretKey,
    mux::{MuxKind, StreamId},
    relay::{Command, Cores, LANE_HIGH_BYTES, Relay, RelayConfig, RelayLimits, Stats},
};

use crate::peer::{Peer, Server, settle, settle_for};

pub(crate) type Mail = Arc<Mutex<VecDeque<Command>>>;

pub(crate) fn two_cores(net: &mut Net) -> [(Server, Mail); 2] {
    let secret_key = SecretKey::from_seed(b"server");
    let (cores, stats) = (Arc::new(Cores::new(2)), Arc::new(Stats::default()));
    [0, 1].map(|core| {
        let mail = Mail::default();
        let post = Arc::clone(&mail);
        cores.register(core, move |command| post.lock().unwrap().push_back(command));
        let config = RelayConfig {
            secret_key: secret_key.clone(),
            limits: RelayLimits::default(),
            newcomers: None,
        };
        let node = net.add(Relay::new(config, core, Arc::clone(&cores), Arc::clone(&stats)));
        let (address, key) = (net.listen(node), secret_key.public_key());
        (Server { node, address, key, stats: Arc::clone(&stats), cores: Arc::clone(&cores) }, mail)
    })
}

/// Hands one core what waits for it; returns how much that was.
pub(crate) fn deliver(net: &mut Net, (server, mail): &(Server, Mail)) -> usize {
    let commands = std::mem::take(&mut *mail.lock().unwrap());
    let count = commands.len();
    for command in commands {
        net.post::<Relay>(server.node, command);
    }
    net.run_for(Duration::from_micros(10));
    count
}

pub(crate) fn settle_all(net: &mut Net, cores: &[(Server, Mail); 2], peers: &mut [&mut Peer]) {
    for _ in 0..6 {
        settle_for(net, peers, Duration::from_millis(10));
        for core in cores {
            deliver(net, core);
        }
    }
    settle(net, peers);
}

/// A relayed stream from `a` on one core to `b` on the other, dialled and accepted.
pub(crate) fn connect_across(
    net: &mut Net,
    cores: &[(Server, Mail); 2],
    a: &mut Peer,
    b: &mut Peer,
) -> (StreamId, StreamId) {
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle_all(net, cores, &mut [a, b]);
    let at_b = b.opened();
    b.take_object(at_b);
    b.accept(at_b, &object);
    settle_all(net, cores, &mut [a, b]);
    a.take_object(at_a);
    (at_a, at_b)
}

#[test]
fn late_data_of_a_former_stream_does_not_reach_the_dial_under_its_id() {
    let mut net = Net::new(320);
    let cores = two_cores(&mut net);
    let mut a = Peer::connect(&mut net, &cores[0].0, b"a", MuxKind::Yamux);
    let mut b = Peer::connect(&mut net, &cores[1].0, b"b", MuxKind::Yamux);
    let mut d = Peer::connect(&mut net, &cores[1].0, b"d", MuxKind::Yamux);
    let (at_a, object) = a.send_request(&a.request(b.key()));
    settle_all(&mut net, &cores, &mut [&mut a, &mut b, &mut d]);
    let at_b = b.opened();
    b.take_object(at_b);
    b.accept(at_b, &object);
    settle_all(&mut net, &cores, &mut [&mut a, &mut b, &mut d]);
    a.take_object(at_a);

    // Data of b is under way between the cores when a gives the stream up and uses its id again.
    b.send(at_b, b"late");
    settle(&mut net, &mut [&mut b]);
    a.mux.reset(at_a, &mut a.queue);
    let request = a.sign(&a.request(d.key()));
    let sealed = a.seal(&request);
    let length = u32::try_from(sealed.len()).unwrap();
    a.queue.push_bytes(&[&[0, 1, 0, 1][..], &at_a.0.to_be_bytes(), &[0; 4]].concat());
    a.queue.push_bytes(&[&[0, 0, 0, 0][..], &at_a.0.to_be_bytes(), &length.to_be_bytes()].concat());
    a.queue.push_bytes(&sealed);
    settle(&mut net, &mut [&mut a]);
    assert_eq!(deliver(&mut net, &cores[0]), 1, "the late data");
    settle_all(&mut net, &cores, &mut [&mut a, &mut b, &mut d]);

    assert!(b.was_reset(at_b), "the former stream is over");
    let at_d = d.opened();
    assert_eq!(d.take_object(at_d), request, "and the new dial goes on");
    assert!(a.is_open(&net));
    assert_eq!(cores[0].0.stats.stream_halves.load(Relaxed), 2);
}

#[test]
fn what_waits_for_a_core_that_is_behind_is_bounded_and_arrives() {
    const STREAMS: usize = 24;
    const EACH: usize = 300_000;
    let mut net = Net::new(321);
    let cores = two_cores(&mut net);
    let mut a = Peer::connect(&mut net, &cores[0].0, b"a", MuxKind::SmuxV1);
    let mut b = Peer::connect(&mut net, &cores[1].0, b"b", MuxKind::Yamux);
    a.mux.ping(0, &mut a.queue);
    let mut pairs = Vec::new();
    for _ in 0..STREAMS {
        pairs.push(connect_across(&mut net, &cores, &mut a, &mut b));
    }
    // smux 1 has no windows: nothing but the lane's bound stops the source while core 1 does not look at its mail.
    let sent: Vec<u8> = (0..EACH).map(|i| (i * 7 + (i >> 9)) as u8).collect();
    for (at_a, _) in &pairs {
        a.send(*at_a, &sent);
    }
    settle_for(&mut net, &mut [&mut a], Duration::from_secs(1));
    let waiting = cores[0].0.cores.bytes_between(0, 1);
    assert!(waiting > LANE_HIGH_BYTES, "{waiting} bytes wait");
    assert!(waiting < LANE_HIGH_BYTES + 256 * 1024, "{waiting} bytes wait");
    assert!(net.raw_unsent_bytes(&a.raw) > 0, "the source is not read any more");
    for _ in 0..40 {
        settle_all(&mut net, &cores, &mut [&mut a, &mut b]);
    }
    for (_, at_b) in &pairs {
        assert!(b.taken(*at_b) == sent, "all bytes in order");
    }
    assert_eq!(cores[0].0.cores.bytes_between(0, 1), 0);
    assert!(a.is_open(&net) && b.is_open(&net));
}
