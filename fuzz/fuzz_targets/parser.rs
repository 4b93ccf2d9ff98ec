//! Makes up input for `highwater_shared::fuzzing::parser`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| highwater_shared::fuzzing::parser(bytes));
