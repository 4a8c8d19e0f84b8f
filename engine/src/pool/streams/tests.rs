#![allow(clippy::unwrap_used)]
use futures_util::FutureExt;

use super::*;
use crate::identity::SecretKey;

const MIN_AGE: Duration = Duration::from_millis(250);

/// A pool whose time is set by hand, in milliseconds.
fn pool(limits: StreamLimits) -> (StreamPool, Arc<AtomicU64>) {
    let (time, epoch) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let now = Arc::clone(&time);
    let clock = move || epoch + Duration::from_millis(now.load(Ordering::SeqCst));
    (StreamPool::with_clock(limits, Arc::new(clock)), time)
}

fn limits(total_max: usize, per_destination_max: usize) -> StreamLimits {
    StreamLimits {
        total_max,
        per_destination_max,
        waiting_max: 8,
        waiting_per_destination_max: 4,
        unread_min_age: Some(MIN_AGE),
    }
}

fn holder(destination: u8) -> Holder {
    let key = SecretKey::from_seed(&[destination]).public_key();
    Holder { label: "test".into(), destination: Some(key) }
}

fn pass(time: &AtomicU64, ms: u64) {
    time.fetch_add(ms, Ordering::SeqCst);
}

fn fill(pool: &StreamPool, destination: u8, count: usize) -> Vec<StreamPermit> {
    (0..count).map(|_| pool.try_acquire(&holder(destination)).unwrap()).collect()
}

#[test]
fn the_limits_are_hard_and_places_come_back() {
    let (pool, _) = pool(limits(4, 3));
    let near = fill(&pool, 1, 3);
    let full = pool.try_acquire(&holder(1)).unwrap_err();
    assert_eq!((full.max, full.scope), (3, Scope::Destination));
    let far = fill(&pool, 2, 1);
    let full = pool.try_acquire(&holder(2)).unwrap_err();
    assert_eq!((full.max, full.scope), (4, Scope::Total));
    drop((near, far));
    assert_eq!(pool.counts(), StreamCounts { used_peak: 4, ..StreamCounts::default() });
    assert!(pool.census().is_empty());
}

#[test]
fn busy_streams_are_never_reclaimed_however_old() {
    let (pool, time) = pool(limits(2, 2));
    let held = fill(&pool, 1, 2);
    held[0].usage().set_unread();
    held[0].usage().set_busy();
    pass(&time, 3_600_000);
    assert!(pool.try_acquire(&holder(1)).is_err());
    assert!(held.iter().all(|permit| !permit.usage().is_reclaimed()));
}

#[test]
fn the_stalest_unread_stream_goes_first_and_says_for_how_long() {
    let (pool, time) = pool(limits(3, 3));
    let held = fill(&pool, 1, 3);
    let ages = Arc::new(Mutex::new(Vec::new()));
    for (index, permit) in held.iter().enumerate() {
        permit.usage().set_unread();
        let ages = Arc::clone(&ages);
        permit.usage().on_reclaim(move |age| ages.lock().unwrap().push((index, age)));
        pass(&time, 100);
    }
    // The first makes progress, so that the second is the stalest.
    held[0].usage().set_unread();
    pass(&time, 100);
    let first = pool.try_acquire(&holder(2)).unwrap();
    assert_eq!(*ages.lock().unwrap(), [(1, Duration::from_millis(300))]);
    assert!(!held[1].usage().set_busy(), "whoever comes back to it learns of it");
    assert!(pool.try_acquire(&holder(2)).is_err(), "the others are too young");
    pass(&time, 200);
    let second = pool.try_acquire(&holder(2)).unwrap();
    let third = pool.try_acquire(&holder(2)).unwrap();
    let order: Vec<usize> = ages.lock().unwrap().iter().map(|entry| entry.0).collect();
    assert_eq!(order, [1, 2, 0]);
    drop((first, second, third, held));
    assert_eq!((pool.used_count(), pool.counts().reclaimed), (0, 3));
}

#[test]
fn idle_streams_go_before_any_unread_one() {
    let (pool, time) = pool(limits(2, 2));
    let held = fill(&pool, 1, 2);
    held[0].usage().set_unread();
    pass(&time, 10_000);
    held[1].usage().set_idle();
    let _new = pool.try_acquire(&holder(2)).unwrap();
    assert!(held[1].usage().is_reclaimed() && !held[0].usage().is_reclaimed());
}

#[test]
fn nothing_is_reclaimed_without_need_or_leave() {
    let (pool, time) = pool(StreamLimits { unread_min_age: None, ..limits(2, 2) });
    let held = fill(&pool, 1, 2);
    held[0].usage().set_unread();
    held[1].usage().set_idle();
    pass(&time, 3_600_000);
    assert!(pool.try_acquire(&holder(1)).is_err());
    assert_eq!(pool.counts().reclaimed, 0);
}

#[test]
fn a_crowd_for_one_destination_holds_up_nobody_else() {
    let (pool, _) = pool(limits(4, 2));
    let dead = fill(&pool, 1, 2);
    let crowd: Vec<_> = (0..4).map(|_| pool.enqueue(holder(1)).unwrap()).collect();
    assert!(pool.enqueue(holder(1)).is_err(), "one destination's queue is bounded");
    for _ in 0..100 {
        drop(fill(&pool, 2, 2));
    }
    drop(dead);
    let granted = crowd.into_iter().filter_map(FutureExt::now_or_never).count();
    assert_eq!(granted, 4, "each grant that is given back serves the next");
    assert_eq!(pool.used_count(), 0, "grants that nobody fetched free themselves");
}

#[test]
fn those_who_wait_are_served_in_order_and_destinations_take_turns() {
    let (pool, _) = pool(limits(1, 1));
    let first = fill(&pool, 9, 1);
    let mut waiting: Vec<_> =
        [1, 1, 2, 3].map(|to| (to, pool.enqueue(holder(to)).unwrap())).into_iter().collect();
    assert!(pool.try_acquire(&holder(4)).is_err());
    drop(first);
    let mut served = Vec::new();
    while !waiting.is_empty() {
        let ready = waiting.iter_mut().position(|(_, place)| !place.is_empty()).unwrap();
        let (to, place) = waiting.remove(ready);
        served.push((to, ready));
        drop(place.now_or_never().unwrap().unwrap());
    }
    assert_eq!(served, [(1, 0), (2, 1), (3, 1), (1, 0)]);
    assert_eq!(pool.counts().waiting, 0);
}

#[test]
fn those_who_leave_the_queue_take_no_room_in_it() {
    let (pool, _) = pool(limits(1, 1));
    let held = fill(&pool, 1, 1);
    for _ in 0..100 {
        drop(pool.enqueue(holder(1)).unwrap());
    }
    drop(held);
    assert_eq!(pool.used_count(), 0);
}

#[test]
fn a_waiter_is_served_from_what_comes_of_age() {
    let (pool, time) = pool(limits(2, 2));
    let held = fill(&pool, 1, 2);
    held[0].usage().set_unread();
    let mut place = pool.enqueue(holder(1)).unwrap();
    assert!(place.is_empty());
    pass(&time, 250);
    pool.pump();
    assert!(!place.is_empty());
    assert!(place.try_recv().is_ok());
}

#[test]
fn a_holder_that_waits_is_spared_until_its_own_time_is_over() {
    let (pool, time) = pool(limits(1, 1));
    let held = fill(&pool, 1, 1);
    held[0].usage().set_unread_after(Duration::from_secs(30));
    pass(&time, 30_200);
    assert!(pool.try_acquire(&holder(1)).is_err());
    pass(&time, 50);
    assert!(pool.try_acquire(&holder(1)).is_ok());
}

#[test]
fn stale_streams_are_taken_back_without_need_too() {
    let (pool, time) = pool(limits(3, 3));
    let held = fill(&pool, 1, 3);
    held[0].usage().set_unread();
    pass(&time, 1000);
    held[1].usage().set_unread();
    pool.reclaim_stale(Duration::from_secs(1));
    let reclaimed: Vec<_> = held.iter().map(|permit| permit.usage().is_reclaimed()).collect();
    assert_eq!(reclaimed, [true, false, false]);
}

#[test]
fn streams_of_one_tag_are_reclaimed_apart() {
    let (pool, time) = pool(limits(3, 3));
    let held = fill(&pool, 1, 3);
    for (index, permit) in held.iter().enumerate() {
        permit.usage().set_tag(index as u64 % 2);
        permit.usage().set_unread();
    }
    pass(&time, 300);
    assert!(pool.reclaim_tagged(1) && held[1].usage().is_reclaimed());
    assert!(!pool.reclaim_tagged(1));
    assert_eq!(pool.used_count(), 2);
}

#[test]
fn a_census_says_who_holds_how_much_since_when() {
    let (pool, time) = pool(limits(4, 4));
    let many = fill(&pool, 1, 3);
    let _one = fill(&pool, 2, 1);
    many[1].usage().set_unread();
    pass(&time, 500);
    many[0].usage().set_busy();
    let census = pool.census();
    assert_eq!((census.len(), census[0].streams, census[0].unread), (2, 3, 1));
    assert_eq!(census[0].oldest_progress, Duration::from_millis(500));
}

#[test]
fn two_hundred_thousand_leaks_reclaim_each_other_and_count_to_zero() {
    let (pool, time) = pool(limits(1000, 1000));
    let (mut leaked, holder) = (Vec::new(), holder(1));
    for round in 0..200_000 {
        if round % 100 == 0 {
            pass(&time, 26);
        }
        let permit = pool.try_acquire(&holder).unwrap();
        permit.usage().set_unread();
        leaked.push(permit);
    }
    assert_eq!((pool.used_count(), pool.counts().reclaimed), (1000, 199_000));
    drop(leaked);
    assert_eq!(pool.used_count(), 0);
    let table = pool.lock();
    assert!(table.is_empty(), "no candidate, destination or waiter is left");
}

#[test]
fn threads_that_open_mark_and_drop_leave_nothing() {
    let pool =
        StreamPool::new(StreamLimits { unread_min_age: Some(Duration::ZERO), ..limits(16, 16) });
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let pool = pool.clone();
            scope.spawn(move || {
                let holder = holder(thread);
                let mut kept = Vec::new();
                for round in 0..5_000 {
                    if let Ok(permit) = pool.try_acquire(&holder) {
                        permit.usage().set_unread();
                        match round % 5 {
                            0 => permit.usage().set_busy(),
                            1 => permit.usage().set_idle(),
                            _ => permit.usage().set_unread(),
                        };
                        kept.push(permit);
                    }
                    if round % 7 == 0 {
                        kept.clear();
                    }
                    if round % 11 == 0 {
                        drop(pool.enqueue(holder.clone()));
                    }
                }
            });
        }
    });
    pool.lock().forget_those_who_left();
    assert_eq!(pool.used_count(), 0);
    assert!(pool.lock().is_empty());
}
