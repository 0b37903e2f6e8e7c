//! A tokenizer small enough to build in a test: every byte, two control tokens and a user-defined one.
#![allow(dead_code)] // Each test file uses its own part.

use potluck_coordinator::text::Tokenizer;
use potluck_gguf::{Gguf, GgufWriter, OwnedValue};

/// Ids of its tokens that are no bytes.
pub const START: u32 = 256;
pub const END: u32 = 257;
pub const THINK: u32 = 258;

/// The model file, without a chat template.
pub fn file() -> GgufWriter {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut shifted = 255;
    let mut tokens: Vec<String> = (0..256u32)
        .map(|byte| {
            if printable(byte) {
                byte
            } else {
                shifted += 1;
                shifted
            }
        })
        .map(|code| char::from_u32(code).unwrap().to_string())
        .collect();
    tokens.extend(["<|im_start|>", "<|im_end|>", "<think>"].map(str::to_owned));
    let types: Vec<i32> = [vec![1; 256], vec![3, 3, 4]].concat();
    GgufWriter::new()
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", "gpt-2")
        .with("tokenizer.ggml.tokens", OwnedValue::strings(&tokens))
        .with("tokenizer.ggml.token_type", OwnedValue::i32s(&types))
        .with("tokenizer.ggml.merges", OwnedValue::strings(["h i"]))
        .with("tokenizer.ggml.bos_token_id", START)
        .with("tokenizer.ggml.eos_token_id", END)
        .with("tokenizer.ggml.add_bos_token", true)
}

pub fn tokenizer() -> Tokenizer {
    let bytes = file().to_bytes();
    Tokenizer::from_gguf(Gguf::parse(&bytes).unwrap().metadata()).unwrap()
}
