//! What goes wrong around a driver: one fault per file, on every driver and with features forced off. Afterwards no descriptor,
//! buffer or connection is left over.
#![allow(clippy::unwrap_used)]

#[path = "../driver_support/mod.rs"]
mod driver_support;

mod buffers_run_out;
mod connections_are_cancelled;
mod denied_half_way;
mod full_sockets;
mod peers_vanish;
mod signal_storm;
mod small_limits;
mod splits;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use dmsg_engine::driver::{DriverKind, DriverStats, UringConfig};
use driver_support::*;

/// A ring with so few and small buffers that they run out.
fn scarce() -> Option<Variant> {
    let mut variant = variants().into_iter().find(|variant| variant.name == "all")?;
    variant.name = "scarce";
    variant.uring = UringConfig { buffers_count: 16, buffer_bytes: 2048, ..variant.uring };
    Some(variant)
}

/// Waits until the driver holds no connection and no buffer.
fn assert_all_back(stats: &Arc<DriverStats>, bed: &mut Bed) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        bed.settle();
        let left = (stats.conns.load(Relaxed), stats.buffers_lent.load(Relaxed));
        if left == (0, 0) {
            return;
        }
        assert!(Instant::now() < deadline, "connections and buffers left: {left:?}");
    }
}

/// Whether the variant runs on a ring.
fn is_uring(variant: &Variant) -> bool {
    variant.kind == DriverKind::Uring
}
