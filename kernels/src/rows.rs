//! Activations as the matrix products take them: f32 rows, and the same rows quantised to 8 bits.
//!
//! Owns the block structure and its sizes; how a block is filled is law in `isa/scalar/quantize.rs`.

/// Consecutive activations that share one scale: the window in which weights are read.
pub const ACT_BLOCK: usize = 32;

/// Rows whose blocks lie side by side, so that a kernel walks one pointer for all the columns it multiplies at once.
pub(crate) const GROUP_ROWS: usize = 16;

/// The zero point of the only type whose half windows are multiplied apart, Q6_K: taken into account beforehand.
pub(crate) const HALF_ZERO: i32 = 32;

/// 32 consecutive activations of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActBlock {
    /// -127..=127.
    pub codes: [i8; ACT_BLOCK],
    pub d: f32,
    /// What the 32 activations sum to after quantisation: the factor of a weight block's minimum.
    pub s: f32,
    /// Minus the sum of the codes, which a weight's zero point times is to be added: [`HALF_ZERO`] times that of the low half and that
    /// of the high half, and that of both.
    pub minus: [i32; 3],
}

const _: () = assert!(
    size_of::<ActBlock>() == 52,
    "no padding: kernels broadcast from it"
);

impl ActBlock {
    pub(crate) const ZERO: ActBlock = ActBlock {
        codes: [0; ACT_BLOCK],
        d: 0.0,
        s: 0.0,
        minus: [0; 3],
    };
}

/// Rows of `k` activations quantised to 8 bits. Keep one and refill it: its buffer only grows.
#[derive(Clone, Debug, Default)]
pub struct QuantizedRows {
    blocks: Vec<ActBlock>,
    n_rows: usize,
    k: usize,
}

impl PartialEq for QuantizedRows {
    /// Not derived: a buffer may be larger than what is in it.
    fn eq(&self, other: &QuantizedRows) -> bool {
        let len = self.n_rows * (self.k / ACT_BLOCK);
        (self.n_rows, self.k) == (other.n_rows, other.k)
            && self.blocks[..len] == other.blocks[..len]
    }
}

impl QuantizedRows {
    pub fn new() -> QuantizedRows {
        QuantizedRows::default()
    }

    /// Bytes that `n_rows` rows of `k` activations take, for memory budgets.
    pub fn n_bytes(n_rows: usize, k: usize) -> usize {
        n_rows * k.div_ceil(ACT_BLOCK) * size_of::<ActBlock>()
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The values the codes stand for, for tests and measurements of the quantisation error. `out` is `(n_rows, k)`.
    pub fn dequantize(&self, out: &mut [f32]) {
        assert_eq!(
            out.len(),
            self.n_rows * self.k,
            "{} rows of {}",
            self.n_rows,
            self.k
        );
        for (index, out) in out.chunks_exact_mut(self.k.max(1)).enumerate() {
            let (group, n_rows) = self.group(index / GROUP_ROWS);
            let blocks = group.iter().skip(index % GROUP_ROWS).step_by(n_rows);
            for (block, out) in blocks.zip(out.chunks_exact_mut(ACT_BLOCK)) {
                for (out, code) in out.iter_mut().zip(block.codes) {
                    *out = block.d * f32::from(code);
                }
            }
        }
    }

    /// The blocks of one group of at most [`GROUP_ROWS`] rows, `(k / 32, n_rows)`, and its number of rows.
    pub(crate) fn group(&self, index: usize) -> (&[ActBlock], usize) {
        let (first, n_windows) = (index * GROUP_ROWS, self.k / ACT_BLOCK);
        let n_rows = GROUP_ROWS.min(self.n_rows - first);
        (
            &self.blocks[first * n_windows..][..n_rows * n_windows],
            n_rows,
        )
    }

    /// Take the shape `(n_rows, k)` and hand out the blocks to fill, group by group. Allocates only when it has never been
    /// this large.
    pub(crate) fn reshape(&mut self, n_rows: usize, k: usize) -> &mut [ActBlock] {
        assert!(
            k.is_multiple_of(ACT_BLOCK),
            "rows of {k} activations are not whole blocks of {ACT_BLOCK}"
        );
        (self.n_rows, self.k) = (n_rows, k);
        let n_blocks = n_rows * (k / ACT_BLOCK);
        if self.blocks.len() < n_blocks {
            // Exactly, because budgets count on `n_bytes`.
            self.blocks.reserve_exact(n_blocks - self.blocks.len());
            self.blocks.resize(n_blocks, ActBlock::ZERO);
        }
        &mut self.blocks[..n_blocks]
    }
}

/// The input of a matrix product: the same rows as f32 `(n_tokens, k)` for float weights and quantised for the others.
/// The side that the weight types at hand do not read may be empty.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub f32: &'a [f32],
    pub q: &'a QuantizedRows,
}
