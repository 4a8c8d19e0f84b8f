//! Signals that interrupt every system call of the driver's thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc,
};

use crate::{assert_all_back, driver_support::*};

extern "C" fn ignore(_signal: libc::c_int) {}

#[test]
fn interrupted_calls_are_repeated() {
    // SAFETY: the handler does nothing, which is safe at any moment; without SA_RESTART every call sees EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
    on_each(|variant| {
        let mut bed = Bed::start(variant, Role::Echo);
        let stats = bed.stats();
        let (tell, told) = mpsc::channel();
        bed.order(Order::Call(Box::new(move |_| {
            // SAFETY: no arguments.
            tell.send(unsafe { libc::pthread_self() } as usize).unwrap();
        })));
        let thread = told.recv().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let storm = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut count = 0;
                while !over.load(Relaxed) || count < 100 {
                    // SAFETY: the driver's thread ends only after this one was joined.
                    unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR1) };
                    count += 1;
                    std::thread::yield_now();
                }
                count
            }
        });
        let peer = bed.connect();
        let writer = write_pattern(&peer, 3_000_000, 40_000);
        read_pattern(&peer, 3_000_000, 30_000);
        drop((peer, writer.join().unwrap()));
        assert_all_back(&stats, &mut bed);
        over.store(true, Relaxed);
        println!("{} signals", storm.join().unwrap());
    });
}
