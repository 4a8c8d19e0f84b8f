//! Benchmarks of the engine. `benches/micro.rs` measures single operations with criterion.
