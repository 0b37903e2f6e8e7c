//! Attention over a paged KV cache: what a block holds, what a call takes, and how its work is cut up.
//!
//! A block is 128 positions of one layer, `[kv_head][K][V]`: K is stored `(head_dim, 128)`, so that positions lie in vector lanes
//! when scores are computed, V is `(128, head_dim)`, so that dimensions do when it is summed. The arithmetic is law in
//! `isa/scalar/attention.rs`; `attention/schedule.rs` cuts a call into tiles, `attention/tile.rs` computes one.

mod schedule;
mod tile;

use half::f16;

pub(crate) use schedule::attention;
pub(crate) use tile::BlockArgs;

/// Positions in a KV block. Blocks begin at multiples of it, and so do the chunks of the softmax.
pub const KV_BLOCK: usize = 128;

/// The shape of one layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    pub n_heads: usize,
    /// Divides `n_heads`; query head h reads kv head `h / (n_heads / n_kv_heads)`.
    pub n_kv_heads: usize,
    /// Elements of a head of q, k and v.
    pub head_dim: usize,
    /// What a dot product of query and key is multiplied with.
    pub scale: f32,
    /// A query at position p sees positions i with `p - i < window`, or all up to p.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Consecutive query tokens of one sequence.
#[derive(Debug)]
pub struct AttentionRun<'a> {
    /// `(n_tokens, n_heads * head_dim)`
    pub q: &'a [f32],
    /// Position of the first token. The keys and values of all these tokens must already be stored.
    pub first_pos: usize,
    /// Block `i` holds positions `128 i ..`.
    pub blocks: &'a [KvBlock<'a>],
    /// `(n_tokens, n_heads * head_dim)`
    pub out: &'a mut [f32],
}

/// One block of a sequence's KV cache.
#[derive(Clone, Copy, Debug)]
pub enum KvBlock<'a> {
    /// Dropped: it lies wholly outside every query's window.
    Missing,
    Present(KvSlice<'a>),
}

/// The elements of a block, as stored.
#[derive(Clone, Copy, Debug)]
pub enum KvSlice<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

/// The elements of a block, to be written.
#[derive(Debug)]
pub enum KvSliceMut<'a> {
    F16(&'a mut [f16]),
    F32(&'a mut [f32]),
}

/// Elements of a block of one layer: keys and values of 128 positions.
pub const fn kv_block_elements(n_kv_heads: usize, head_dim: usize) -> usize {
    2 * KV_BLOCK * n_kv_heads * head_dim
}

/// Store the key and value of one position in slot `position % 128` of its block. `k` and `v` are
/// `(n_kv_heads * head_dim)`; f16 storage rounds to nearest even.
///
/// # Panics
/// If the slot or a length does not fit the block.
pub fn kv_store(block: KvSliceMut<'_>, head_dim: usize, slot: usize, k: &[f32], v: &[f32]) {
    match block {
        KvSliceMut::F16(block) => store(block, head_dim, slot, k, v, f16::from_f32),
        KvSliceMut::F32(block) => store(block, head_dim, slot, k, v, |x| x),
    }
}

fn store<T>(
    block: &mut [T],
    head_dim: usize,
    slot: usize,
    k: &[f32],
    v: &[f32],
    narrow: impl Fn(f32) -> T,
) {
    assert!(slot < KV_BLOCK, "slot {slot} of a block of {KV_BLOCK}");
    assert_eq!(k.len(), v.len(), "k and v have one shape");
    assert_eq!(
        block.len(),
        2 * KV_BLOCK * k.len(),
        "a block of {} kv elements a position",
        k.len()
    );
    let heads = block.chunks_exact_mut(2 * KV_BLOCK * head_dim);
    for ((head, k), v) in heads
        .zip(k.chunks_exact(head_dim))
        .zip(v.chunks_exact(head_dim))
    {
        let (keys, values) = head.split_at_mut(KV_BLOCK * head_dim);
        for (place, k) in keys.iter_mut().skip(slot).step_by(KV_BLOCK).zip(k) {
            *place = narrow(*k);
        }
        for (place, v) in values[slot * head_dim..].iter_mut().zip(v) {
            *place = narrow(*v);
        }
    }
}

impl AttentionSpec {
    /// Query heads that share a kv head.
    pub(crate) fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Elements of a token's queries.
    pub(crate) fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Positions that a query at `pos` sees.
    pub(crate) fn live(&self, pos: usize) -> std::ops::Range<usize> {
        let first = self
            .window
            .map_or(0, |window| (pos + 1).saturating_sub(window));
        first..pos + 1
    }

    /// Our own code calls this: a shape that does not fit is a bug there.
    fn check(&self) {
        assert!(self.n_kv_heads > 0 && self.head_dim > 0, "{self:?}");
        assert!(self.n_heads.is_multiple_of(self.n_kv_heads), "{self:?}");
        assert!(self.window != Some(0), "a window of no positions");
    }
}

impl AttentionRun<'_> {
    pub(crate) fn n_tokens(&self, spec: &AttentionSpec) -> usize {
        self.q.len() / spec.q_width()
    }

    fn check(&self, spec: &AttentionSpec) {
        let n_tokens = self.n_tokens(spec);
        assert_eq!(self.q.len(), n_tokens * spec.q_width(), "q is whole tokens");
        assert_eq!(self.out.len(), self.q.len(), "out has the shape of q");
        if n_tokens == 0 {
            return;
        }
        let (first, end) = (spec.live(self.first_pos).start, self.first_pos + n_tokens);
        assert!(
            end.div_ceil(KV_BLOCK) <= self.blocks.len(),
            "{} blocks for {end} positions",
            self.blocks.len()
        );
        for (index, block) in self.blocks[..end.div_ceil(KV_BLOCK)]
            .iter()
            .enumerate()
            .skip(first / KV_BLOCK)
        {
            let len = match block {
                KvBlock::Missing => {
                    panic!("block {index} is missing but positions {first}..{end} are seen")
                }
                KvBlock::Present(KvSlice::F16(data)) => data.len(),
                KvBlock::Present(KvSlice::F32(data)) => data.len(),
            };
            assert_eq!(
                len,
                kv_block_elements(spec.n_kv_heads, spec.head_dim),
                "elements of block {index}"
            );
        }
    }
}
