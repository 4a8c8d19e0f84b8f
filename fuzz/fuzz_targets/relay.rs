//! libFuzzer program of [`dmsg_fuzz::relay`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::relay::run(data));
