//! Services share nothing but the overlay: one that hangs does not delay the requests of another.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

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
