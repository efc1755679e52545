#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nexus_fuzz::batch_api(data));
