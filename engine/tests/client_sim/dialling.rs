//! How dials fail, and what they try before.

use std::time::Duration;

use dmsg_engine::client::{
    DialError, DialPhase, TryCause,
    machine::{Command, DialRequest, Purpose},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{scripted::Script, world::World};

fn sick(world: &mut World, server: usize) {
    world.script(server, Script { silent: true, ..Script::default() });
}

#[test]
fn end_of_stream_before_the_response_is_a_refusal() {
    let mut world = World::connected(41, 1);
    let nobody = world.addr(0, 9);
    world.script(0, Script { refuse: true, ..Script::default() });
    let error = world.dial(0, nobody).unwrap_err();
    let DialError::Refused { peer, tries, .. } = &error else { panic!("{error}") };
    assert_eq!((*peer, tries), (nobody, &vec![(world.servers[0].key, TryCause::Refused)]));
    assert_eq!((world.ports(0), world.sessions(0)), (0, 1));
    assert_eq!(world.clients[0].shared.stats().dials_failed["refused"], 1);
}

#[test]
fn the_next_server_is_tried_after_a_refusal() {
    let mut world = World::all_connected(42, 2);
    world.script(0, Script { refuse: true, ..Script::default() });
    let (near, _far) = world.pair(0, 1);
    assert_eq!(near.server(), world.servers[1].key);
    assert_eq!(world.ports(0), 1);
}

#[test]
fn a_silent_server_costs_300_ms_if_there_is_another_and_else_the_whole_time() {
    let mut world = World::all_connected(43, 2);
    sick(&mut world, 0);
    let start = world.net.now();
    let (near, _far) = world.pair(0, 1);
    assert_eq!(near.server(), world.servers[1].key);
    assert!(world.net.now() - start <= Duration::from_millis(500));

    sick(&mut world, 1);
    let (start, to) = (world.net.now(), world.addr(1, 80));
    let error = world.dial(0, to).unwrap_err();
    assert_eq!(world.net.now() - start, Duration::from_secs(20));
    let DialError::TimedOut { phase, elapsed, tries, .. } = error else { panic!("{error}") };
    assert_eq!((phase, elapsed), (DialPhase::Response, Duration::from_secs(20)));
    assert!(matches!(tries[..], [(_, TryCause::TimedOut { .. })]));
    assert_eq!(world.ports(0), 1, "that of the first stream");
}

/// User wish 34: who answered 202, or not at all, comes behind the others for a while.
#[test]
fn a_server_through_which_the_peer_failed_is_not_the_first_again() {
    for script in
        [Script { silent: true, ..Script::default() }, Script { refuse: true, ..Script::default() }]
    {
        let mut world = World::all_connected(412, 2);
        let to = world.addr(1, 80);
        for server in [0, 1] {
            world.script(server, script.clone());
            let pending = world.dial_via(0, to, &[server]);
            world.finish(pending).unwrap_err();
            world.script(server, Script::default());
            let asked = world.server(server, |server| server.requests);
            world.pass(Duration::from_secs(3));
            let (near, far) = world.pair(0, 1);
            assert_eq!(near.server(), world.servers[1 - server].key, "{script:?}");
            assert_eq!(world.server(server, |server| server.requests), asked, "{script:?}");
            drop((near, far));
            world.pass(Duration::from_secs(70));
        }
    }
}

/// The server of 5 s a dial is found out with the first of them, long before its next keep-alive.
#[test]
fn a_server_that_does_not_answer_and_is_silent_is_pinged_at_once_and_dead_after_ten_seconds() {
    let mut world = World::all_connected(413, 2);
    // Its first ping is answered, the next comes after 30 s.
    world.script(0, Script { deaf: true, ..Script::default() });
    let _listeners = [80, 81].map(|port| world.listen(1, port, 4));
    let (to, other) = (world.addr(1, 80), world.addr(1, 81));
    let pending = world.dial_via(0, to, &[0, 1]);
    let stream = world.finish(pending).unwrap();
    assert_eq!(stream.server(), world.servers[1].key);
    let begun = world.net.now();
    // Whatever else is dialled does not go there first either.
    let pending = world.dial_via(0, other, &[0, 1]);
    assert_eq!(world.finish(pending).unwrap().server(), world.servers[1].key);
    assert!(world.net.now() - begun < Duration::from_secs(1));
    assert!(world.until(Duration::from_secs(11), |world| world.sessions(0) == 1));
}

#[test]
fn a_failed_dial_says_whom_through_whom_how_long_and_what_it_tried() {
    let mut world = World::all_connected(414, 2);
    sick(&mut world, 0);
    sick(&mut world, 1);
    let to = world.addr(1, 80);
    let text = world.dial(0, to).unwrap_err().to_string();
    let servers = [0, 1].map(|server| world.servers[server].key.short());
    let key = to.key.to_string();
    for part in
        [&key, &servers[0], &servers[1], "20.0s", "before:", "waiting for the peer's response"]
    {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    world.script(0, Script { refuse: true, ..Script::default() });
    let pending = world.dial_via(0, to, &[0]);
    let text = world.finish(pending).unwrap_err().to_string();
    for part in [&format!("{to}"), &servers[0], "after", "refused"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn a_spoilt_response_is_not_believed() {
    let mut world = World::connected(44, 2);
    world.script(0, Script { spoil_responses: true, ..Script::default() });
    let _listener = world.listen(1, 80, 4);
    let to = world.addr(1, 80);
    let error = world.dial(0, to).unwrap_err();
    let DialError::Refused { tries, .. } = &error else { panic!("{error}") };
    assert!(matches!(tries[..], [(_, TryCause::Response(_))]), "{error}");
    assert_eq!((world.ports(0), world.sessions(0)), (0, 1));
}

#[test]
fn without_candidates_the_peer_has_no_servers() {
    let mut world = World::connected(45, 1);
    let to = world.addr(0, 80);
    let pending = world.dial_via(0, to, &[]);
    assert_eq!(world.finish(pending).unwrap_err(), DialError::NoDelegatedServers(to.key));
}

#[test]
fn times_that_mean_for_ever_are_times() {
    let mut world = World::new(46);
    world.add_server();
    for _ in 0..2 {
        world.add_client(|config| {
            config.try_timeout = Duration::MAX;
            config.stream_idle_timeout = Some(Duration::MAX);
        });
    }
    world.connect_all();
    let (mut near, mut far) = world.pair(0, 1);
    world.wait(near.write_all(b"x")).unwrap();
    assert_eq!(world.wait(far.read_u8()).unwrap(), b'x');
}

#[test]
fn an_empty_port_pool_is_an_immediate_error() {
    let mut world = World::connected(46, 1);
    let ports = world.clients[0].shared.ports.clone();
    let taken: Vec<_> = std::iter::from_fn(|| ports.reserve_ephemeral().ok()).collect();
    let (start, to) = (world.net.now(), world.addr(0, 80));
    assert!(matches!(world.dial(0, to), Err(DialError::NoFreePort(_))));
    assert_eq!(world.net.now(), start);
    drop(taken);
    assert_eq!(world.ports(0), 0);
}

#[test]
fn a_dial_opens_a_session_to_the_peers_server() {
    let mut world = World::new(47);
    world.add_servers(2);
    world.add_client(|_| {});
    world.add_client(|_| {});
    let far = world.servers[1].target();
    let near = world.servers[0].target();
    world.clients[0].link.post_release(Command::Servers(vec![near]));
    world.clients[1].link.post_release(Command::Servers(vec![far]));
    let _listener = world.listen(1, 80, 4);
    world.pass(Duration::from_secs(2));
    let to = world.addr(1, 80);
    let pending = world.dial_via(0, to, &[1]);
    let stream = world.finish(pending).unwrap();
    assert_eq!((stream.server(), world.sessions(0)), (world.servers[1].key, 2));
    drop(stream);
    // One more than wanted, and nothing on it: closed after two minutes.
    world.pass(Duration::from_secs(200));
    assert_eq!(world.sessions(0), 1);
}

#[test]
fn an_unreachable_server_is_named_with_its_cause() {
    let mut world = World::new(48);
    world.add_server();
    world.add_client(|_| {});
    let address = world.servers[0].address;
    world.net.refuse(address, true);
    let to = world.addr(0, 80);
    let error = world.dial(0, to).unwrap_err();
    let DialError::Unreachable { peer, tries, .. } = &error else { panic!("{error}") };
    assert_eq!((*peer, tries.len(), error.code()), (to.key, 1, Some(202)));
    assert!(matches!(tries[0].1, TryCause::Session(_)));
}

#[test]
fn a_thousand_dials_at_once_wait_for_the_backlog() {
    let mut world = World::connected(49, 2);
    let _listener = world.listen(1, 80, 2000);
    let to = world.addr(1, 80);
    let pending: Vec<_> = (0..1000).map(|_| world.dial_via(0, to, &[0])).collect();
    let streams: Vec<_> = pending.into_iter().map(|dial| world.finish(dial).unwrap()).collect();
    assert_eq!((streams.len(), world.ports(0)), (1000, 1000));
    drop(streams);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ports(0), 0);
}

#[test]
fn a_server_tells_our_address() {
    let mut world = World::connected(50, 1);
    let (reply, answer) = tokio::sync::oneshot::channel();
    let client = &world.clients[0];
    let started = world.net.now();
    let holder = crate::world::holder(world.addr(0, 1));
    client.link.post_release(Command::Dial(Box::new(DialRequest {
        id: client.link.next_dial_id(),
        purpose: Purpose::Address { reply },
        candidates: Vec::new(),
        lease: dmsg_engine::client::Lease::new(client.shared.permits.try_acquire(&holder).unwrap()),
        started,
        deadline: started + Duration::from_secs(5),
    })));
    let address = world.wait(answer).unwrap().unwrap();
    assert_eq!(address.to_string(), "203.0.113.9");
    assert_eq!((world.ports(0), world.held(0).1), (0, 0));
}

#[test]
fn closing_answers_every_dial() {
    let mut world = World::connected(51, 1);
    sick(&mut world, 0);
    let to = world.addr(0, 80);
    let pending = world.dial_via(0, to, &[0]);
    world.pass(Duration::from_secs(1));
    world.clients[0].link.post_release(Command::Close);
    assert_eq!(world.finish(pending).unwrap_err(), DialError::Closed);
    world.pass(Duration::from_millis(500));
    assert!(world.net.is_stopped(world.clients[0].node));
    assert_eq!((world.ports(0), world.sessions(0)), (0, 0));
}
