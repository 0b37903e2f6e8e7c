//! Speed of attention: `cargo run -p potluck-kernels --release --example attention_bench`.
//!
//! One layer of each shape, f16 cache, as the best of several calls: microseconds, GB of cache read and billions of
//! multiply-adds a second (causal positions only).

use std::time::{Duration, Instant};

use half::f16;
use potluck_kernels::{
    AttentionRun, AttentionSpec, KV_BLOCK, Kernels, KvBlock, KvSlice, Pool, kv_block_elements,
};

/// (heads, kv heads, head dimension) of small models.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (4, 1, 256), (12, 2, 128)];
/// (tokens in the call, positions before them): decode, and a chunk of prefill.
const CALLS: [(usize, usize); 4] = [(1, 511), (1, 4095), (512, 0), (512, 1536)];
const TIME: Duration = Duration::from_millis(200);

fn main() {
    let kernels = Kernels::detect();
    println!("{}", kernels.isa().name());
    println!("heads kv dim threads tokens before       us   GB/s GMAC/s");
    for (n_heads, n_kv_heads, head_dim) in SHAPES {
        let spec = AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.1,
            window: None,
            softcap: None,
        };
        for n_threads in [1, 2] {
            let pool = Pool::new(n_threads);
            for (n_tokens, before) in CALLS {
                let seconds = time(kernels, &pool, &spec, n_tokens, before);
                let seen: usize = (before + 1..=before + n_tokens).sum();
                let bytes = 2 * (before + n_tokens) * n_kv_heads * head_dim * size_of::<f16>();
                let macs = 2 * seen * n_heads * head_dim;
                let (us, gb, gmac) = (
                    seconds * 1e6,
                    bytes as f64 / seconds / 1e9,
                    macs as f64 / seconds / 1e9,
                );
                print!(
                    "{n_heads:5} {n_kv_heads:2} {head_dim:3} {n_threads:7} {n_tokens:6} {before:6} "
                );
                println!("{us:8.0} {gb:6.1} {gmac:6.1}");
            }
        }
    }
}

/// Seconds of the fastest call.
fn time(
    kernels: Kernels,
    pool: &Pool,
    spec: &AttentionSpec,
    n_tokens: usize,
    before: usize,
) -> f64 {
    let value = |i: usize| ((i as f32) * 0.73).sin();
    let q: Vec<f32> = (0..n_tokens * spec.n_heads * spec.head_dim)
        .map(value)
        .collect();
    let block_len = kv_block_elements(spec.n_kv_heads, spec.head_dim);
    let n_blocks = (before + n_tokens).div_ceil(KV_BLOCK);
    let cache: Vec<f16> = (0..n_blocks * block_len)
        .map(|i| f16::from_f32(value(i)))
        .collect();
    let blocks: Vec<_> = cache
        .chunks(block_len)
        .map(|block| KvBlock::Present(KvSlice::F16(block)))
        .collect();
    let (mut out, mut best, start) = (vec![0.0; q.len()], f64::INFINITY, Instant::now());
    while start.elapsed() < TIME {
        let call = Instant::now();
        let run = AttentionRun {
            q: &q,
            first_pos: before,
            blocks: &blocks,
            out: &mut out,
        };
        kernels.attention(pool, spec, &mut [run]);
        best = best.min(call.elapsed().as_secs_f64());
    }
    best
}
