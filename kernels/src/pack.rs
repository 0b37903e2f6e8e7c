//! Weight matrices as the kernels read them: tiles of eight or 16 rows, interleaved so that rows lie in vector lanes.
//!
//! Owns the bytes and their shape. A tile holds exactly the bytes of its rows' GGUF blocks, reordered as `pack/layout.rs`
//! says; only the last tile is padded, with rows of zeros. Where memory is too tight for packed copies a matrix may keep its rows
//! where they lie, such as in a mapped file, and packs tiles each time they are used. Knows nothing of files: bytes come as a slice.

mod aligned;
pub(crate) mod layout;

pub(crate) use aligned::{AlignedBytes, Part};

use std::sync::Arc;

use crate::block::dequantize;
use crate::pool::Pool;
use crate::weight::WeightType;

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

/// Bytes that somebody else holds too.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A weight matrix of `n_rows` outputs and `n_cols` inputs, for the kernels of one tile width.
#[derive(Clone, Debug)]
pub struct WeightMatrix {
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    tile_rows: usize,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Packed(AlignedBytes),
    /// Row-major GGUF bytes.
    Rows(SharedBytes),
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Storage::Packed(bytes) => write!(f, "{} packed bytes", bytes.as_slice().len()),
            Storage::Rows(_) => f.write_str("rows as they lie"),
        }
    }
}

impl WeightMatrix {
    /// See `Kernels::pack`.
    pub(crate) fn pack(
        pool: &Pool,
        tile_rows: usize,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: &[u8],
    ) -> Result<WeightMatrix, ShapeError> {
        let row_bytes = check_shape(tile_rows, ty, n_rows, n_cols, gguf_bytes)?;
        let tile_bytes = tile_rows * row_bytes;
        let mut bytes = AlignedBytes::zeroed(n_rows.div_ceil(tile_rows) * tile_bytes);
        let item_bytes = tile_bytes * TILES_PER_ITEM;
        pool.for_each_chunk(bytes.as_mut_slice(), item_bytes, |item, tiles| {
            let rows = gguf_bytes[item * item_bytes..].chunks(tile_bytes.max(1));
            for (tile, rows) in tiles.chunks_exact_mut(tile_bytes.max(1)).zip(rows) {
                layout::interleave(ty, tile_rows, rows, row_bytes, tile);
            }
        });
        Ok(WeightMatrix {
            ty,
            n_rows,
            n_cols,
            tile_rows,
            storage: Storage::Packed(bytes),
        })
    }

    /// See `Kernels::unpacked`.
    pub(crate) fn unpacked(
        tile_rows: usize,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
        gguf_bytes: SharedBytes,
    ) -> Result<WeightMatrix, ShapeError> {
        check_shape(tile_rows, ty, n_rows, n_cols, (*gguf_bytes).as_ref())?;
        Ok(WeightMatrix {
            ty,
            n_rows,
            n_cols,
            tile_rows,
            storage: Storage::Rows(gguf_bytes),
        })
    }

    /// See `Kernels::packed_bytes`.
    pub(crate) fn packed_bytes(
        tile_rows: usize,
        ty: WeightType,
        n_rows: usize,
        n_cols: usize,
    ) -> Option<usize> {
        let bytes = n_rows
            .div_ceil(tile_rows)
            .checked_mul(tile_rows)?
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

    /// Bytes of all tiles, padding of the last one included.
    pub fn n_bytes(&self) -> usize {
        self.n_tiles() * self.tile_bytes()
    }

    /// Row `row` as f32, the same values as [`dequantize`] gives: an embedding looked up.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `n_cols` long.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "a row of {} elements", self.n_cols);
        let (elements, block_bytes) = (self.ty.block_elements(), self.ty.block_bytes());
        let n_blocks = self.n_cols / elements;
        match &self.storage {
            Storage::Rows(rows) => {
                let row_bytes = n_blocks * block_bytes;
                let row = &(**rows).as_ref()[row * row_bytes..][..row_bytes];
                dequantize(self.ty, row, out);
            }
            Storage::Packed(bytes) => {
                let tile = &bytes.as_slice()[row / self.tile_rows * self.tile_bytes()..];
                let tile_blocks = tile.chunks_exact(self.tile_rows * block_bytes);
                let mut block = [0; layout::MAX_BLOCK_BYTES];
                let block = &mut block[..block_bytes];
                for (tile_block, out) in tile_blocks.zip(out.chunks_exact_mut(elements)) {
                    let row = row % self.tile_rows;
                    layout::extract_block(self.ty, self.tile_rows, tile_block, row, block);
                    dequantize(self.ty, block, out);
                }
            }
        }
    }

    /// The row-major GGUF bytes this matrix was packed from.
    pub fn unpack(&self) -> Vec<u8> {
        let row_bytes = self.tile_bytes() / self.tile_rows;
        let mut rows = vec![0; self.n_rows * row_bytes];
        for (index, row) in rows.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            let mut buffer = Vec::new();
            let tile = self.tiles(index / self.tile_rows, 1, &mut buffer);
            let tile_blocks = tile.chunks_exact(self.tile_rows * self.ty.block_bytes());
            for (tile_block, block) in tile_blocks.zip(row.chunks_exact_mut(self.ty.block_bytes()))
            {
                layout::extract_block(
                    self.ty,
                    self.tile_rows,
                    tile_block,
                    index % self.tile_rows,
                    block,
                );
            }
        }
        rows
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(self.tile_rows)
    }

    /// Rows of a tile.
    pub(crate) fn tile_rows(&self) -> usize {
        self.tile_rows
    }

    /// Bytes of one tile: those of its rows.
    pub(crate) fn tile_bytes(&self) -> usize {
        self.n_cols / self.ty.block_elements() * self.ty.block_bytes() * self.tile_rows
    }

    /// The packed bytes, unless tiles are packed on use.
    pub(crate) fn packed(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::Packed(bytes) => Some(bytes.as_slice()),
            Storage::Rows(_) => None,
        }
    }

    /// Whether tiles are packed each time they are used.
    pub(crate) fn packs_on_use(&self) -> bool {
        matches!(self.storage, Storage::Rows(_))
    }

    /// The bytes of tiles `first .. first + count`, for which `buffer` may be needed.
    pub(crate) fn tiles<'a>(
        &'a self,
        first: usize,
        count: usize,
        buffer: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        let tile_bytes = self.tile_bytes();
        let range = first * tile_bytes..(first + count) * tile_bytes;
        let rows = match &self.storage {
            Storage::Packed(bytes) => return &bytes.as_slice()[range],
            Storage::Rows(rows) => (**rows).as_ref(),
        };
        buffer.clear();
        buffer.resize(range.len(), 0);
        let rows = &rows[range.start..range.end.min(rows.len())];
        let row_bytes = tile_bytes / self.tile_rows;
        for (tile, rows) in buffer
            .chunks_exact_mut(tile_bytes)
            .zip(rows.chunks(tile_bytes))
        {
            layout::interleave(self.ty, self.tile_rows, rows, row_bytes, tile);
        }
        buffer
    }
}

/// Refuse what is no such matrix; bytes of a row otherwise.
fn check_shape(
    tile_rows: usize,
    ty: WeightType,
    n_rows: usize,
    n_cols: usize,
    gguf_bytes: &[u8],
) -> Result<usize, ShapeError> {
    let too_large = ShapeError::TooLarge { ty, n_rows, n_cols };
    if !n_cols.is_multiple_of(ty.block_elements()) {
        return Err(ShapeError::RaggedRow { ty, n_cols });
    }
    WeightMatrix::packed_bytes(tile_rows, ty, n_rows, n_cols).ok_or_else(|| too_large.clone())?;
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
    Ok(row_bytes)
}
