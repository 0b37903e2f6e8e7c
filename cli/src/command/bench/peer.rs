//! The same measurements by llama.cpp's own benchmark programs, each in whichever of their settings is fastest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::measure::{Kind, Test};

/// Beside `llama-bench`; measures several answers at once, which that does not.
const BATCHED_BENCH: &str = "llama-batched-bench";

/// What decides about llama.cpp's speed on a CPU: which of them is best differs by model and by test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    /// Weights are rearranged when they are loaded.
    pub repack: bool,
    pub flash_attention: bool,
}

pub(super) const SETTINGS: [Setting; 4] = [
    Setting {
        repack: true,
        flash_attention: true,
    },
    Setting {
        repack: true,
        flash_attention: false,
    },
    Setting {
        repack: false,
        flash_attention: true,
    },
    Setting {
        repack: false,
        flash_attention: false,
    },
];

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = |on| if on { "on" } else { "off" };
        write!(
            f,
            "repack {}, flash attention {}",
            on(self.repack),
            on(self.flash_attention)
        )
    }
}

/// llama.cpp's programs and what they run.
pub(super) struct Peer {
    bench: PathBuf,
    model: PathBuf,
    threads: usize,
    /// What the program says of how it was built.
    pub build: Option<String>,
}

/// What is used of a line of llama-bench's JSON.
#[derive(Deserialize)]
struct BenchLine {
    build_commit: String,
    build_number: i64,
    #[serde(default)]
    cpu_info: String,
    #[serde(default)]
    backends: String,
    avg_ts: f64,
}

/// What is used of a line of llama-batched-bench's JSON.
#[derive(Deserialize)]
struct BatchedLine {
    speed_tg: f64,
}

impl Peer {
    pub fn new(bench: &Path, model: &Path, threads: usize) -> anyhow::Result<Peer> {
        if !bench.is_file() {
            bail!(
                "{} is not a file; --peer takes the path of llama.cpp's llama-bench program",
                bench.display()
            );
        }
        Ok(Peer {
            bench: bench.to_owned(),
            model: model.to_owned(),
            threads,
            build: None,
        })
    }

    /// Tokens a second of one run of a test.
    pub fn run(&mut self, test: &Test, setting: Setting) -> anyhow::Result<f64> {
        match test.batch {
            1 => self.run_one(test, setting),
            _ => self.run_batch(test, setting),
        }
    }

    fn run_one(&mut self, test: &Test, setting: Setting) -> anyhow::Result<f64> {
        let (prompt, generate) = match test.kind {
            Kind::Prefill => (test.tokens, 0),
            Kind::Decode => (0, test.tokens),
        };
        let flag = |on: bool| if on { "1" } else { "0" };
        let mut command = Command::new(&self.bench);
        command
            .arg("-m")
            .arg(&self.model)
            .args(["-t", &self.threads.to_string(), "-r", "1", "-o", "json"])
            .args(["-p", &prompt.to_string(), "-n", &generate.to_string()])
            .args(["-d", &test.depth.to_string()])
            .args(["-fa", flag(setting.flash_attention)])
            .args(["--repack", flag(setting.repack)]);
        let text = output(command)?;
        let lines: Vec<BenchLine> = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} printed something else than expected",
                self.bench.display()
            )
        })?;
        let line = lines
            .first()
            .with_context(|| format!("{} measured nothing", self.bench.display()))?;
        self.build = Some(format!(
            "llama.cpp build {} ({}), {} on {}",
            line.build_number, line.build_commit, line.backends, line.cpu_info
        ));
        Ok(line.avg_ts)
    }

    fn run_batch(&self, test: &Test, setting: Setting) -> anyhow::Result<f64> {
        let program = self.bench.with_file_name(BATCHED_BENCH);
        if !program.is_file() {
            bail!(
                "{BATCHED_BENCH} is not beside {}; build it too, or measure with --batch 1",
                self.bench.display()
            );
        }
        // It has no empty context.
        let depth = test.depth.max(1);
        let context = (depth + test.tokens) * test.batch;
        let mut command = Command::new(program);
        command
            .arg("-m")
            .arg(&self.model)
            .args(["-t", &self.threads.to_string(), "-c", &context.to_string()])
            .args(["-npp", &depth.to_string()])
            .args(["-ntg", &test.tokens.to_string()])
            .args(["-npl", &test.batch.to_string()])
            .args(["-fa", if setting.flash_attention { "on" } else { "off" }])
            .args(["--output-format", "jsonl"]);
        if !setting.repack {
            command.arg("--no-repack");
        }
        let text = output(command)?;
        let line = text
            .lines()
            .find_map(|line| serde_json::from_str::<BatchedLine>(line).ok());
        let line = line.with_context(|| format!("{BATCHED_BENCH} measured nothing"))?;
        Ok(line.speed_tg)
    }
}

/// What a program prints, if it ends well.
fn output(mut command: Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("nothing").trim().to_owned();
        bail!("{program} ended with {}: {last}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
