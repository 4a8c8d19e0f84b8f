//! Services share nothing but the overlay: one that hangs does not delay the requests of another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dmsg_http::access::AccessPolicy;
use futures_util::future::join_all;
use tokio::{task::JoinSet, time::Instant};

use crate::scripted::{Act, World};

#[tokio::test(start_paused = true)]
async fn hundreds_of_hanging_requests_beside_a_quick_one() {
    let (dead, alive) = (World::new(), World::new());
    dead.dmsg.set(Act::Hang);
    dead.http.set(Act::Hang);
    alive.dmsg.set(Act::AnswerAfter(Duration::from_millis(20)));
    let hammer = join_all((0..500).map(|_| dead.get()));
    let quick = async {
        for _ in 0..100 {
            let begun = Instant::now();
            alive.get().await.unwrap();
            assert_eq!(begun.elapsed(), Duration::from_millis(20));
        }
    };
    let (outcomes, ()) = tokio::join!(hammer, quick);
    assert!(outcomes.iter().all(Result::is_err));
    // And the dead one is soon left alone, but for trials that are further and further apart.
    let before = dead.counts();
    for _ in 0..10 {
        dead.get().await.unwrap_err();
    }
    let after = dead.counts();
    assert!(after.0 + after.1 <= before.0 + before.1 + 5, "{before:?} {after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_on_in_a_loop_where_no_path_is_left_is_held_up() {
    let (dead, alive) = (Arc::new(World::with_policy(AccessPolicy::DmsgOnly)), World::new());
    dead.dmsg.set(Act::RefuseConnection);
    alive.dmsg.set(Act::AnswerAfter(Duration::from_millis(20)));
    for _ in 0..3 {
        dead.get().await.unwrap_err();
    }
    // Now and then, and some at once, is no loop: the refusal comes at once.
    let begun = Instant::now();
    for outcome in join_all((0..80).map(|_| dead.get())).await {
        let error = outcome.unwrap_err();
        assert!(error.contains("not tried, since the last requests failed"), "{error}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // 64 loops would never let go of this thread.
    let (mut hammer, refused) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..64 {
        let (dead, refused) = (Arc::clone(&dead), Arc::clone(&refused));
        hammer.spawn(async move {
            loop {
                let begun = Instant::now();
                dead.get().await.unwrap_err();
                assert!(refused.fetch_add(1, Relaxed) < 10_000, "nothing holds it up");
                assert!(begun.elapsed() <= Duration::from_millis(110));
            }
        });
    }
    for _ in 0..50 {
        let begun = Instant::now();
        alive.get().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(20));
    }
    let refused = refused.load(Relaxed);
    assert!((200..2000).contains(&refused), "{refused} refusals in 1 s");
    assert!(hammer.try_join_next().is_none(), "they go on");
}
