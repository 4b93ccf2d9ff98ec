//! Makes up input for `highwater_server::fuzzing::since`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| highwater_server::fuzzing::since(bytes));
