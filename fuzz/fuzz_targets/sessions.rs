#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tampu::broker::fuzzing::sessions(bytes));
