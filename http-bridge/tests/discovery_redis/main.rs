//! The discovery's entries in a real Redis, which each test starts on a Unix socket of its own; "skipped" where no
//! `redis-server` is installed.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../discovery_common/mod.rs"]
mod discovery_common;

mod a_cluster;
mod only_newer_entries;
mod redis;
mod redis_goes_away;
mod two_discoveries;
