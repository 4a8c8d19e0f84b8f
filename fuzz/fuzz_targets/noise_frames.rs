//! libFuzzer program of [`dmsg_fuzz::noise_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dmsg_fuzz::noise_frames::run(data));
