//! Attention: near the exact one, and the same bits however a sequence is cut into calls, batches, threads and tiers.

mod common;

use common::*;
use half::f16;
use potluck_kernels::{
    AttentionRun, AttentionSpec, KV_BLOCK, Kernels, KvBlock, KvBlocks, KvSlice, KvSliceMut, KvType,
    Pool, kv_store,
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
    /// As stored, widened.
    k: Vec<f32>,
    v: Vec<f32>,
    blocks: Vec<Block>,
    n_tokens: usize,
}

enum Block {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8_0(Vec<i8>, Vec<f16>),
}

impl Block {
    /// What lies beyond the stored positions must not matter, not even infinities.
    fn unused(ty: KvType, n_elements: usize) -> Block {
        match ty {
            KvType::F32 => Block::F32(vec![f32::INFINITY; n_elements]),
            KvType::F16 => Block::F16(vec![f16::INFINITY; n_elements]),
            KvType::Q8_0 => Block::Q8_0(
                vec![1; n_elements],
                vec![f16::INFINITY; KvType::n_scales(n_elements)],
            ),
        }
    }

    fn slice(&self) -> KvSlice<'_> {
        match self {
            Block::F32(data) => KvSlice::F32(data),
            Block::F16(data) => KvSlice::F16(data),
            Block::Q8_0(codes, scales) => KvSlice::Q8_0 { codes, scales },
        }
    }

    fn slice_mut(&mut self) -> KvSliceMut<'_> {
        match self {
            Block::F32(data) => KvSliceMut::F32(data),
            Block::F16(data) => KvSliceMut::F16(data),
            Block::Q8_0(codes, scales) => KvSliceMut::Q8_0 { codes, scales },
        }
    }
}

/// What 32 values become in q8_0, in double precision where it does not matter.
fn through_q8_0(x: &[f32]) -> Vec<f32> {
    let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
    let scale = f16::from_f32(max / 127.0).to_f32();
    let code = |x: &f32| (x * (1.0 / scale)).round_ties_even().clamp(-127.0, 127.0);
    x.iter().map(|x| scale * code(x)).collect()
}

/// Blocks of several sequences.
struct Caches<'a>(Vec<Vec<KvBlock<'a>>>);

impl KvBlocks for Caches<'_> {
    fn block(&self, sequence: usize, index: usize) -> KvBlock<'_> {
        self.0[sequence][index]
    }
}

fn run_of(sequence: usize, first_pos: usize, rows: std::ops::Range<usize>) -> AttentionRun {
    AttentionRun {
        sequence,
        first_pos,
        rows,
    }
}

impl Sequence {
    fn new(seed: u64, spec: AttentionSpec, n_tokens: usize) -> Sequence {
        Sequence::of_type(KvType::F16, seed, spec, n_tokens)
    }

    fn of_type(ty: KvType, seed: u64, spec: AttentionSpec, n_tokens: usize) -> Sequence {
        let mut rng = Rng::new(seed);
        let kv_width = spec.n_kv_heads * spec.head_dim;
        let q = rng
            .floats(n_tokens * spec.n_heads * spec.head_dim)
            .iter()
            .map(|x| x * 3.0)
            .collect();
        let (k, v) = (
            rng.floats(n_tokens * kv_width),
            rng.floats(n_tokens * kv_width),
        );
        let n_elements = KvType::block_elements(spec.n_kv_heads, spec.head_dim);
        let mut blocks: Vec<Block> = (0..n_tokens.div_ceil(KV_BLOCK))
            .map(|_| Block::unused(ty, n_elements))
            .collect();
        for (pos, (k, v)) in k.chunks(kv_width).zip(v.chunks(kv_width)).enumerate() {
            let block = blocks[pos / KV_BLOCK].slice_mut();
            kv_store(block, spec.head_dim, pos % KV_BLOCK, k, v);
        }
        let stored = |x: Vec<f32>| -> Vec<f32> {
            match ty {
                KvType::F32 => x,
                KvType::F16 => x.iter().map(|x| f16::from_f32(*x).to_f32()).collect(),
                KvType::Q8_0 => x.chunks(32).flat_map(through_q8_0).collect(),
            }
        };
        Sequence {
            spec,
            q,
            k: stored(k),
            v: stored(v),
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
            .map(|block| KvBlock::Present(block.slice()))
            .collect()
    }

    /// All tokens, in calls of `chunk` tokens.
    fn run(&self, kernels: Kernels, pool: &Pool, chunk: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.q.len()];
        let caches = Caches(vec![self.kv_blocks()]);
        let chunks = self
            .q
            .chunks(chunk * self.width())
            .zip(out.chunks_mut(chunk * self.width()));
        for (index, (q, out)) in chunks.enumerate() {
            let run = run_of(0, index * chunk, 0..q.len() / self.width());
            kernels.attention(pool, &self.spec, &[run], &caches, q, out);
        }
        out
    }

    fn exact(&self) -> Vec<f64> {
        let (dim, group) = (self.spec.head_dim, self.spec.n_heads / self.spec.n_kv_heads);
        let mut out = Vec::new();
        for (row, q) in self.q.chunks(dim).enumerate() {
            let (pos, head) = (row / self.spec.n_heads, row % self.spec.n_heads);
            let at = |i: usize, d: usize| (i * self.spec.n_kv_heads + head / group) * dim + d;
            let first = self
                .spec
                .window
                .map_or(0, |window| (pos + 1).saturating_sub(window));
            let score = |i: usize| {
                let k = &self.k[at(i, 0)..][..dim];
                let dot: f64 = k
                    .iter()
                    .zip(q)
                    .map(|(k, q)| f64::from(*k) * f64::from(*q))
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
                    .map(|(i, w)| w * f64::from(self.v[at(i, d)]))
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

/// Each shape with each type of cache that can hold it.
fn cases() -> impl Iterator<Item = (AttentionSpec, KvType)> {
    specs().into_iter().flat_map(|spec| {
        [KvType::F32, KvType::F16, KvType::Q8_0]
            .into_iter()
            .filter(move |ty| *ty != KvType::Q8_0 || spec.head_dim.is_multiple_of(32))
            .map(move |ty| (spec, ty))
    })
}

#[test]
fn near_the_exact_softmax() {
    for (spec, ty) in cases() {
        let sequence = Sequence::of_type(ty, 11, spec, 300);
        let error = nmse(
            &sequence.run(Kernels::detect(), &Pool::new(2), 300),
            &sequence.exact(),
        );
        assert!(error < 1e-11, "{spec:?} {ty:?}: {error:e}");
    }
}

#[test]
fn q8_0_is_near_what_was_stored() {
    let [exact, coarse] = [KvType::F32, KvType::Q8_0]
        .map(|ty| Sequence::of_type(ty, 17, SPEC, 200).run(Kernels::detect(), &Pool::new(1), 200));
    let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
    let error = nmse(&coarse, &exact);
    assert!(error < 1e-4, "{error:e}");
}

#[test]
fn every_tier_gives_the_same_bits() {
    for (spec, ty) in cases() {
        let sequence = Sequence::of_type(ty, 12, spec, 290);
        let expected = sequence.run(scalar_kernels(), &Pool::new(1), 290);
        for kernels in vector_kernels() {
            for chunk in [290, 1] {
                assert_same_bits(
                    &sequence.run(kernels, &Pool::new(1), chunk),
                    &expected,
                    &format!("{spec:?} {ty:?} {chunk} a call"),
                );
            }
        }
    }
}

#[test]
fn the_cut_into_calls_and_threads_changes_no_bit() {
    for (spec, ty) in cases() {
        let sequence = Sequence::of_type(ty, 13, spec, 270);
        let kernels = Kernels::detect();
        let expected = sequence.run(kernels, &Pool::new(1), 270);
        for (chunk, n_threads) in [(1, 1), (1, 3), (5, 2), (64, 2), (128, 3), (270, 3)] {
            let got = sequence.run(kernels, &Pool::new(n_threads), chunk);
            assert_same_bits(
                &got,
                &expected,
                &format!("{spec:?} {ty:?} {chunk} a call, {n_threads} threads"),
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
    let caches = Caches(sequences.iter().map(Sequence::kv_blocks).collect());
    let (mut q, mut runs) = (Vec::new(), Vec::new());
    for (index, sequence) in sequences.iter().enumerate() {
        let first_row = q.len() / sequence.width();
        q.extend_from_slice(&sequence.q);
        runs.push(run_of(index, 0, first_row..first_row + sequence.n_tokens));
    }
    let mut out = vec![0.0; q.len()];
    kernels.attention(&pool, &SPEC, &runs, &caches, &q, &mut out);
    for (sequence, run) in sequences.iter().zip(&runs) {
        let width = sequence.width();
        assert_same_bits(
            &out[run.rows.start * width..run.rows.end * width],
            &sequence.run(kernels, &pool, sequence.n_tokens),
            "alone and together",
        );
    }
}

#[test]
fn f32_storage_of_the_same_values_gives_the_same_bits() {
    for ty in [KvType::F16, KvType::Q8_0] {
        let sequence = Sequence::of_type(ty, 14, SPEC, 200);
        let mut wide = Sequence::of_type(KvType::F32, 14, SPEC, 200);
        let kv_width = SPEC.n_kv_heads * SPEC.head_dim;
        let rows = sequence.k.chunks(kv_width).zip(sequence.v.chunks(kv_width));
        for (pos, (k, v)) in rows.enumerate() {
            let block = wide.blocks[pos / KV_BLOCK].slice_mut();
            kv_store(block, SPEC.head_dim, pos % KV_BLOCK, k, v);
        }
        let (kernels, pool) = (Kernels::detect(), Pool::new(2));
        for chunk in [1, 200] {
            assert_same_bits(
                &wide.run(kernels, &pool, chunk),
                &sequence.run(kernels, &pool, chunk),
                &format!("f32 and {ty:?} storage"),
            );
        }
    }
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
    let q = &sequence.q[from * width..];
    let mut out = vec![0.0; q.len()];
    let run = run_of(0, from, 0..q.len() / width);
    let caches = Caches(vec![blocks]);
    kernels.attention(&pool, &spec, &[run], &caches, q, &mut out);
    assert_same_bits(&out, &expected[from * width..], "with dropped blocks");
}
