//! `cargo +nightly fuzz run parse`: arbitrary bytes through the whole reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_gguf_fuzz::fuzz_one(bytes));
