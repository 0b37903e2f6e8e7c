//! Reference logits, and how far other logits are from them.
//!
//! `tests/vectors/MODEL.TEXT.exact.json` holds the truth: the model's weights widened to f32 and everything computed in
//! f32. `MODEL.TEXT.json` holds what llama.cpp b11434 computes from the same file. Both list the 20 highest logits of every
//! position, so both sides are judged by those: see [`distance`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::binary::crate_folder;
use crate::process::invoke;

/// The texts that there are vectors of: prose, code, and many scripts.
pub const TEXTS: [&str; 3] = ["a1", "a2", "a3"];

/// Logits of a text.
#[derive(Debug, Deserialize)]
pub struct Logits {
    pub prompt_tokens: Vec<u32>,
    pub positions: Vec<Position>,
    /// Tokens that follow, each the likeliest.
    pub greedy: Vec<u32>,
    pub greedy_text: String,
    /// The comparison that `eval --against` adds.
    #[serde(default)]
    pub comparison: Value,
}

/// Logits after one token.
#[derive(Debug, Deserialize)]
pub struct Position {
    /// Logarithm of the sum of the exponentials of all logits.
    pub lse: f64,
    /// The highest logits with their token ids.
    pub top: Vec<(u32, f64)>,
}

/// Where the logits of a text are.
pub fn vectors(model: &str, text: &str, kind: Kind) -> PathBuf {
    let suffix = match kind {
        Kind::Exact => "exact.json",
        Kind::LlamaCpp => "json",
    };
    crate_folder()
        .join("vectors")
        .join(format!("{model}.{text}.{suffix}"))
}

/// Whose logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Exact,
    LlamaCpp,
}

/// Reads logits from a file.
pub fn read(path: &Path) -> Logits {
    let bytes = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The file of a text.
pub fn text(name: &str) -> PathBuf {
    crate_folder().join("vectors").join(format!("{name}.txt"))
}

/// The logits that `potluck eval` computes.
pub fn eval(model: &Path, text: &Path, more: &[&str]) -> Logits {
    let arguments = ["eval", "--json", "--model"].map(std::ffi::OsStr::new);
    let paths = [model.as_os_str(), "--text".as_ref(), text.as_os_str()];
    let more = more.iter().map(std::ffi::OsStr::new);
    let report = invoke(arguments.into_iter().chain(paths).chain(more))
        .finish()
        .json();
    serde_json::from_value(report).expect("eval prints logits")
}

/// The mean over positions of the Kullback-Leibler divergence of `other` from `exact`, over the tokens that `exact` lists.
/// A token that `other` does not list counts with the lowest logit that it does list.
pub fn distance(exact: &[Position], other: &[Position]) -> f64 {
    assert_eq!(exact.len(), other.len(), "logits of the same positions");
    let sum: f64 = exact
        .iter()
        .zip(other)
        .map(|(exact, other)| divergence(exact, other))
        .sum();
    sum / exact.len() as f64
}

fn divergence(exact: &Position, other: &Position) -> f64 {
    let logits: HashMap<u32, f64> = other.top.iter().copied().collect();
    let lowest = other.top.last().expect("a position lists logits").1;
    let terms = exact.top.iter().map(|(id, logit)| {
        let ln_p = logit - exact.lse;
        let ln_q = logits.get(id).unwrap_or(&lowest) - other.lse;
        ln_p.exp() * (ln_p - ln_q)
    });
    terms.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{GEMMA3, QWEN, SMOLLM2};

    #[test]
    fn the_distance_of_llama_cpp_is_what_was_measured_over_whole_vocabularies() {
        let measured = [
            (SMOLLM2, [0.0056, 0.0038, 0.0096]),
            (GEMMA3, [0.0055, 0.0082, 0.0065]),
            (QWEN, [0.0102, 0.0115, 0.0102]),
        ];
        for (model, of_texts) in measured {
            for (text, measured) in TEXTS.iter().zip(of_texts) {
                let exact = read(&vectors(model, text, Kind::Exact));
                let theirs = read(&vectors(model, text, Kind::LlamaCpp));
                assert_eq!(exact.prompt_tokens, theirs.prompt_tokens);
                let distance = distance(&exact.positions, &theirs.positions);
                assert!(
                    (distance - measured).abs() < 0.0002,
                    "{model} {text}: {distance}, not {measured}"
                );
            }
        }
    }
}
