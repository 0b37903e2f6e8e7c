//! What the tests share: an allocator with a fence behind every buffer, a seeded generator, weights of every type, and comparisons
//! of bits.
#![allow(dead_code)] // each test file uses its part

// `--cfg no_fence` leaves allocations to the system, for tools that watch them themselves.
#[cfg(all(unix, not(no_fence)))]
mod fence;

use half::{bf16, f16};
use potluck_kernels::{Isa, Kernels, WeightType};

/// SplitMix64: small, seeded, the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Where the f16 factors of a block are.
fn scale_offsets(ty: WeightType) -> &'static [usize] {
    match ty {
        WeightType::Q4_0 | WeightType::Q5_0 | WeightType::Q8_0 => &[0],
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4_K | WeightType::Q5_K => &[0, 2],
        WeightType::Q6_K => &[208],
        WeightType::F32 | WeightType::F16 | WeightType::BF16 => &[],
    }
}

/// How the codes and scales of test weights are drawn.
#[derive(Clone, Copy, Debug)]
pub enum Codes {
    Random,
    /// Every byte of every code and sub-scale the same.
    All(u8),
    /// Bytes alternate.
    Alternating(u8, u8),
}

pub fn random_weights(rng: &mut Rng, ty: WeightType, n_rows: usize, n_cols: usize) -> Vec<u8> {
    weights(rng, ty, n_rows, n_cols, Codes::Random)
}

/// GGUF bytes whose f16 factors are ordinary numbers of either sign; everything else as `codes` says.
pub fn weights(
    rng: &mut Rng,
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    codes: Codes,
) -> Vec<u8> {
    let n = n_rows * n_cols;
    match ty {
        WeightType::F32 => rng
            .floats(n)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect(),
        WeightType::F16 => rng
            .floats(n)
            .into_iter()
            .flat_map(|x| f16::from_f32(x).to_le_bytes())
            .collect(),
        WeightType::BF16 => rng
            .floats(n)
            .into_iter()
            .flat_map(|x| bf16::from_f32(x).to_le_bytes())
            .collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..n / ty.block_elements() * ty.block_bytes())
                .map(|i| match codes {
                    Codes::Random => rng.next() as u8,
                    Codes::All(byte) => byte,
                    Codes::Alternating(even, odd) => [even, odd][i % 2],
                })
                .collect();
            for block in bytes.chunks_exact_mut(ty.block_bytes()) {
                for at in scale_offsets(ty) {
                    let scale = f16::from_f32(rng.f32() * 0.01);
                    block[*at..*at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            bytes
        }
    }
}

/// Kernels of every tier this CPU has but the scalar one.
pub fn vector_kernels() -> Vec<Kernels> {
    Isa::ALL
        .into_iter()
        .filter(|isa| *isa != Isa::Scalar)
        .filter_map(|isa| Kernels::new(isa).ok())
        .collect()
}

pub fn scalar_kernels() -> Kernels {
    Kernels::new(Isa::Scalar).unwrap()
}

/// Equality of every bit, with the place of the first difference.
#[track_caller]
pub fn assert_same_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(
            got.to_bits(),
            expected.to_bits(),
            "{what}: element {at} is {got:e}, not {expected:e}"
        );
    }
}

/// Mean squared error over mean square of the truth.
pub fn nmse(got: &[f32], truth: &[f64]) -> f64 {
    let error: f64 = got
        .iter()
        .zip(truth)
        .map(|(got, truth)| (f64::from(*got) - truth).powi(2))
        .sum();
    error / truth.iter().map(|truth| truth * truth).sum::<f64>()
}
