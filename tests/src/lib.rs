//! The harness of the whole-cluster tests: the real `potluck` program as real processes, over real sockets, with real models.
//!
//! A test reads as the story of what a user does. What it needs for that is here: the program (`binary`), one run of it
//! (`process`), a coordinator and its workers (`cluster`), machines on a network of their own (`lan`, `machine`), a question over
//! HTTP (`http`), a client in Python (`python`), the models (`models`), reference logits (`logits`), a machine that means harm (`attacker`) and a cluster that it
//! attacks (`siege`). Nothing here knows how potluck works inside; only `models` borrows its fetcher, `cluster` and `attacker` its
//! keys, and the byte counts of a span are taken from the model file.
//!
//! Settings of a test run: `POTLUCK_MODELS` names a folder of `NAME.gguf` files to use instead of fetching,
//! `POTLUCK_TEST_ALL_MODELS=1` fetches the 1.1 GB model too, `POTLUCK_TEST_LONG=1` runs the longer forms of the laws, and
//! `POTLUCK_TEST_PROGRAM` names a `potluck` to test instead of the one built from this checkout.
#![forbid(unsafe_code)]

pub mod attacker;
pub mod binary;
pub mod cluster;
pub mod demo;
pub mod http;
#[cfg(target_os = "linux")]
pub mod lan;
pub mod logits;
#[cfg(target_os = "linux")]
pub mod machine;
pub mod models;
pub mod process;
pub mod python;
pub mod siege;
pub mod transcript;

/// Whether the longer forms of the tests were asked for.
pub fn long_form() -> bool {
    set("POTLUCK_TEST_LONG")
}

/// Whether an environment variable is set to something.
fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && value != "0")
}
