//! The program `dmsg`.
fn main() {}
