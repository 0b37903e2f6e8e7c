//! Attention over a paged KV cache: what a call takes, and how its work is cut up.
//!
//! What a block of the cache holds is in `attention/cache.rs`. The arithmetic is law in `isa/scalar/attention.rs`;
//! `attention/schedule.rs` cuts a call into tiles, `attention/tile.rs` computes one.

mod cache;
mod page;
mod schedule;
mod tile;

use std::ops::Range;

pub use cache::{KV_BLOCK, KvSlice, KvSliceMut, KvType, kv_store};
pub(crate) use cache::{KvHead, Q8_0_BLOCK, STRIPE, key_at, key_scale_at, value_at};
pub use page::KvPage;
pub(crate) use schedule::attention;
pub(crate) use tile::BlockArgs;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttentionRun {
    /// Which sequence, as [`KvBlocks`] counts them.
    pub sequence: usize,
    /// Position of the first token. The keys and values of all these tokens must already be stored.
    pub first_pos: usize,
    /// Rows of the queries and of the output, one a token.
    pub rows: Range<usize>,
}

/// Where the caches of a call's sequences are.
pub trait KvBlocks: Sync {
    /// Block `index` of a sequence: positions `128 index ..`.
    fn block(&self, sequence: usize, index: usize) -> KvBlock<'_>;
}

/// One block of a sequence's KV cache.
#[derive(Clone, Copy, Debug)]
pub enum KvBlock<'a> {
    /// Dropped: it lies wholly outside every query's window.
    Missing,
    Present(KvSlice<'a>),
}

impl KvBlock<'_> {
    pub fn is_missing(&self) -> bool {
        matches!(self, KvBlock::Missing)
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
    pub(crate) fn live(&self, pos: usize) -> Range<usize> {
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

/// Our own code calls this: shapes that do not fit are a bug there.
fn check(spec: &AttentionSpec, runs: &[AttentionRun], kv: &dyn KvBlocks, q: &[f32], out: &[f32]) {
    spec.check();
    assert_eq!(out.len(), q.len(), "out has the shape of q");
    let mut end = 0;
    for AttentionRun {
        sequence,
        first_pos,
        rows,
    } in runs
    {
        assert!(rows.start >= end, "runs are in order and do not overlap");
        end = rows.end;
        assert!(end * spec.q_width() <= q.len(), "rows {rows:?} of q");
        if rows.is_empty() {
            continue;
        }
        let seen = spec.live(*first_pos).start..first_pos + rows.len();
        for index in seen.start / KV_BLOCK..seen.end.div_ceil(KV_BLOCK) {
            let KvBlock::Present(block) = kv.block(*sequence, index) else {
                panic!("block {index} is missing but positions {seen:?} are seen");
            };
            block.check(spec.n_kv_heads, spec.head_dim);
        }
    }
}
