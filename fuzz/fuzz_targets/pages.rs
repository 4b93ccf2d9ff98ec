//! Makes up input for `highwater_client::fuzzing::pages`, which says what is promised.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    highwater_client::fuzzing::pages(bytes);
});
