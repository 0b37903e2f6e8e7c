//! Speed of attention: `cargo run -p potluck-kernels --release --example attention_bench [isa]`.
//!
//! One layer of each shape and type of cache, as the best of several calls: microseconds, GB of cache read and billions of
//! multiply-adds a second (causal positions only). A call of one token finds none of its keys and values in the CPU's caches, as
//! in a model of many layers: as many layers take turns as that needs.

use std::time::{Duration, Instant};

use potluck_kernels::{
    AttentionRun, AttentionSpec, Isa, KV_BLOCK, Kernels, KvBlock, KvBlocks, KvPage, KvType, Pool,
    kv_store,
};

/// (heads, kv heads, head dimension) of small models.
const SHAPES: [(usize, usize, usize); 3] = [(9, 3, 64), (4, 1, 256), (12, 2, 128)];
/// (tokens in the call, positions before them): decode, and a chunk of prefill.
const CALLS: [(usize, usize); 4] = [(1, 511), (1, 4095), (512, 0), (512, 1536)];
const TIME: Duration = Duration::from_millis(200);
/// More than the caches of most machines hold.
const COLD_BYTES: u128 = 128 << 20;

/// The cache of one sequence: pages of one block of every layer.
struct Cache {
    pages: Vec<KvPage>,
    block_len: usize,
    layer: usize,
}

impl KvBlocks for Cache {
    fn block(&self, _sequence: usize, index: usize) -> KvBlock<'_> {
        let start = self.layer * self.block_len;
        KvBlock::Present(self.pages[index].slice(start..start + self.block_len))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let isa = std::env::args().nth(1);
    let isa = isa.map_or(Ok(Isa::detect()), |name| Isa::from_name(&name))?;
    let kernels = Kernels::new(isa)?;
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
    Ok(())
}

fn cache(spec: &AttentionSpec, ty: KvType, n_positions: usize, n_layers: usize) -> Cache {
    let width = spec.n_kv_heads * spec.head_dim;
    let block_len = KvType::block_elements(spec.n_kv_heads, spec.head_dim);
    let n_blocks = n_positions.div_ceil(KV_BLOCK);
    let mut pages: Vec<KvPage> = (0..n_blocks)
        .map(|_| KvPage::new(ty, n_layers * block_len))
        .collect();
    let row: Vec<f32> = (0..width).map(value).collect();
    for pos in 0..n_positions {
        for layer in 0..n_layers {
            let block = layer * block_len..(layer + 1) * block_len;
            let block = pages[pos / KV_BLOCK].slice_mut(block);
            kv_store(block, spec.head_dim, pos % KV_BLOCK, &row, &row);
        }
    }
    Cache {
        pages,
        block_len,
        layer: 0,
    }
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
    let n_positions = before + n_tokens;
    let layer_bytes = ty.n_bytes((2 * n_positions * spec.n_kv_heads * spec.head_dim) as u128);
    let n_layers = match n_tokens {
        1 => COLD_BYTES.div_ceil(layer_bytes) as usize,
        _ => 1,
    };
    let mut cache = cache(spec, ty, n_positions, n_layers);
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
        cache.layer = (cache.layer + 1) % n_layers;
    }
    best
}
