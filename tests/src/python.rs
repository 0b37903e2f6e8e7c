//! Clients in Python: a script of `python/` talks to a server with some published client, and prints what it saw as JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::binary::{crate_folder, test_data};

/// Runs a script that needs `client`, a package with its version, and reads its report.
pub fn talk(client: &str, script: &str, arguments: &[&str]) -> Value {
    let script = crate_folder().join("python").join(script);
    let output = Command::new(python(client))
        .arg(script)
        .args(arguments)
        .output()
        .expect("Python can be started");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "the client failed:\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("not JSON ({error}): {out}\n{err}"))
}

/// A Python that has the client, made once and kept.
fn python(client: &str) -> PathBuf {
    let folder = test_data().join("venv").join(client.replace("==", "-"));
    let program = match cfg!(windows) {
        true => folder.join("Scripts").join("python.exe"),
        false => folder.join("bin").join("python"),
    };
    let complete = folder.join("complete");
    if !complete.exists() {
        let system = if cfg!(windows) { "python" } else { "python3" };
        run(
            Path::new(system),
            &["-m", "venv", "--clear", &folder.display().to_string()],
        );
        run(
            &program,
            &[
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                client,
            ],
        );
        std::fs::write(&complete, client).expect("a mark that it is complete");
    }
    program
}

fn run(program: &Path, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|err| panic!("{} cannot be started: {err}", program.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} {arguments:?} failed:\n{said}",
        program.display()
    );
}
