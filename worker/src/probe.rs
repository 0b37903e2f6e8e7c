//! How fast this machine is, measured with the kernels that will do the work.

use std::sync::Arc;
use std::time::Instant;

use potluck_kernels::{Kernels, Pool, QuantizedRows, Rows, ShapeError, WeightMatrix, WeightType};

use crate::load::WeightStorage;

/// Speeds that a planner divides work by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Weight bytes read a second in a matrix-vector product.
    pub weight_bytes_per_second: f64,
    /// Multiply-adds a second in a matrix-matrix product.
    pub macs_per_second: f64,
}

/// Rows of 2304 bytes: 36 MiB in all, more than the caches of most machines hold.
const N_ROWS: usize = 16_384;
const N_COLS: usize = 4096;

/// Tokens of the matrix-matrix product, and the rows that it takes of the matrix.
const N_TOKENS: usize = 64;
const GEMM_ROWS: usize = 1024;

/// The fastest of a few repetitions: what the machine can do when nothing else runs.
const REPETITIONS: usize = 3;

/// Measures, in a fraction of a second.
pub fn measure(kernels: Kernels, pool: &Pool, storage: WeightStorage) -> Result<Speed, ShapeError> {
    let matrix = matrix(kernels, pool, storage, N_ROWS)?;
    let decode_s = fastest(kernels, pool, &matrix, 1);
    let gemm_matrix = self::matrix(kernels, pool, storage, GEMM_ROWS)?;
    let prefill_s = fastest(kernels, pool, &gemm_matrix, N_TOKENS);
    Ok(Speed {
        weight_bytes_per_second: matrix.n_bytes() as f64 / decode_s,
        macs_per_second: (N_TOKENS * GEMM_ROWS * N_COLS) as f64 / prefill_s,
    })
}

/// A Q4_K matrix of one byte value, whose scales are ordinary numbers.
fn matrix(
    kernels: Kernels,
    pool: &Pool,
    storage: WeightStorage,
    n_rows: usize,
) -> Result<WeightMatrix, ShapeError> {
    const FILL: u8 = 0x11;
    let n_bytes =
        n_rows * N_COLS / WeightType::Q4_K.block_elements() * WeightType::Q4_K.block_bytes();
    let (ty, bytes) = (WeightType::Q4_K, vec![FILL; n_bytes]);
    match storage {
        WeightStorage::Mapped => kernels.unpacked(ty, n_rows, N_COLS, Arc::new(bytes)),
        _ => kernels.pack(pool, ty, n_rows, N_COLS, &bytes),
    }
}

/// Seconds of one product.
fn fastest(kernels: Kernels, pool: &Pool, matrix: &WeightMatrix, n_tokens: usize) -> f64 {
    let x = vec![0.5; n_tokens * N_COLS];
    let mut quantized = QuantizedRows::new();
    kernels.quantize_rows(pool, &x, n_tokens, N_COLS, &mut quantized);
    let mut out = vec![0.0; n_tokens * matrix.n_rows()];
    let rows = Rows {
        f32: &x,
        q: &quantized,
    };
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        kernels.matmul(pool, matrix, rows, &mut out);
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
