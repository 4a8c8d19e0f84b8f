//! libFuzzer program of [`dmsg_fuzz::yamux`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::yamux::run(data));
