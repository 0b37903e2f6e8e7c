//! Valid files with bytes changed at random: nothing may panic, and what is accepted must keep its promises.
//!
//! The seed is fixed, so a failure comes back; `proptest` shrinks and prints it. `GGUF_SEEDS=FOLDER` also writes the files
//! that the mutations start from, as a corpus for the fuzzer.

mod raw;
#[path = "../fuzz/src/lib.rs"]
mod target;

use potluck_gguf::{GgufWriter, OwnedValue, TensorType};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

/// Enough to hit every check many times, short enough for every run (about a second).
const CASES: u32 = 20_000;

/// One change to a file.
#[derive(Debug, Clone)]
enum Mutation {
    Byte {
        at: usize,
        value: u8,
    },
    Bit {
        at: usize,
        bit: u8,
    },
    /// Eight bytes overwritten with a number that breaks arithmetic.
    Number {
        at: usize,
        value: u64,
    },
    Cut {
        at: usize,
    },
    Remove {
        at: usize,
        n: usize,
    },
    Repeat {
        at: usize,
        n: usize,
    },
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len().max(1);
        match *self {
            Mutation::Byte { at, value } => bytes
                .iter_mut()
                .skip(at % len)
                .take(1)
                .for_each(|b| *b = value),
            Mutation::Bit { at, bit } => bytes
                .iter_mut()
                .skip(at % len)
                .take(1)
                .for_each(|b| *b ^= 1 << bit),
            Mutation::Number { at, value } => {
                bytes
                    .iter_mut()
                    .skip(at % len)
                    .zip(value.to_le_bytes())
                    .for_each(|(b, new)| *b = new);
            }
            Mutation::Cut { at } => bytes.truncate(at % len),
            Mutation::Remove { at, n } => {
                let from = (at % len).min(bytes.len());
                bytes.drain(from..(from + n).min(bytes.len()));
            }
            Mutation::Repeat { at, n } => {
                let from = (at % len).min(bytes.len());
                let piece = bytes[from..(from + n).min(bytes.len())].to_vec();
                bytes.splice(from..from, piece);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Positions lean to the front, where the header is.
    let at = || prop_oneof![3 => 0..600usize, 1 => any::<usize>()];
    let number = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 62),
        Just(1 << 31),
        Just(1 << 32),
        Just(u64::MAX - 31),
        0..200u64,
        any::<u64>(),
        (0..64u32).prop_map(|bit| 1 << bit),
    ];
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(at, value)| Mutation::Byte { at, value }),
        3 => (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Bit { at, bit }),
        4 => (at(), number).prop_map(|(at, value)| Mutation::Number { at, value }),
        1 => at().prop_map(|at| Mutation::Cut { at }),
        1 => (at(), 0..40usize).prop_map(|(at, n)| Mutation::Remove { at, n }),
        1 => (at(), 0..40usize).prop_map(|(at, n)| Mutation::Repeat { at, n }),
    ]
}

/// The files to start from: one with odd parts, one whose shape is complete.
fn seeds() -> Vec<Vec<u8>> {
    let model = GgufWriter::new()
        .with("general.architecture", "gemma3")
        .with("gemma3.block_count", 6u32)
        .with("gemma3.embedding_length", 64u32)
        .with("gemma3.feed_forward_length", 128u32)
        .with("gemma3.context_length", 2048u32)
        .with("gemma3.attention.head_count", OwnedValue::u32s(&[4; 6]))
        .with("gemma3.attention.sliding_window", 512u32)
        .with(
            "gemma3.attention.sliding_window_pattern",
            OwnedValue::bools(&[true; 6]),
        )
        .with("gemma3.attention.layer_norm_rms_epsilon", 1e-5f32)
        .with("gemma3.rope.scaling.factor", 8f32)
        .with("general.alignment", 8u32)
        .with("tokenizer.ggml.tokens", OwnedValue::strings(["a", "b"]))
        .with_tensor("token_embd.weight", TensorType::Q4_0, &[64, 2], vec![3; 72])
        .and_then(|w| w.with_f32_tensor("output_norm.weight", &[64], &[1.0; 64]))
        .unwrap();
    vec![raw::Raw::valid().to_bytes(), model.to_bytes()]
}

#[test]
fn mutated_files_never_panic() {
    let seeds = seeds();
    let config = ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = (0..seeds.len(), proptest::collection::vec(mutation(), 0..5));
    let result = runner.run(&strategy, |(seed, mutations)| {
        let mut bytes = seeds[seed].clone();
        mutations
            .iter()
            .for_each(|mutation| mutation.apply(&mut bytes));
        target::fuzz_one(&bytes);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

/// Every single bit of a small file, flipped alone.
#[test]
fn every_flipped_bit_is_survived() {
    for seed in seeds() {
        for at in 0..seed.len() * 8 {
            let mut bytes = seed.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            target::fuzz_one(&bytes);
        }
    }
}

#[test]
fn noise_is_survived() {
    let config = ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let strategy = proptest::collection::vec(any::<u8>(), 0..300);
    let result = runner.run(&strategy, |noise| {
        target::fuzz_one(&noise);
        target::fuzz_one(&[&b"GGUF\x03\0\0\0"[..], &noise].concat());
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn seeds_are_valid_and_can_be_written_out() {
    for (i, seed) in seeds().iter().enumerate() {
        potluck_gguf::Gguf::parse(seed).unwrap();
        if let Some(folder) = std::env::var_os("GGUF_SEEDS") {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(format!("seed{i}")), seed).unwrap();
        }
    }
}
