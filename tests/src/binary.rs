//! The program under test, built once for each test process, and the folder for what tests fetch.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The `potluck` program. Cargo finds within a moment that it is up to date when it was built before.
///
/// Always the optimised one: it is what users run, and the other is too slow for real models.
pub fn potluck() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("POTLUCK_TEST_PROGRAM") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The folder for everything that tests fetch: models, a Python environment. Kept between runs.
pub fn test_data() -> PathBuf {
    let folder = target_folder().join("test-data");
    std::fs::create_dir_all(&folder).unwrap_or_else(|err| panic!("cannot make {folder:?}: {err}"));
    folder
}

/// The files of this crate.
pub fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The target folder that this test was built in: `TARGET/PROFILE/deps/TEST`.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test
        .ancestors()
        .nth(3)
        .expect("a test lies in a target folder");
    target.to_owned()
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What Cargo says to a test is of the test's package. Build scripts that ask for it would run again, and with them what they
    // build, every time.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&*name);
        }
    }
    let output = command
        .args([
            "build",
            "--release",
            "--package",
            "potluck",
            "--message-format",
            "json-render-diagnostics",
        ])
        .arg("--target-dir")
        .arg(target_folder())
        .current_dir(crate_folder())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "potluck could not be built");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_potluck = message["target"]["name"] == "potluck";
        Some(PathBuf::from(
            message["executable"].as_str().filter(|_| is_potluck)?,
        ))
    });
    programs
        .next_back()
        .expect("cargo says where it put the program")
}
