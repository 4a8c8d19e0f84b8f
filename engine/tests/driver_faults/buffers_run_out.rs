//! Receive buffers run out (ENOBUFS): peers that do not read what they are sent keep slices, and everybody else is served all
//! the same. Nothing spins, and every buffer comes back.

use std::{io::Write, sync::atomic::Ordering::Relaxed, time::Duration};

use crate::{assert_all_back, driver_support::*, scarce};

/// Peers whose echoes pile up.
const STUCK: usize = 12;

#[test]
fn slow_readers_starve_nobody_and_give_all_buffers_back() {
    let Some(variant) = scarce() else { return println!("skipped: no io_uring") };
    let mut bed = Bed::start(&variant, Role::Echo);
    let stats = bed.stats();
    let stuck: Vec<_> = (0..STUCK).map(|_| bed.connect()).collect();
    for mut peer in &stuck {
        peer.set_write_timeout(Some(Duration::from_millis(30))).unwrap();
        // Until the echo of it fits nowhere any more.
        while peer.write(&[7; 50_000]).is_ok() {}
    }
    bed.settle();
    assert_eq!(stats.buffers_count.load(Relaxed), 16);
    assert!(stats.buffers_lent.load(Relaxed) <= 12, "three quarters at most are kept");

    let peer = bed.connect();
    let writer = write_pattern(&peer, 2_000_000, 60_000);
    read_pattern(&peer, 2_000_000, 50_000);
    drop((peer, writer.join().unwrap(), stuck));
    assert_all_back(&stats, &mut bed);
}

#[test]
fn many_at_once_find_no_buffer_and_all_get_their_turn() {
    let Some(variant) = scarce() else { return println!("skipped: no io_uring") };
    let mut bed = Bed::start(&variant, Role::Echo);
    let stats = bed.stats();
    let peers: Vec<_> = (0..32).map(|_| bed.connect()).collect();
    let writers: Vec<_> = peers.iter().map(|peer| write_pattern(peer, 300_000, 70_000)).collect();
    for peer in &peers {
        read_pattern(peer, 300_000, 9000);
    }
    assert!(stats.buffers_missed.load(Relaxed) > 0, "this scenario is about empty rings");
    drop((peers, writers.into_iter().map(|w| w.join().unwrap()).collect::<Vec<_>>()));
    assert_all_back(&stats, &mut bed);
}
