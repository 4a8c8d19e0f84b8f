//! libFuzzer program of [`dmsg_fuzz::signed_objects`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::signed_objects::run(data));
