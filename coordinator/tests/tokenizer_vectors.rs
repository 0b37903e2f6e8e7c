//! Tokens compared with other people's: llama.cpp's fixtures for its vocabularies, and the prompts of `tests/vectors`.

mod common;

use std::fs;
use std::path::Path;

use potluck_coordinator::text::{AddBos, ControlTokens, Special, Tokenizer};
use potluck_gguf::{Gguf, Mapped};

/// The vocabularies with fixtures whose kind is supported.
const SUPPORTED: &[&str] = &[
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "qwen2",
    "qwen35",
    "mpt",
    "phi-3",
    "refact",
    "starcoder",
    "command-r",
];

/// Vocabularies that must be refused by name, not guessed at.
const REFUSED: &[&str] = &[
    "bert-bge",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
];

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

fn tokenizer(path: &Path) -> Result<Tokenizer, String> {
    let mapped = Mapped::open(path).map_err(|error| error.to_string())?;
    let gguf = Gguf::parse(mapped.bytes()).map_err(|error| error.to_string())?;
    Tokenizer::from_gguf(gguf.metadata()).map_err(|error| error.to_string())
}

#[test]
fn llama_cpp_fixtures() {
    let models = common::llama_cpp_models();
    let mut checked = 0;
    for name in SUPPORTED {
        let path = models.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = tokenizer(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let texts = fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let tokens = fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let texts: Vec<&str> = texts.split_terminator(SEPARATOR).collect();
        assert_eq!(texts.len(), tokens.lines().count(), "{name}");
        for (text, line) in texts.iter().zip(tokens.lines()) {
            let expected: Vec<u32> = line
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let ours = tokenizer
                .encode(text, Special::Text, AddBos::Never)
                .unwrap();
            assert_eq!(ours, expected, "{name}: {text:?}");
            // These two vocabularies have no token for some of the bytes in the texts.
            if !matches!(*name, "refact" | "starcoder") {
                assert_eq!(
                    tokenizer.decode(&ours, ControlTokens::Hide),
                    *text,
                    "{name}"
                );
            }
            checked += 1;
        }
    }
    assert!(
        checked >= 45 * SUPPORTED.len(),
        "only {checked} texts were compared"
    );
}

#[test]
fn unsupported_vocabularies_are_refused_by_name() {
    let models = common::llama_cpp_models();
    for name in REFUSED {
        let error = tokenizer(&models.join(format!("ggml-vocab-{name}.gguf")))
            .map(drop)
            .unwrap_err();
        assert!(
            error.contains("is not supported") && error.contains("the supported ones are"),
            "{name}: {error}"
        );
    }
}

#[test]
fn prompts_of_the_reference_vectors() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    let models = [
        "smollm2-135m-instruct-q4_1",
        "gemma3-270m-q4_k_m",
        "qwen2.5-coder-1.5b",
    ];
    for name in models {
        let Some(path) = common::model(name) else {
            eprintln!("{name} is not here: not compared");
            continue;
        };
        let tokenizer = tokenizer(&path).unwrap();
        for text in ["a1", "a2", "a3"] {
            let prompt = fs::read_to_string(vectors.join(format!("{text}.txt"))).unwrap();
            let vector = fs::read_to_string(vectors.join(format!("{name}.{text}.json"))).unwrap();
            let vector: serde_json::Value = serde_json::from_str(&vector).unwrap();
            let ids =
                |key: &str| -> Vec<u32> { serde_json::from_value(vector[key].clone()).unwrap() };
            let ours = tokenizer
                .encode(&prompt, Special::Text, AddBos::ModelRule)
                .unwrap();
            assert_eq!(ours, ids("prompt_tokens"), "{name} {text}");
            assert_eq!(
                tokenizer.decode(&ours, ControlTokens::Hide),
                prompt,
                "{name} {text}"
            );
            let greedy = tokenizer.decode(&ids("greedy"), ControlTokens::Show);
            assert_eq!(
                greedy,
                vector["greedy_text"].as_str().unwrap(),
                "{name} {text}"
            );
        }
    }
}
