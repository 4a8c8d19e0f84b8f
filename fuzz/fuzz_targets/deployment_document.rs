//! libFuzzer program of [`dmsg_fuzz::deployment_document`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::deployment_document::run(data));
