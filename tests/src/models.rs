//! The real models that tests run on. Fetched once into the test cache, checked against their sums, never committed.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use potluck_coordinator::fetch::{self, FetchOptions, Recipe};

use crate::binary::test_data;
use crate::set;

/// Chats, and small enough for every test.
pub const SMOLLM2: &str = "smollm2-135m-instruct-q4_1";
/// A base model: sliding windows, a large vocabulary, k-quants.
pub const GEMMA3: &str = "gemma3-270m-q4_k_m";
/// Chats; the size at which a split begins to matter.
pub const QWEN: &str = "qwen2.5-coder-1.5b";

/// The cache folder of every `potluck` that tests start.
pub fn cache() -> PathBuf {
    test_data().join("cache")
}

/// The file of a model, from the folder `POTLUCK_MODELS` or fetched.
pub fn model(name: &str) -> PathBuf {
    if let Some(path) = given(name) {
        return path;
    }
    let options = FetchOptions {
        cache_dir: &cache(),
        pip: None,
        cancel: &AtomicBool::new(false),
    };
    fetch::fetch(&recipe(name), &options, &mut |_| {})
        .unwrap_or_else(|err| panic!("the model {name} cannot be fetched: {err}"))
}

/// The file of a model that is too large to fetch for every test run: only if it is there, or all models were asked for.
pub fn model_if_wanted(name: &str) -> Option<PathBuf> {
    let is_here = given(name).is_some() || fetch::is_fetched(&recipe(name), &cache());
    if !is_here && !set("POTLUCK_TEST_ALL_MODELS") {
        eprintln!("skipped: {name} is not here; POTLUCK_TEST_ALL_MODELS=1 fetches it");
        return None;
    }
    Some(model(name))
}

fn recipe(name: &str) -> Recipe {
    fetch::builtin(name).unwrap_or_else(|| panic!("{name} is not a model that can be fetched"))
}

fn given(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("POTLUCK_MODELS").filter(|folder| !folder.is_empty())?;
    let path = PathBuf::from(folder).join(format!("{name}.gguf"));
    path.is_file().then_some(path)
}
