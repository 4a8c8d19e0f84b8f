//! libFuzzer program of [`dmsg_fuzz::mux_ops`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::mux_ops::run(data));
