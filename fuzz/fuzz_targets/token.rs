//! Makes up input for `highwater_server::fuzzing::token`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| highwater_server::fuzzing::token(bytes));
