//! libFuzzer program of [`dmsg_fuzz::dmsg_url`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::dmsg_url::run(data));
