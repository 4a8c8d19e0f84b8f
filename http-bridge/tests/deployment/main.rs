//! The deployment: the program's `config` and `conf`, against bootstrappers and relays of its own. Loopback only: the
//! embedded deployment is never dialled, since every run names another one.
#![allow(clippy::unwrap_used)]

#[path = "../common/program.rs"]
mod program;

mod check;
mod conf;
mod full_disk;
mod gen_files;
mod gen_sources;
mod killed_discovery;
mod over_tls;
mod refresh;
mod restarts;
mod support;
