//! Hedging: a slow first path is not waited for, and whoever loses is cancelled.

use std::time::Duration;

use dmsg_http::access::{AccessConfig, HedgeConfig, Path};
use http::Method;
use tokio::time::Instant;

use crate::scripted::{Act, World, both};

fn hedging() -> World {
    let hedge = Some(HedgeConfig::default());
    World::with(both(), AccessConfig { hedge, ..AccessConfig::default() })
}

#[tokio::test(start_paused = true)]
async fn the_second_path_answers_in_place_of_a_slow_first() {
    let world = hedging();
    world.dmsg.set(Act::Hang);
    let begun = Instant::now();
    let taken = world.taken(Method::GET).await.unwrap();
    assert_eq!((taken.path, taken.hedged), (Path::Http, true));
    assert_eq!(begun.elapsed(), Duration::from_millis(1500));
    assert_eq!(world.dmsg.under_way(), 0, "the loser is cancelled");
    assert_eq!(world.counts(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_first_path_may_still_win() {
    let world = hedging();
    world.dmsg.set(Act::AnswerAfter(Duration::from_secs(2)));
    world.http.set(Act::AnswerAfter(Duration::from_secs(2)));
    let taken = world.taken(Method::GET).await.unwrap();
    assert_eq!((taken.path, taken.hedged), (Path::Dmsg, true));
    assert_eq!(world.http.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fast_first_path_is_alone() {
    let world = hedging();
    world.dmsg.set(Act::AnswerAfter(Duration::from_secs(1)));
    assert_eq!(world.get().await, Ok(Path::Dmsg));
    assert_eq!(world.counts(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_usually_slow_gets_three_times_as_long() {
    let world = hedging();
    world.dmsg.set(Act::AnswerAfter(Duration::from_secs(1)));
    world.get().await.unwrap();
    world.dmsg.set(Act::Hang);
    let begun = Instant::now();
    assert_eq!(world.get().await, Ok(Path::Http));
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn when_one_of_two_fails_the_other_is_waited_for() {
    let world = hedging();
    world.dmsg.set(Act::AnswerAfter(Duration::from_secs(4)));
    world.http.set(Act::BreakOff);
    assert_eq!(world.get().await, Ok(Path::Dmsg));
}

#[tokio::test(start_paused = true)]
async fn a_post_is_never_hedged() {
    let world = hedging();
    world.dmsg.set(Act::AnswerAfter(Duration::from_secs(4)));
    assert_eq!(world.call(Method::POST).await, Ok(Path::Dmsg));
    assert_eq!(world.counts(), (1, 0));
}
