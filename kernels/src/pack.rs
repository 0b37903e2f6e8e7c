//! Weight matrices as the kernels read them: tiles of eight rows, interleaved so that rows lie in vector lanes.
//!
//! Owns the packed bytes and their shape. A tile holds exactly the bytes of its rows' GGUF blocks, reordered as
//! `pack/layout.rs` says; only the last tile is padded, with rows of zeros. Knows nothing of files: bytes come as a slice.

mod aligned;
pub(crate) mod layout;

use aligned::AlignedBytes;

use crate::block::dequantize;
use crate::pool::Pool;
use crate::weight::WeightType;

/// Rows of a tile: the f32 lanes of a 256-bit vector.
pub(crate) const TILE_ROWS: usize = 8;

/// Tiles packed by one item of a parallel loop: enough to hide the cost of claiming it.
const TILES_PER_ITEM: usize = 16;

/// A matrix that cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    #[error(
        "a {ty} matrix cannot have rows of {n_cols} elements: they must be whole blocks of {block}; \
         the file's tensor table is wrong or names another type",
        ty = ty.name(), block = ty.block_elements()
    )]
    RaggedRow { ty: WeightType, n_cols: usize },
    #[error("a {ty} matrix of {n_rows} x {n_cols} is larger than this machine can address", ty = ty.name())]
    TooLarge {
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
    },
    #[error(
        "a {ty} matrix of {n_rows} x {n_cols} takes {expected} bytes but {actual} were given; \
         fetch the tensor again",
        ty = ty.name()
    )]
    WrongLength {
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        expected: usize,
        actual: usize,
    },
}

/// A weight matrix of `n_rows` outputs and `n_cols` inputs, packed for the kernels.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    bytes: AlignedBytes,
}

impl PackedMatrix {
    /// Pack row-major GGUF bytes.
    pub fn pack(
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: &[u8],
    ) -> Result<PackedMatrix, ShapeError> {
        Self::pack_on(&Pool::new(1), ty, n_rows, n_cols, gguf_bytes)
    }

    /// [`PackedMatrix::pack`] on all threads of a pool.
    pub fn pack_on(
        pool: &Pool,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: &[u8],
    ) -> Result<PackedMatrix, ShapeError> {
        let too_large = ShapeError::TooLarge { ty, n_rows, n_cols };
        if !n_cols.is_multiple_of(ty.block_elements()) {
            return Err(ShapeError::RaggedRow { ty, n_cols });
        }
        let packed_bytes =
            Self::packed_bytes(ty, n_rows, n_cols).ok_or_else(|| too_large.clone())?;
        let row_bytes = ty.row_bytes(n_cols).ok_or_else(|| too_large.clone())?;
        let expected = n_rows.checked_mul(row_bytes).ok_or(too_large)?;
        if gguf_bytes.len() != expected {
            return Err(ShapeError::WrongLength {
                ty,
                n_rows,
                n_cols,
                expected,
                actual: gguf_bytes.len(),
            });
        }
        let mut bytes = AlignedBytes::zeroed(packed_bytes);
        let (tile_bytes, tile_rows_bytes) = (
            TILE_ROWS * row_bytes,
            TILE_ROWS * row_bytes * TILES_PER_ITEM,
        );
        pool.for_each_chunk(bytes.as_mut_slice(), tile_rows_bytes, |item, tiles| {
            let rows = gguf_bytes[item * tile_rows_bytes..].chunks(tile_bytes.max(1));
            for (tile, rows) in tiles.chunks_exact_mut(tile_bytes.max(1)).zip(rows) {
                layout::interleave(ty, rows, row_bytes, tile);
            }
        });
        Ok(PackedMatrix {
            ty,
            n_rows,
            n_cols,
            bytes,
        })
    }

    /// Bytes that a packed matrix of this shape takes, for memory budgets; `None` if no such matrix can be packed.
    pub fn packed_bytes(ty: WeightType, n_rows: usize, n_cols: usize) -> Option<usize> {
        let bytes = n_rows
            .div_ceil(TILE_ROWS)
            .checked_mul(TILE_ROWS)?
            .checked_mul(ty.row_bytes(n_cols)?)?;
        (bytes <= AlignedBytes::MAX_LEN).then_some(bytes)
    }

    pub fn ty(&self) -> WeightType {
        self.ty
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Bytes held, padding of the last tile included.
    pub fn n_bytes(&self) -> usize {
        self.bytes.as_slice().len()
    }

    /// Row `row` as f32, the same values as [`dequantize`] gives: an embedding looked up.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `n_cols` long.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "a row of {} elements", self.n_cols);
        let tile = self.tiles(row / TILE_ROWS, 1);
        let (elements, block_bytes) = (self.ty.block_elements(), self.ty.block_bytes());
        let mut block = [0; layout::MAX_BLOCK_BYTES];
        let tile_blocks = tile.chunks_exact(TILE_ROWS * block_bytes);
        for (tile_block, out) in tile_blocks.zip(out.chunks_exact_mut(elements)) {
            layout::extract_block(
                self.ty,
                tile_block,
                row % TILE_ROWS,
                &mut block[..block_bytes],
            );
            dequantize(self.ty, &block[..block_bytes], out);
        }
    }

    /// The row-major GGUF bytes this matrix was packed from.
    pub fn unpack(&self) -> Vec<u8> {
        let row_bytes = self.tile_bytes() / TILE_ROWS;
        let mut rows = vec![0; self.n_rows * row_bytes];
        for (index, row) in rows.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            let tile = self.tiles(index / TILE_ROWS, 1);
            let tile_blocks = tile.chunks_exact(TILE_ROWS * self.ty.block_bytes());
            for (tile_block, block) in tile_blocks.zip(row.chunks_exact_mut(self.ty.block_bytes()))
            {
                layout::extract_block(self.ty, tile_block, index % TILE_ROWS, block);
            }
        }
        rows
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(TILE_ROWS)
    }

    /// Bytes of one tile: those of eight rows.
    pub(crate) fn tile_bytes(&self) -> usize {
        self.n_cols / self.ty.block_elements() * self.ty.block_bytes() * TILE_ROWS
    }

    /// The bytes of tiles `first .. first + count`.
    pub(crate) fn tiles(&self, first: usize, count: usize) -> &[u8] {
        let tile_bytes = self.tile_bytes();
        &self.bytes.as_slice()[first * tile_bytes..(first + count) * tile_bytes]
    }
}
