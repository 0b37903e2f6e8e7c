//! Activations as the matrix products take them: f32 rows, and the same rows quantised to 8 bits.
//!
//! Owns the block structure and its sizes; how a block is filled is law in `isa/scalar/quantize.rs`.

/// Consecutive activations that share one scale.
pub const ACT_BLOCK: usize = 16;

/// Activations in one [`ActBlock`], the step of every quantised product.
pub(crate) const ACT_WINDOW: usize = 32;

/// Scales in one [`ActBlock`].
pub(crate) const ACT_SCALES: usize = ACT_WINDOW / ACT_BLOCK;

const _: () = assert!(
    ACT_BLOCK == 16 || ACT_BLOCK == 32,
    "a scale covers half a window or a whole one"
);

/// 32 consecutive activations of one row. One struct, so that a kernel walks one pointer per row.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActBlock {
    /// -127..=127.
    pub codes: [i8; ACT_WINDOW],
    /// Scale of each `ACT_BLOCK` codes.
    pub d: [f32; ACT_SCALES],
    /// What the 32 activations sum to after quantisation: the factor of a weight block's minimum.
    pub s: f32,
    /// Sum of the codes of each half.
    pub sums: [i16; 2],
}

const _: () = assert!(
    size_of::<ActBlock>() == 32 + 4 * ACT_SCALES + 4 + 4,
    "no padding: kernels broadcast from it"
);

impl ActBlock {
    pub(crate) const ZERO: ActBlock = ActBlock {
        codes: [0; ACT_WINDOW],
        d: [0.0; ACT_SCALES],
        s: 0.0,
        sums: [0; 2],
    };
}

/// Rows of `k` activations quantised to 8 bits. Keep one and refill it: its buffer only grows.
#[derive(Clone, Debug, Default)]
pub struct QuantizedRows {
    blocks: Vec<ActBlock>,
    n_rows: usize,
    k: usize,
}

impl QuantizedRows {
    pub fn new() -> QuantizedRows {
        QuantizedRows::default()
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
        for (block, out) in self.blocks().iter().zip(out.chunks_exact_mut(ACT_WINDOW)) {
            for (j, out) in out.iter_mut().enumerate() {
                *out = block.d[j / ACT_BLOCK] * f32::from(block.codes[j]);
            }
        }
    }

    /// `(n_rows, k / 32)`.
    pub(crate) fn blocks(&self) -> &[ActBlock] {
        &self.blocks[..self.n_rows * (self.k / ACT_WINDOW)]
    }

    /// Take the shape `(n_rows, k)` and hand out the blocks to fill. Allocates only when it has never been this large.
    pub(crate) fn reshape(&mut self, n_rows: usize, k: usize) -> &mut [ActBlock] {
        assert!(
            k.is_multiple_of(ACT_WINDOW),
            "rows of {k} activations are not whole blocks of {ACT_WINDOW}"
        );
        (self.n_rows, self.k) = (n_rows, k);
        let n_blocks = n_rows * (k / ACT_WINDOW);
        if self.blocks.len() < n_blocks {
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
