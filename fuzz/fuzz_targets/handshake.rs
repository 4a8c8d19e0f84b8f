//! libFuzzer program of [`dmsg_fuzz::handshake`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::handshake::run(data));
