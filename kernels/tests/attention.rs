//! Attention: near the exact one, and the same bits however a sequence is cut into calls, batches, threads and tiers.

mod common;

use common::*;
use half::f16;
use potluck_kernels::{
    AttentionRun, AttentionSpec, KV_BLOCK, Kernels, KvBlock, KvSlice, KvSliceMut, Pool,
    kv_block_elements, kv_store,
};

const SPEC: AttentionSpec = AttentionSpec {
    n_heads: 6,
    n_kv_heads: 2,
    head_dim: 32,
    scale: 0.18,
    window: None,
    softcap: None,
};

/// A sequence with all its keys and values stored.
struct Sequence {
    spec: AttentionSpec,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    blocks: Vec<Vec<f16>>,
    n_tokens: usize,
}

impl Sequence {
    fn new(seed: u64, spec: AttentionSpec, n_tokens: usize) -> Sequence {
        let mut rng = Rng::new(seed);
        let kv_width = spec.n_kv_heads * spec.head_dim;
        let exact = |x: Vec<f32>| {
            x.into_iter()
                .map(|x| f16::from_f32(x).to_f32())
                .collect::<Vec<_>>()
        };
        let q = rng
            .floats(n_tokens * spec.n_heads * spec.head_dim)
            .iter()
            .map(|x| x * 3.0)
            .collect();
        let (k, v) = (
            exact(rng.floats(n_tokens * kv_width)),
            exact(rng.floats(n_tokens * kv_width)),
        );
        // What lies beyond the stored positions must not matter, not even infinities.
        let unused = vec![f16::INFINITY; kv_block_elements(spec.n_kv_heads, spec.head_dim)];
        let mut blocks = vec![unused; n_tokens.div_ceil(KV_BLOCK)];
        for (pos, (k, v)) in k.chunks(kv_width).zip(v.chunks(kv_width)).enumerate() {
            let block = KvSliceMut::F16(&mut blocks[pos / KV_BLOCK]);
            kv_store(block, spec.head_dim, pos % KV_BLOCK, k, v);
        }
        Sequence {
            spec,
            q,
            k,
            v,
            blocks,
            n_tokens,
        }
    }

    fn width(&self) -> usize {
        self.spec.n_heads * self.spec.head_dim
    }

    fn kv_blocks(&self) -> Vec<KvBlock<'_>> {
        self.blocks
            .iter()
            .map(|block| KvBlock::Present(KvSlice::F16(block)))
            .collect()
    }

    /// All tokens, in calls of `chunk` tokens.
    fn run(&self, kernels: Kernels, pool: &Pool, chunk: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let blocks = self.kv_blocks();
        let chunks = self
            .q
            .chunks(chunk * self.width())
            .zip(out.chunks_mut(chunk * self.width()));
        for (index, (q, out)) in chunks.enumerate() {
            let run = AttentionRun {
                q,
                first_pos: index * chunk,
                blocks: &blocks,
                out,
            };
            kernels.attention(pool, &self.spec, &mut [run]);
        }
        out
    }

    fn exact(&self) -> Vec<f64> {
        let (dim, group) = (self.spec.head_dim, self.spec.n_heads / self.spec.n_kv_heads);
        let mut out = Vec::new();
        for (row, q) in self.q.chunks(dim).enumerate() {
            let (pos, head) = (row / self.spec.n_heads, row % self.spec.n_heads);
            let of = |data: &[f32], i: usize| -> Vec<f64> {
                let at = (i * self.spec.n_kv_heads + head / group) * dim;
                data[at..at + dim].iter().map(|x| f64::from(*x)).collect()
            };
            let first = self
                .spec
                .window
                .map_or(0, |window| (pos + 1).saturating_sub(window));
            let score = |i: usize| {
                let dot: f64 = of(&self.k, i)
                    .iter()
                    .zip(q)
                    .map(|(k, q)| k * f64::from(*q))
                    .sum();
                let score = dot * f64::from(self.spec.scale);
                self.spec.softcap.map_or(score, |cap| {
                    f64::from(cap) * (score / f64::from(cap)).tanh()
                })
            };
            let weights: Vec<f64> = (first..=pos).map(|i| score(i).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                (first..=pos)
                    .zip(&weights)
                    .map(|(i, w)| w * of(&self.v, i)[d])
                    .sum::<f64>()
                    / sum
            }));
        }
        out
    }
}

fn specs() -> Vec<AttentionSpec> {
    vec![
        SPEC,
        AttentionSpec {
            n_heads: 4,
            n_kv_heads: 1,
            head_dim: 64,
            window: Some(100),
            ..SPEC
        },
        AttentionSpec {
            n_heads: 3,
            n_kv_heads: 3,
            head_dim: 40,
            softcap: Some(5.0),
            ..SPEC
        },
        AttentionSpec {
            n_heads: 7,
            n_kv_heads: 1,
            head_dim: 36,
            window: Some(7),
            softcap: Some(2.0),
            ..SPEC
        },
        AttentionSpec {
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 9,
            window: Some(1),
            ..SPEC
        },
    ]
}

#[test]
fn near_the_exact_softmax() {
    for spec in specs() {
        let sequence = Sequence::new(11, spec, 300);
        let error = nmse(
            &sequence.run(Kernels::detect(), &Pool::new(2), 300),
            &sequence.exact(),
        );
        assert!(error < 1e-11, "{spec:?}: {error:e}");
    }
}

#[test]
fn every_tier_gives_the_same_bits() {
    for spec in specs() {
        let sequence = Sequence::new(12, spec, 290);
        let expected = sequence.run(scalar_kernels(), &Pool::new(1), 290);
        for kernels in vector_kernels() {
            assert_same_bits(
                &sequence.run(kernels, &Pool::new(1), 290),
                &expected,
                &format!("{spec:?}"),
            );
        }
    }
}

#[test]
fn the_cut_into_calls_and_threads_changes_no_bit() {
    for spec in specs() {
        let sequence = Sequence::new(13, spec, 270);
        let kernels = Kernels::detect();
        let expected = sequence.run(kernels, &Pool::new(1), 270);
        for (chunk, n_threads) in [(1, 1), (1, 3), (5, 2), (64, 2), (128, 3), (270, 3)] {
            let got = sequence.run(kernels, &Pool::new(n_threads), chunk);
            assert_same_bits(
                &got,
                &expected,
                &format!("{spec:?} {chunk} a call, {n_threads} threads"),
            );
        }
    }
}

#[test]
fn other_sequences_in_the_call_change_no_bit() {
    let sequences: Vec<_> = (0..5)
        .map(|i| Sequence::new(20 + i, SPEC, 1 + 61 * i as usize))
        .collect();
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let blocks: Vec<_> = sequences.iter().map(Sequence::kv_blocks).collect();
    let mut outs: Vec<_> = sequences.iter().map(|s| vec![0.0; s.q.len()]).collect();
    let mut runs: Vec<_> = sequences
        .iter()
        .zip(&blocks)
        .zip(&mut outs)
        .map(|((s, blocks), out)| AttentionRun {
            q: &s.q,
            first_pos: 0,
            blocks,
            out,
        })
        .collect();
    kernels.attention(&pool, &SPEC, &mut runs);
    for (sequence, out) in sequences.iter().zip(&outs) {
        assert_same_bits(
            out,
            &sequence.run(kernels, &pool, sequence.n_tokens),
            "alone and together",
        );
    }
}

#[test]
fn f32_storage_of_the_same_values_gives_the_same_bits() {
    let sequence = Sequence::new(14, SPEC, 200);
    let wide: Vec<Vec<f32>> = sequence
        .blocks
        .iter()
        .map(|b| b.iter().map(|x| x.to_f32()).collect())
        .collect();
    let blocks: Vec<_> = wide
        .iter()
        .map(|block| KvBlock::Present(KvSlice::F32(block)))
        .collect();
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let mut out = vec![0.0; sequence.q.len()];
    let run = AttentionRun {
        q: &sequence.q,
        first_pos: 0,
        blocks: &blocks,
        out: &mut out,
    };
    kernels.attention(&pool, &SPEC, &mut [run]);
    assert_same_bits(
        &out,
        &sequence.run(kernels, &pool, 200),
        "f32 and f16 storage",
    );
}

#[test]
fn dropped_blocks_outside_the_window_are_not_touched() {
    let spec = AttentionSpec {
        window: Some(130),
        ..SPEC
    };
    let sequence = Sequence::new(15, spec, 520);
    let (kernels, pool) = (Kernels::detect(), Pool::new(2));
    let expected = sequence.run(kernels, &pool, 520);
    let mut blocks = sequence.kv_blocks();
    blocks[..2].fill(KvBlock::Missing);
    let (from, width) = (400, sequence.width());
    let mut out = vec![0.0; sequence.q.len() - from * width];
    let run = AttentionRun {
        q: &sequence.q[from * width..],
        first_pos: from,
        blocks: &blocks,
        out: &mut out,
    };
    kernels.attention(&pool, &spec, &mut [run]);
    assert_same_bits(&out, &expected[from * width..], "with dropped blocks");
}
