//! libFuzzer program of [`dmsg_fuzz::discovery_entry`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::discovery_entry::run(data));
