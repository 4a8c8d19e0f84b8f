//! Whatever state connections are in when a driver ends, and however it ends, every descriptor is
//! closed and every command is dropped. One test, since it counts the descriptors of the process.
#![allow(clippy::unwrap_used)]

mod driver_support;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use dmsg_engine::io::CloseMode;
use driver_support::*;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// An address where connection requests go unanswered, kept so by the socket.
fn unanswered() -> (socket2::Socket, SocketAddr, Vec<socket2::Socket>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fillers = (0..3)
        .map(|_| {
            let kind = socket2::Type::STREAM.nonblocking();
            let filler = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            let _ = filler.connect(&address.into());
            filler
        })
        .collect();
    (socket, address, fillers)
}

/// Connections in every state: idle, paused over unread bytes, sending, flushing, connecting, just
/// closed.
fn busy(bed: &mut Bed, unanswered: SocketAddr) -> Vec<TcpStream> {
    let mut peers = Vec::new();
    for state in 0..18 {
        let (mut peer, conn) = bed.connected_pair();
        match state % 6 {
            0 => {}
            1 => {
                bed.order(Order::Pause(conn));
                peer.write_all(&[1; 50_000]).unwrap();
            }
            2 => bed.order(Order::Send(conn, vec![2; 8_000_000])),
            3 => bed.order(Order::SendAndClose(conn, vec![3; 8_000_000], CloseMode::Flush)),
            4 => bed.order(Order::Connect(unanswered)),
            _ => bed.order(Order::SendAndClose(conn, vec![5; 8_000_000], CloseMode::Abort)),
        }
        peers.push(peer);
    }
    bed.settle();
    peers
}

#[test]
fn descriptors_and_commands_are_back_after_every_kind_of_end() {
    let variants = variants();
    let (_socket, address, _fillers) = unanswered();
    let base = open_descriptors();
    for variant in &variants {
        println!("on {}", variant.name);
        // The machine asks to stop. Peers go away first, or flushes would take their time.
        let mut bed = Bed::start(variant, Role::Sink);
        let peers = busy(&mut bed, address);
        drop(peers);
        bed.stop();
        drop(bed);
        assert_eq!(open_descriptors(), base, "after a stop");

        // It stops while peers connect: an accept that completes too late leaks nothing.
        for _ in 0..20 {
            let mut bed = Bed::start(variant, Role::Sink);
            let address = bed.address;
            let storm = std::thread::spawn(move || {
                // A full backlog answers nothing until the next try, a second later.
                let patience = Duration::from_millis(50);
                while TcpStream::connect_timeout(&address, patience).is_ok() {}
            });
            bed.wait_accepted();
            bed.stop();
            storm.join().unwrap();
        }
        assert_eq!(open_descriptors(), base, "after a stop under load");

        // The machine panics.
        let held = Arc::new(());
        let mut bed = Bed::start(variant, Role::Sink);
        let mut peers = busy(&mut bed, address);
        let (with_bomb, behind) = (Arc::clone(&held), Arc::clone(&held));
        bed.order(Order::Call(Box::new(move |_| {
            let _held = with_bomb;
            std::panic::resume_unwind(Box::new("on purpose"));
        })));
        let _ = bed.mailbox.post(Order::Call(Box::new(move |_| drop(behind))));
        let driver = bed.driver.take().unwrap();
        assert!(driver.thread.join().is_err());
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(bed.mailbox.is_stopped());
        assert_eq!(peers[0].read(&mut [0]).unwrap_or(0), 0, "the idle peer is told");
        drop((peers, bed, driver.mailbox));
        assert_eq!(open_descriptors(), base, "after a panic");
    }
}
