//! `potluck demo` as the shortest way to an answer computed by worker processes.

use std::path::Path;

use serde_json::Value;

use crate::models;
use crate::process::invoke;

/// One question to a demo cluster.
#[derive(Debug, Clone)]
pub struct Demo<'a> {
    pub model: &'a Path,
    pub prompt: &'a str,
    /// Continue the prompt instead of answering it.
    pub raw: bool,
    pub n_tokens: u32,
    pub temperature: f32,
    pub n_workers: u32,
    pub n_threads: u32,
    /// Compute another answer at the same time.
    pub beside_another: bool,
    /// Instruction set; the best one if empty.
    pub isa: &'static str,
    /// How keys and values are stored.
    pub kv_cache_type: &'static str,
    /// Whether weights stay in their files.
    pub map_weights: bool,
}

impl Demo<'_> {
    /// The tokens of the answer, and everything else that was reported.
    pub fn tokens(&self) -> Vec<u32> {
        let report = self.report();
        let stages = report["stages"].as_array().map_or(0, Vec::len);
        assert_eq!(
            stages, self.n_workers as usize,
            "every worker is a stage: {report}"
        );
        let tokens = report["tokens"].as_array().expect("tokens");
        let tokens: Vec<u32> = tokens
            .iter()
            .filter_map(Value::as_u64)
            .map(|id| id as u32)
            .collect();
        assert!(!tokens.is_empty(), "an answer without a token: {report}");
        tokens
    }

    /// What `--json` prints.
    pub fn report(&self) -> Value {
        let mut arguments = vec!["demo".to_owned(), "--json".into()];
        let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        flag("--model", self.model.display().to_string());
        flag("--prompt", self.prompt.into());
        flag("--max-tokens", self.n_tokens.to_string());
        flag("--temperature", self.temperature.to_string());
        flag("--seed", SEED.into());
        flag("--workers", self.n_workers.to_string());
        flag("--threads", self.n_threads.to_string());
        arguments.extend(self.raw.then(|| "--raw".to_owned()));
        arguments.extend(self.beside_another.then(|| "--beside-another".to_owned()));
        // The weights are shared by all demos: what they hold is checked by hash, and fetching is tested elsewhere.
        invoke(arguments)
            .env("POTLUCK_WEIGHTS", models::cache().join("weights"))
            .env("POTLUCK_ISA", self.isa)
            .env("POTLUCK_KV_CACHE_TYPE", self.kv_cache_type)
            .env("POTLUCK_MAP_WEIGHTS", self.map_weights.to_string())
            .finish()
            .json()
    }
}

/// Any number will do, as long as it stays the same.
const SEED: &str = "20240607";
