//! libFuzzer program of [`dmsg_fuzz::smux`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::smux::run(data));
