//! Forwarding allocates nothing per frame once it is in steady flow: driver and pools (a proxy machine), and a whole relay server
//! between two clients. Allocations are counted on the forwarding thread alone.
#![allow(clippy::unwrap_used)]

mod driver_support;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::{Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, AtomicUsize, Ordering::Relaxed},
    },
};

use dmsg_engine::{
    client::{Client, ClientConfig, ServerRecord, StaticDirectory},
    driver::DriverKind,
    identity::SecretKey,
    server::{Server, ServerConfig},
    wire::{Addr, Port},
};
use driver_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The thread whose allocations count; 0 for none.
static THREAD: AtomicI32 = AtomicI32::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let thread = THREAD.load(Relaxed);
        // SAFETY: no arguments.
        if thread != 0 && thread == unsafe { libc::gettid() } {
            COUNT.fetch_add(1, Relaxed);
        }
        // SAFETY: the caller keeps the rules of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test counts at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The id of the one thread whose name begins with `name`.
fn thread_called(name: &str) -> i32 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let mut called = tasks.filter_map(|task| {
        let path = task.unwrap().path();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let tid = path.file_name()?.to_str()?.parse().ok()?;
        comm.starts_with(name).then_some(tid)
    });
    let thread = called.next().unwrap_or_else(|| panic!("no thread is called {name}"));
    assert_eq!(called.next(), None, "two threads are called {name}");
    thread
}

/// Allocations on `thread` while `work` runs.
fn count_on<T>(thread: i32, work: impl FnOnce() -> T) -> usize {
    COUNT.store(0, Relaxed);
    THREAD.store(thread, Relaxed);
    work();
    THREAD.store(0, Relaxed);
    COUNT.load(Relaxed)
}

#[test]
fn a_proxy_forwards_without_allocating() {
    let _turn = TURN.lock().unwrap();
    for variant in variants() {
        // One-shot receives into a connection's own memory copy what is small; two buffers copy nearly always.
        if ["no buffer ring", "none", "tiny"].contains(&variant.name) {
            continue;
        }
        let target = Bed::start(&Variant { name: "target", ..Variant::epoll() }, Role::Echo);
        let config =
            dmsg_engine::driver::DriverConfig { name: "counted".into(), ..variant.config() };
        let proxy = Bed::start_with(config, Role::Proxy(target.address), variant.kind);
        let mut peer = proxy.connect();
        peer.set_nodelay(true).unwrap();
        let mut small = |rounds: usize| {
            let mut back = [0; 76];
            for _ in 0..rounds {
                peer.write_all(&pattern(0, 76)).unwrap();
                peer.read_exact(&mut back).unwrap();
            }
        };
        small(100);
        let thread = thread_called("counted");
        let allocated = count_on(thread, || small(1000));
        println!("{}: {allocated} allocations for 2,000 small frames", variant.name);
        assert!(allocated <= 20, "{}: {allocated} for 2,000 small frames", variant.name);

        let large = |bytes: usize| {
            let writer = write_pattern(&peer, bytes, 30_000);
            read_pattern(&peer, bytes, 100_000);
            writer.join().unwrap();
        };
        large(8_000_000);
        let allocated = count_on(thread, || large(16_000_000));
        println!("{}: {allocated} allocations for 2 × 16 MB", variant.name);
        // Where a burst is larger than any before, lists grow; and from three quarters lent on, receives are copied.
        assert!(allocated <= 400, "{}: {allocated} for 2 × 16 MB", variant.name);
    }
}

fn client(driver: DriverKind, server: &Server) -> Client {
    let mut config = ClientConfig::new(SecretKey::generate().unwrap());
    config.driver = driver;
    let record = ServerRecord {
        key: server.public_key(),
        address: server.local_addr().to_string(),
        available_sessions: 1,
    };
    Client::start(config, Arc::new(StaticDirectory { servers: vec![record] })).unwrap()
}

#[test]
fn a_relay_forwards_without_allocating() {
    let _turn = TURN.lock().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let kinds = [DriverKind::Epoll, DriverKind::Uring];
    let count = if dmsg_engine::driver::probe().is_ok() { 2 } else { 1 };
    for kind in &kinds[..count] {
        let key = SecretKey::generate().unwrap();
        let mut config = ServerConfig::new(key, "127.0.0.1:0".parse().unwrap());
        config.driver = *kind;
        config.threads = 1;
        let server = Server::start(config).unwrap();
        let (a, b) = (client(*kind, &server), client(*kind, &server));
        let port = Port::new(80).unwrap();
        let mut stream = runtime.block_on(async {
            let mut listener = b.listen(port).unwrap();
            tokio::spawn(async move {
                let stream = listener.accept().await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            b.ready().await.unwrap();
            a.dial(Addr { key: b.public_key(), port }).await.unwrap()
        });
        let mut rounds = |count: usize, bytes: usize| {
            runtime.block_on(async {
                let sent = pattern(0, bytes);
                let mut back = vec![0; bytes];
                for _ in 0..count {
                    stream.write_all(&sent).await.unwrap();
                    stream.read_exact(&mut back).await.unwrap();
                    assert!(back == sent);
                }
            });
        };
        let thread = thread_called("dmsg-relay-0");
        for (count, bytes) in [(1000, 64), (200, 60_000)] {
            rounds(count / 4, bytes);
            let allocated = count_on(thread, || rounds(count, bytes));
            let frames = 2 * count * bytes.div_ceil(4070);
            println!(
                "{kind:?}: {allocated} allocations for {frames} frames of {bytes}-byte writes"
            );
            assert!(allocated <= frames / 50, "{kind:?}: {allocated} for {frames} frames");
        }
        drop(stream);
        runtime.block_on(async {
            a.close().await;
            b.close().await;
        });
    }
}
