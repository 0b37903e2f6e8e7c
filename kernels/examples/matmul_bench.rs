//! Speed of the matrix products: `cargo run -p potluck-kernels --release --example matmul_bench [isa] [type ...]`.
//!
//! For each type, size, thread count and number of columns: GB of weights and billions of multiply-adds a second,
//! activation quantisation included, and the larger of their shares of what the machine can do at most. Of several rounds the fastest
//! counts, as the machine may be shared.

use std::time::{Duration, Instant};

use potluck_kernels::{Isa, Kernels, Pool, QuantizedRows, Rows, WeightMatrix, WeightType};

/// (inputs, outputs): the projections of small models; and enough matrices of each to overflow the caches in decode.
const SIZES: [(usize, usize); 2] = [(576, 1536), (8960, 1536)];
const COLUMNS: [usize; 5] = [1, 4, 8, 128, 512];
const WEIGHT_BYTES: usize = 64 << 20;
const TIME: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let kernels = Kernels::new(
        args.first()
            .map_or(Ok(Isa::detect()), |name| Isa::from_name(name))?,
    )?;
    let wanted = |ty: &WeightType| args.len() < 2 || args[1..].iter().any(|name| name == ty.name());
    let limits = [1, 2].map(|n_threads| kernels.limits(&Pool::new(n_threads), &[]));
    println!("{}", kernels.isa().name());
    for (i, limit) in limits.iter().enumerate() {
        println!(
            "limits with {} threads: {:.1} GB/s, {:.1} GMAC/s",
            i + 1,
            limit.read_bytes_per_second / 1e9,
            limit.int8_macs_per_second / 1e9
        );
    }
    println!("type      k  rows threads cols   GB/s GMAC/s  limit");
    for ty in WeightType::ALL.into_iter().filter(wanted) {
        for (n_cols, n_rows) in SIZES {
            let Some(size) = kernels.packed_bytes(ty, n_rows, n_cols) else {
                continue;
            };
            let bytes = weights(n_rows * ty.row_bytes(n_cols).unwrap_or(0));
            let w = kernels.pack(&Pool::new(1), ty, n_rows, n_cols, &bytes)?;
            let matrices = vec![w; (WEIGHT_BYTES / size).max(1)];
            for n_threads in [1, 2] {
                let pool = Pool::new(n_threads);
                for n_tokens in COLUMNS {
                    let seconds = time(kernels, &pool, &matrices, n_tokens);
                    let gb = size as f64 / seconds / 1e9;
                    let gmac = (n_rows * n_cols * n_tokens) as f64 / seconds / 1e9;
                    let limit = limits[n_threads - 1];
                    let share = (gb * 1e9 / limit.read_bytes_per_second)
                        .max(gmac * 1e9 / limit.int8_macs_per_second);
                    let ty = ty.name();
                    println!(
                        "{ty:5} {n_cols:5} {n_rows:5} {n_threads:7} {n_tokens:4} {gb:6.1} {gmac:6.1} {:5.0}%",
                        100.0 * share
                    );
                }
            }
        }
    }
    Ok(())
}

/// Bytes that are no type's infinity or NaN: every f16 or f32 among them is a small number.
fn weights(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7] & 0x3b)
        .collect()
}

/// Seconds of one product.
fn time(kernels: Kernels, pool: &Pool, matrices: &[WeightMatrix], n_tokens: usize) -> f64 {
    let (k, n_rows) = (matrices[0].n_cols(), matrices[0].n_rows());
    let x: Vec<f32> = (0..n_tokens * k).map(|i| (i as f32 * 0.37).sin()).collect();
    let (mut q, mut out) = (QuantizedRows::new(), vec![0.0; n_tokens * n_rows]);
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < TIME {
        let round = &matrices[..if n_tokens > 8 { 1 } else { matrices.len() }];
        let round_start = Instant::now();
        for w in round {
            kernels.quantize_rows(pool, &x, n_tokens, k, &mut q);
            kernels.matmul(pool, w, Rows { f32: &x, q: &q }, &mut out);
        }
        best = best.min(round_start.elapsed().as_secs_f64() / round.len() as f64);
    }
    best
}
