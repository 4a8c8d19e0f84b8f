//! Threat 23: what established sessions notice while strangers begin handshakes as fast as they can. Loopback has no rate of
//! its own, so that all of it reaches the relay's thread. Prints figures, and is run by hand, since the machine's other work is
//! in them:
//! `cargo test --release -p dmsg-engine --test e2e_relay overload -- --ignored --nocapture`.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use dmsg_engine::{driver::DriverKind, identity::SecretKey, session::SessionHandshake};

use crate::{idle::Idler, server};

const TIME: Duration = Duration::from_secs(3);

/// From one ping to the next.
const PAUSE: Duration = Duration::from_millis(1);

/// Ends the flood, whatever becomes of the test.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Round trips of pings, one after the other, for [`TIME`]: the median, and the longest of a hundred and of all.
fn round_trips(peer: &mut Idler) -> [Duration; 3] {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < TIME {
        let sent = Instant::now();
        peer.ping();
        while !peer.answer() {
            thread::yield_now();
        }
        times.push(sent.elapsed());
        // More than 3,000 a second would be a flood of its own.
        while sent.elapsed() < PAUSE {
            thread::yield_now();
        }
    }
    times.sort();
    [times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]]
}

#[test]
#[ignore = "a measurement"]
fn established_sessions_are_answered_while_handshakes_come_as_fast_as_they_can() {
    let server = server(DriverKind::Auto, 1);
    let (address, key) = (server.local_addr(), server.public_key());
    let mut peer = Idler::connect(address, key);
    let before = round_trips(&mut peer);
    // The first message of a handshake, which the server has to do its most expensive work for.
    let mut hello = Vec::new();
    let (us, ephemeral) = (SecretKey::from_seed(b"us"), SecretKey::from_seed(b"ephemeral"));
    drop(SessionHandshake::initiator(&us, key, ephemeral, &mut hello));
    let (is_over, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let during = thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    if stream.write_all(&hello).is_ok() {
                        begun.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let _over = Over(&is_over);
        round_trips(&mut peer)
    });
    let rate = begun.load(Relaxed) as f64 / TIME.as_secs_f64();
    println!("alone: {before:.1?} (median, 99 of 100, longest)");
    println!("beside {rate:.0} handshakes a second: {during:.1?}; {:?}", server.stats());
    assert!(
        during[1] < Duration::from_millis(250),
        "1,024 handshakes of 150 µs stand before it at most"
    );
}
