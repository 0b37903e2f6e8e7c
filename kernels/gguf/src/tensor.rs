//! One entry of the tensor table: what a tensor is and which bytes of the file it occupies.

use crate::error::{GgufError, quoted};
use crate::limits::MAX_DIMS;
use crate::tensor_type::TensorType;

/// A tensor's dimensions, fastest first: `ne[0]` is the row length. At least one, each at least 1, product below 2^63.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// Padded with 1.
    ne: [u64; MAX_DIMS],
    n_dims: u8,
}

impl Dims {
    /// `None` when there are none or more than four, when one is zero, or when their product reaches 2^63.
    pub fn new(ne: &[u64]) -> Option<Dims> {
        if ne.is_empty() || ne.len() > MAX_DIMS || ne.contains(&0) {
            return None;
        }
        let product = ne
            .iter()
            .try_fold(1u64, |product, &n| product.checked_mul(n))?;
        i64::try_from(product).ok()?;
        let mut padded = [1; MAX_DIMS];
        padded[..ne.len()].copy_from_slice(ne);
        Some(Dims {
            ne: padded,
            n_dims: ne.len() as u8,
        })
    }

    /// The dimensions as the file lists them, fastest first.
    pub fn as_slice(&self) -> &[u64] {
        &self.ne[..usize::from(self.n_dims)]
    }

    /// Elements of a row, `ne[0]`.
    pub fn row_len(&self) -> u64 {
        self.ne[0]
    }

    /// Rows: the product of all dimensions but the first.
    pub fn n_rows(&self) -> u64 {
        self.ne[1..].iter().product()
    }

    /// Elements in all.
    pub fn n_elements(&self) -> u64 {
        self.ne.iter().product()
    }
}

impl std::fmt::Debug for Dims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

impl TensorType {
    /// Bytes that a tensor called `name` of this type takes; refuses rows that are not whole blocks and sizes from 2^63.
    pub fn tensor_bytes(self, dims: &Dims, name: &str) -> Result<u64, GgufError> {
        let (row, block) = (dims.row_len(), self.block_elements());
        if row % block != 0 {
            return Err(GgufError::RowNotBlocks {
                name: quoted(name.as_bytes()),
                row,
                block,
                ty: self.name(),
            });
        }
        (dims.n_elements() / block)
            .checked_mul(self.block_bytes())
            .filter(|&n_bytes| i64::try_from(n_bytes).is_ok())
            .ok_or_else(|| GgufError::TensorTooLarge {
                name: quoted(name.as_bytes()),
            })
    }
}

/// One tensor of a parsed file. Only [`Gguf::parse`](crate::Gguf::parse) makes these, after checking every field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    pub ty: TensorType,
    pub dims: Dims,
    /// Bytes from the start of the file.
    pub offset: u64,
    pub n_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dims_count_rows_and_elements() {
        let dims = Dims::new(&[576, 49_152]).unwrap();
        assert_eq!(
            (dims.row_len(), dims.n_rows(), dims.n_elements()),
            (576, 49_152, 576 * 49_152)
        );
        assert_eq!(dims.as_slice(), [576, 49_152]);
        assert_eq!(Dims::new(&[7]).unwrap().n_rows(), 1);
    }

    #[test]
    fn impossible_dims_are_none() {
        for ne in [
            &[][..],
            &[0],
            &[1, 1, 1, 1, 1],
            &[1 << 33, 1 << 33],
            &[u64::MAX],
            &[1 << 63],
            &[1 << 62, 2],
        ] {
            assert_eq!(Dims::new(ne), None, "{ne:?}");
        }
    }

    #[test]
    fn sizes_are_whole_blocks_or_refused() {
        let dims = |ne: &[u64]| Dims::new(ne).unwrap();
        assert_eq!(
            TensorType::Q4_K
                .tensor_bytes(&dims(&[512, 3]), "t")
                .unwrap(),
            6 * 144
        );
        assert!(matches!(
            TensorType::Q4_K.tensor_bytes(&dims(&[128, 2]), "t"),
            Err(GgufError::RowNotBlocks { .. })
        ));
        assert!(matches!(
            TensorType::F32.tensor_bytes(&dims(&[1 << 62]), "t"),
            Err(GgufError::TensorTooLarge { .. })
        ));
    }
}
