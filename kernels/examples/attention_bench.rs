//! Speed of attention: `cargo run -p potluck-kernels --release --example attention_bench`.
//!
//! One layer of each shape and type of cache, as the best of several calls: microseconds, GB of cache read and billions of
//! multiply-adds a second (causal positions only).

use std::time::{Duration, Instant};

use half::f16;
use potluck_kernels::{
    AttentionRun, AttentionSpec, KV_BLOCK, Kernels, KvBlock, KvBlocks, KvSlice, KvSliceMut, KvType,
    Pool, kv_store,
};

/// (heads, kv heads, head dimension) of small models.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (4, 1, 256), (12, 2, 128)];
/// (tokens in the call, positions before them): decode, and a chunk of prefill.
const CALLS: [(usize, usize); 4] = [(1, 511), (1, 4095), (512, 0), (512, 1536)];
const TIME: Duration = Duration::from_millis(200);

/// The cache of one sequence, block by block.
enum Cache {
    F16(Vec<Vec<f16>>),
    Q8_0(Vec<(Vec<i8>, Vec<f16>)>),
}

impl KvBlocks for Cache {
    fn block(&self, _sequence: usize, index: usize) -> KvBlock<'_> {
        KvBlock::Present(match self {
            Cache::F16(blocks) => KvSlice::F16(&blocks[index]),
            Cache::Q8_0(blocks) => {
                let (codes, scales) = &blocks[index];
                KvSlice::Q8_0 { codes, scales }
            }
        })
    }
}

fn main() {
    let kernels = Kernels::detect();
    println!("{}", kernels.isa().name());
    println!("heads kv dim cache threads tokens before       us   GB/s GMAC/s");
    for (n_heads, n_kv_heads, head_dim) in SHAPES {
        let spec = AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.1,
            window: None,
            softcap: None,
        };
        for (ty, name) in [(KvType::F16, "f16"), (KvType::Q8_0, "q8_0")] {
            for n_threads in [1, 2] {
                let pool = Pool::new(n_threads);
                for (n_tokens, before) in CALLS {
                    let seconds = time(kernels, &pool, &spec, ty, n_tokens, before);
                    let seen: usize = (before + 1..=before + n_tokens).sum();
                    let elements = 2 * (before + n_tokens) * n_kv_heads * head_dim;
                    let bytes = ty.n_bytes(elements as u128);
                    let macs = 2 * seen * n_heads * head_dim;
                    let (us, gb, gmac) = (
                        seconds * 1e6,
                        bytes as f64 / seconds / 1e9,
                        macs as f64 / seconds / 1e9,
                    );
                    print!("{n_heads:5} {n_kv_heads:2} {head_dim:3} {name:>5} {n_threads:7} ");
                    println!("{n_tokens:6} {before:6} {us:8.0} {gb:6.1} {gmac:6.1}");
                }
            }
        }
    }
}

fn cache(spec: &AttentionSpec, ty: KvType, n_positions: usize) -> Cache {
    let (n_blocks, width) = (
        n_positions.div_ceil(KV_BLOCK),
        spec.n_kv_heads * spec.head_dim,
    );
    let len = KvType::block_elements(spec.n_kv_heads, spec.head_dim);
    let mut cache = match ty {
        KvType::Q8_0 => {
            let block = (vec![0; len], vec![f16::ZERO; KvType::n_scales(len)]);
            Cache::Q8_0(vec![block; n_blocks])
        }
        _ => Cache::F16(vec![vec![f16::ZERO; len]; n_blocks]),
    };
    for pos in 0..n_positions {
        let block = match &mut cache {
            Cache::F16(blocks) => KvSliceMut::F16(&mut blocks[pos / KV_BLOCK]),
            Cache::Q8_0(blocks) => {
                let (codes, scales) = &mut blocks[pos / KV_BLOCK];
                KvSliceMut::Q8_0 { codes, scales }
            }
        };
        let row: Vec<f32> = (0..width).map(|i| value(pos * width + i)).collect();
        kv_store(block, spec.head_dim, pos % KV_BLOCK, &row, &row);
    }
    cache
}

fn value(i: usize) -> f32 {
    ((i as f32) * 0.73).sin()
}

/// Seconds of the fastest call.
fn time(
    kernels: Kernels,
    pool: &Pool,
    spec: &AttentionSpec,
    ty: KvType,
    n_tokens: usize,
    before: usize,
) -> f64 {
    let width = spec.n_heads * spec.head_dim;
    let q: Vec<f32> = (0..n_tokens * width).map(value).collect();
    let cache = cache(spec, ty, before + n_tokens);
    let run = [AttentionRun {
        sequence: 0,
        first_pos: before,
        rows: 0..n_tokens,
    }];
    let (mut out, mut best, start) = (vec![0.0; q.len()], f64::INFINITY, Instant::now());
    while start.elapsed() < TIME {
        let call = Instant::now();
        kernels.attention(pool, spec, &run, &cache, &q, &mut out);
        best = best.min(call.elapsed().as_secs_f64());
    }
    best
}
