//! Every real driver keeps the rules of `io.rs`: one suite, run on each driver and on each set of
//! kernel features.
#![allow(clippy::unwrap_used)]

mod driver_support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use dmsg_engine::{
    driver::{
        DriverConfig, KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, PostError,
        SocketOptions, spawn,
    },
    io::{CloseMode, SEND_HIGH_BYTES},
};
use driver_support::*;
use socket2::SockRef;

const MIB: usize = 1024 * 1024;

#[test]
fn many_megabytes_come_back_unharmed() {
    on_each(|variant| {
        let bed = Bed::start(variant, Role::Echo);
        let peer = bed.connect();
        let writer = write_pattern(&peer, 24 * MIB, 100_000);
        read_pattern(&peer, 24 * MIB, 70_000);
        writer.join().unwrap();
    });
}

#[test]
fn many_connections_at_once_keep_their_bytes_apart() {
    on_each(|variant| {
        let bed = Bed::start(variant, Role::Echo);
        let peers: Vec<_> = (0..40).map(|_| bed.connect()).collect();
        let writers: Vec<_> = peers.iter().map(|p| write_pattern(p, MIB / 2, 9000)).collect();
        for peer in &peers {
            read_pattern(peer, MIB / 2, 20_000);
        }
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn tiny_writes_and_tiny_reads_come_back_unharmed() {
    on_each(|variant| {
        let bed = Bed::start(variant, Role::Echo);
        let peer = bed.connect();
        peer.set_nodelay(true).unwrap();
        let writer = write_pattern(&peer, 20_000, 7);
        read_pattern(&peer, 20_000, 3);
        writer.join().unwrap();
    });
}

#[test]
fn small_socket_buffers_make_short_sends_and_lose_nothing() {
    on_each_at_once(|variant| {
        let bed = Bed::start(variant, Role::Echo);
        let peer = bed.connect();
        SockRef::from(&peer).set_recv_buffer_size(4096).unwrap();
        let writer = write_pattern(&peer, 80_000, 50_000);
        read_pattern(&peer, 80_000, 1500);
        writer.join().unwrap();
    });
}

#[test]
fn a_proxy_forwards_both_ways_under_back_pressure() {
    on_each(|variant| {
        let target = Bed::start(variant, Role::Echo);
        let proxy = Bed::start(variant, Role::Proxy(target.address));
        let peer = proxy.connect();
        let writer = write_pattern(&peer, 8 * MIB, 100_000);
        read_pattern(&peer, 8 * MIB, 50_000);
        writer.join().unwrap();
    });
}

#[test]
fn a_source_waits_for_writable_and_its_flush_delivers_all() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Source(6 * MIB));
        let (mut peer, conn) = bed.connected_pair();
        read_pattern(&peer, 6 * MIB, 30_000);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the flush ends the stream");
        drop(peer);
        assert_eq!(bed.wait_closed(conn), "by us");
    });
}

#[test]
fn writable_comes_once_a_full_queue_has_drained() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (peer, conn) = bed.connected_pair();
        // More than both sockets hold, so that the queue stays full until the peer reads.
        let len = 16 * MIB;
        bed.order(Order::Send(conn, pattern(0, len)));
        bed.settle();
        let (tell, told) = std::sync::mpsc::channel();
        bed.order(Order::Call(Box::new(move |io| {
            tell.send((io.is_full(conn), io.queued_bytes(conn))).unwrap();
        })));
        let (full, queued) = told.recv().unwrap();
        assert!(full && queued > SEND_HIGH_BYTES);
        assert!(!bed.rest().contains(&Seen::Writable(conn)));
        read_pattern(&peer, len, 100_000);
        bed.wait(|seen| (*seen == Seen::Writable(conn)).then_some(()));
        bed.settle();
        assert!(!bed.rest().contains(&Seen::Writable(conn)), "once");
    });
}

#[test]
fn a_paused_connection_receives_nothing_until_it_is_resumed() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        peer.write_all(&pattern(0, 3000)).unwrap();
        for _ in 0..5 {
            bed.settle();
        }
        assert_eq!(bed.rest(), []);
        bed.order(Order::Resume(conn));
        assert_eq!(bed.wait_bytes(conn, 3000), pattern(0, 3000));
        // And over and over, also within one verb.
        for round in 0..50 {
            bed.order(Order::Pause(conn));
            if round % 3 != 0 {
                peer.write_all(&pattern(0, 1000)).unwrap();
            }
            bed.order(Order::Call(Box::new(move |io| {
                io.resume(conn);
                io.pause(conn);
                io.resume(conn);
            })));
            if round % 3 == 0 {
                peer.write_all(&pattern(0, 1000)).unwrap();
            }
            assert_eq!(bed.wait_bytes(conn, 1000), pattern(0, 1000));
        }
    });
}

#[test]
fn a_paused_peer_that_vanishes_is_noticed() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (peer, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(bed.wait_closed(conn), "ConnectionReset");
    });
}

#[test]
fn a_flush_survives_a_peer_that_keeps_sending() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        peer.write_all(&pattern(0, 50_000)).unwrap();
        bed.order(Order::SendAndClose(conn, pattern(0, 4 * MIB), CloseMode::Flush));
        // Were the socket closed over this input, the reset would destroy what the kernel has yet
        // to send.
        let mut sender = peer.try_clone().unwrap();
        let sender = std::thread::spawn(move || while sender.write_all(&[0; 1000]).is_ok() {});
        read_pattern(&peer, 4 * MIB, 60_000);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        peer.shutdown(Shutdown::Both).unwrap();
        sender.join().unwrap();
        assert_eq!(bed.wait_closed(conn), "by us");
    });
}

#[test]
fn a_flush_to_a_peer_that_does_not_read_ends_in_time() {
    on_each_at_once(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (_peer, conn) = bed.connected_pair();
        let start = Instant::now();
        bed.order(Order::SendAndClose(conn, vec![0; 16 * MIB], CloseMode::Flush));
        assert_eq!(bed.wait_closed(conn), "by us");
        let taken = start.elapsed();
        // The time of a verb is that of its turn, which may have begun before the order.
        let least = dmsg_engine::io::FLUSH_TIMEOUT - Duration::from_millis(500);
        assert!(taken >= least, "{taken:?}");
        assert!(taken < 4 * dmsg_engine::io::FLUSH_TIMEOUT, "{taken:?}");
    });
}

#[test]
fn a_flush_that_lasts_too_long_can_be_aborted() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::SendAndClose(conn, vec![0; 16 * MIB], CloseMode::Flush));
        bed.settle();
        let start = Instant::now();
        bed.order(Order::Close(conn, CloseMode::Abort));
        bed.order(Order::Close(conn, CloseMode::Abort));
        assert_eq!(bed.wait_closed(conn), "by us");
        assert!(start.elapsed() < dmsg_engine::io::FLUSH_TIMEOUT / 2, "{:?}", start.elapsed());
        let error = peer.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_abort_drops_the_queue_and_resets() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::SendAndClose(conn, vec![0; 16 * MIB], CloseMode::Abort));
        assert_eq!(bed.wait_closed(conn), "by us");
        let mut rest = Vec::new();
        assert_eq!(peer.read_to_end(&mut rest).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(rest.is_empty(), "what was queued in the same verb never left");

        // And in the middle of a send that the kernel has not finished.
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::Send(conn, vec![0; 16 * MIB]));
        bed.settle();
        bed.order(Order::Close(conn, CloseMode::Abort));
        assert_eq!(bed.wait_closed(conn), "by us");
        let error = peer.read_to_end(&mut rest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(rest.len() < 16 * MIB);
    });
}

#[test]
fn a_refused_connect_is_closed_with_the_error() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        bed.order(Order::Connect(nobody));
        let conn = bed.wait(|seen| if let Seen::Started(c) = seen { Some(*c) } else { None });
        assert_eq!(bed.wait_closed(conn), "ConnectionRefused");
    });
}

#[test]
fn a_connect_can_be_given_up() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        // A full backlog leaves the connection request unanswered.
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut started = Vec::new();
        for _ in 0..4 {
            bed.order(Order::Connect(address));
            started
                .push(bed.wait(|seen| if let Seen::Started(c) = seen { Some(*c) } else { None }));
        }
        for (conn, mode) in
            started.into_iter().zip([CloseMode::Flush, CloseMode::Abort].into_iter().cycle())
        {
            bed.order(Order::Close(conn, mode));
            assert_eq!(bed.wait_closed(conn), "by us");
        }
    });
}

#[test]
fn a_connection_made_by_the_machine_works_like_an_accepted_one() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        bed.order(Order::Connect(listener.local_addr().unwrap()));
        let (mut peer, _) = listener.accept().unwrap();
        let conn = bed.wait(|seen| if let Seen::Connected(c) = seen { Some(*c) } else { None });
        peer.write_all(b"to you").unwrap();
        assert_eq!(bed.wait_bytes(conn, 6), b"to you");
        bed.order(Order::Send(conn, b"to me".to_vec()));
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"to me");
        drop(peer);
        assert_eq!(bed.wait_closed(conn), "by peer");
    });
}

#[test]
fn a_peer_that_closes_or_resets_is_reported_after_its_last_bytes() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        for len in [1, 100_000] {
            let (mut peer, conn) = bed.connected_pair();
            peer.write_all(&pattern(0, len)).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            assert_eq!(bed.wait_bytes(conn, len), pattern(0, len));
            assert_eq!(bed.wait_closed(conn), "by peer");
        }
        // Both at once, as a connection finds them that was paused.
        let (mut peer, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        peer.write_all(&pattern(0, 1000)).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        bed.settle();
        assert_eq!(bed.rest(), []);
        bed.order(Order::Resume(conn));
        assert_eq!(bed.wait_bytes(conn, 1000), pattern(0, 1000));
        assert_eq!(bed.wait_closed(conn), "by peer");

        let (peer, conn) = bed.connected_pair();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        assert_eq!(bed.wait_closed(conn), "ConnectionReset");
    });
}

#[test]
fn closed_comes_exactly_once() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        for round in 0..60 {
            let (peer, conn) = bed.connected_pair();
            let modes = [CloseMode::Flush, CloseMode::Abort];
            bed.order(Order::SendAndClose(conn, vec![1; round * 100], modes[round % 2]));
            bed.order(Order::Close(conn, modes[(round + 1) % 2]));
            drop(peer);
            bed.wait_closed(conn);
            bed.order(Order::Close(conn, CloseMode::Abort));
            bed.order(Order::Send(conn, vec![1]));
        }
        bed.settle();
        let again = bed.rest().into_iter().filter(|seen| matches!(seen, Seen::Closed(..)));
        assert_eq!(again.count(), 0);
    });
}

#[test]
fn commands_from_many_threads_arrive_once_each_and_in_order() {
    const EACH: u64 = 20_000;
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let mailbox = bed.mailbox.clone();
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        let mut order = Order::Number(thread * EACH + number);
                        while let Err(PostError::Full(back)) = mailbox.post(order) {
                            order = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        for _ in 0..4 * EACH {
            let n = bed.wait(|seen| if let Seen::Number(n) = seen { Some(*n) } else { None });
            let thread = (n / EACH) as usize;
            assert_eq!(n % EACH, next[thread]);
            next[thread] += 1;
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn timers_fire_in_order_and_never_early() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let start = Instant::now();
        let (late, early) = (start + Duration::from_millis(60), start + Duration::from_millis(20));
        bed.order(Order::WakeAt(late));
        bed.order(Order::WakeAt(early));
        bed.order(Order::WakeAt(late));
        let mut timeout =
            || bed.wait(|seen| if let Seen::Timeout(at) = seen { Some(*at) } else { None });
        let first = timeout();
        assert!(first >= early, "{:?} early", early - first);
        // The earlier wish was for one timeout; the machine asks again.
        bed.order(Order::WakeAt(late));
        let second = bed.wait(|seen| if let Seen::Timeout(at) = seen { Some(*at) } else { None });
        assert!(second >= late, "{:?} early", late - second);
        bed.order(Order::WakeAt(start));
        bed.wait(|seen| matches!(seen, Seen::Timeout(_)).then_some(()));
    });
}

#[test]
fn stop_closes_every_connection_and_drops_later_commands() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        let (mut flushed, with_rest) = bed.connected_pair();
        let (_idle, idle) = bed.connected_pair();
        bed.order(Order::Send(with_rest, pattern(0, MIB)));
        let reader = std::thread::spawn(move || {
            read_pattern(&flushed, MIB, 50_000);
            flushed.read(&mut [0]).unwrap()
        });
        let rest = bed.stop();
        assert_eq!(reader.join().unwrap(), 0);
        for conn in [with_rest, idle] {
            let closed = rest.iter().filter(|s| **s == Seen::Closed(conn, "by us".into())).count();
            assert_eq!(closed, 1);
        }
        assert!(matches!(bed.mailbox.post(Order::Stop), Err(PostError::Stopped(Order::Stop))));
        assert!(std::net::TcpStream::connect(bed.address).is_err(), "the listener is closed");
    });
}

#[test]
fn a_driver_without_listeners_runs_and_names_its_thread() {
    on_each(|variant| {
        let config = DriverConfig { name: "quiet".into(), ..variant.config() };
        let (tell, told) = std::sync::mpsc::channel();
        let driver = spawn(config, move |mailbox| {
            tell.send(std::thread::current().name().map(str::to_owned)).unwrap();
            mailbox.post(Order::Stop).ok().unwrap();
            Lab::new(Role::Sink, std::sync::mpsc::channel().0)
        })
        .unwrap();
        assert_eq!(told.recv().unwrap().as_deref(), Some("quiet"));
        driver.thread.join().unwrap().unwrap();
    });
}

#[test]
fn a_cpu_that_is_not_there_is_a_start_error() {
    on_each(|variant| {
        let config = DriverConfig { cpu: Some(100_000), ..variant.config() };
        let error = spawn(config, |_| Lab::new(Role::Sink, std::sync::mpsc::channel().0));
        assert!(error.unwrap_err().to_string().contains("100000"));
    });
}

/// CPU time of the driver's thread.
fn cpu_time(bed: &Bed) -> Duration {
    let (tell, told) = std::sync::mpsc::channel();
    bed.order(Order::Call(Box::new(move |_| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes to a valid `timespec`.
        let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        assert_eq!(result, 0);
        tell.send(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)).unwrap();
    })));
    told.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_driver_with_nothing_to_do_sleeps() {
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Sink);
        // Idle, paused over unread bytes, paused over the end of the stream, and blocked in a send.
        let (_idle, _) = bed.connected_pair();
        let (mut unread, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        unread.write_all(&[1; 100_000]).unwrap();
        let (mut ended, conn) = bed.connected_pair();
        bed.order(Order::Pause(conn));
        bed.settle();
        ended.write_all(&[1; 10]).unwrap();
        drop(ended);
        let (_blocked, conn) = bed.connected_pair();
        bed.order(Order::Send(conn, vec![0; 16 * MIB]));
        bed.settle();
        let before = cpu_time(&bed);
        bed.order(Order::WakeAt(Instant::now() + Duration::from_millis(300)));
        bed.wait(|seen| matches!(seen, Seen::Timeout(_)).then_some(()));
        let used = cpu_time(&bed) - before;
        assert!(used < Duration::from_millis(60), "{used:?} of CPU time to wait 0.3 s");
        bed.order(Order::Close(conn, CloseMode::Abort));
    });
}

/// The driver's end of a connection whose other end is `peer`; both are in this process.
fn other_end(peer: &TcpStream) -> OwnedFd {
    let address = peer.local_addr().unwrap().into();
    let is_it = |fd: &RawFd| {
        // SAFETY: only asked for its peer; a descriptor that is closed meanwhile gives an error.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        SockRef::from(&fd).peer_addr().is_ok_and(|to| to == address)
    };
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut fds = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let fd = fds.find(is_it).expect("it was accepted");
    // SAFETY: the driver keeps it open while its peer is.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned().unwrap()
}

/// They are set on the listener, once.
#[test]
fn accepted_connections_have_the_options_that_were_asked_for() {
    on_each(|variant| {
        for user_timeout in [Some(Duration::from_secs(45)), None] {
            let sockets = SocketOptions {
                user_timeout,
                send_buffer_bytes: Some(20_000),
                recv_buffer_bytes: Some(30_000),
                ..SocketOptions::default()
            };
            let config = DriverConfig { sockets, ..variant.config() };
            let mut bed = Bed::start_with(config, Role::Sink, variant.kind);
            let (peer, _) = bed.connected_pair();
            let socket = other_end(&peer);
            let socket = SockRef::from(&socket);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_COUNT);
            assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
            // The kernel doubles them for its own use.
            assert_eq!(socket.send_buffer_size().unwrap(), 40_000);
            assert_eq!(socket.recv_buffer_size().unwrap(), 60_000);
        }
    });
}
