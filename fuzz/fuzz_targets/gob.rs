//! libFuzzer program of [`dmsg_fuzz::gob`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::gob::run(data));
