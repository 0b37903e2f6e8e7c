//! The limits of this machine, measured with the pool and the instructions that will do the work: what speeds are shares of.

use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Instant;

use crate::kernels::Kernels;
use crate::pack::{AlignedBytes, WeightMatrix};
use crate::pool::Pool;

/// Four times the last-level cache of most home machines.
const READ_BYTES: usize = 256 << 20;
const READ_ITEM: usize = 1 << 20;

/// Weights of fewer bytes are not read in place of memory of our own: much of them would come from the cache.
const MIN_WEIGHT_BYTES: usize = 64 << 20;

/// Some milliseconds of multiplying on a fast core.
const ROUNDS: usize = 200_000;
const SCALAR_ROUNDS: usize = 100_000;

/// The best of a few repetitions is what the machine can do when nothing else runs.
const REPETITIONS: usize = 7;

/// What a machine can do at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes read from memory a second by all threads together.
    pub read_bytes_per_second: f64,
    /// Multiply-adds of bytes a second, operands in registers, all threads together.
    pub int8_macs_per_second: f64,
}

impl Kernels {
    /// Measure the limits of this machine, in about a quarter of a second. Memory is read where `weights` lie, if they are packed
    /// and large: on a machine with several memory controllers, or a virtual one, some of it may be much faster than the rest.
    pub fn limits(&self, pool: &Pool, weights: &[&WeightMatrix]) -> Limits {
        let weights = weights.iter().filter_map(|matrix| matrix.packed());
        let mut parts: Vec<&[u8]> = weights.flat_map(|bytes| bytes.chunks(READ_ITEM)).collect();
        let mut memory;
        if n_bytes(&parts) < MIN_WEIGHT_BYTES {
            memory = AlignedBytes::zeroed(READ_BYTES);
            pool.for_each_chunk(memory.as_mut_slice(), READ_ITEM, |index, part| {
                part.fill(index as u8);
            });
            parts = memory.as_slice().chunks(READ_ITEM).collect();
        }
        let read = fastest(|| {
            let sum = AtomicI32::new(0);
            pool.for_each(parts.len(), |item| {
                let mut part = 0;
                self.read(parts[item], &mut part);
                sum.fetch_add(part, Ordering::Relaxed);
            });
            std::hint::black_box(sum.into_inner());
            n_bytes(&parts)
        });
        let n_rounds = match self.isa() {
            crate::isa::Isa::Scalar => SCALAR_ROUNDS,
            _ => ROUNDS,
        };
        let int8 = fastest(|| {
            let total = AtomicUsize::new(0);
            pool.for_each(4 * pool.n_threads(), |_| {
                let mut n_products = 0;
                self.multiply(n_rounds, &mut n_products);
                total.fetch_add(n_products, Ordering::Relaxed);
            });
            total.into_inner()
        });
        Limits {
            read_bytes_per_second: read,
            int8_macs_per_second: int8,
        }
    }
}

fn n_bytes(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Units a second of the fastest repetition.
fn fastest(work: impl Fn() -> usize) -> f64 {
    let rates = (0..REPETITIONS).map(|_| {
        let start = Instant::now();
        work() as f64 / start.elapsed().as_secs_f64()
    });
    rates.fold(0.0, f64::max)
}
