//! The eleven weight types a matrix may be stored in, with their ids and block sizes as the GGUF format fixes them.
//!
//! Sizes only: what the bytes of a block mean is in `block.rs`, how blocks are packed in `pack/layout.rs`.

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)] // the names by which the format and its users call them
pub enum WeightType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl WeightType {
    /// Every type, for tables and tests.
    pub const ALL: [WeightType; 11] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::BF16,
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Q8_0,
        WeightType::Q4_K,
        WeightType::Q5_K,
        WeightType::Q6_K,
    ];

    /// The type with this id in a GGUF tensor table, if these kernels can compute with it.
    pub fn from_ggml_id(id: u32) -> Option<WeightType> {
        Self::ALL.into_iter().find(|ty| ty.ggml_id() == id)
    }

    /// The id of this type in a GGUF tensor table.
    pub fn ggml_id(self) -> u32 {
        match self {
            WeightType::F32 => 0,
            WeightType::F16 => 1,
            WeightType::Q4_0 => 2,
            WeightType::Q4_1 => 3,
            WeightType::Q5_0 => 6,
            WeightType::Q5_1 => 7,
            WeightType::Q8_0 => 8,
            WeightType::Q4_K => 12,
            WeightType::Q5_K => 13,
            WeightType::Q6_K => 14,
            WeightType::BF16 => 30,
        }
    }

    /// The name the format gives it.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "F32",
            WeightType::F16 => "F16",
            WeightType::BF16 => "BF16",
            WeightType::Q4_0 => "Q4_0",
            WeightType::Q4_1 => "Q4_1",
            WeightType::Q5_0 => "Q5_0",
            WeightType::Q5_1 => "Q5_1",
            WeightType::Q8_0 => "Q8_0",
            WeightType::Q4_K => "Q4_K",
            WeightType::Q5_K => "Q5_K",
            WeightType::Q6_K => "Q6_K",
        }
    }

    /// Elements of one block; rows hold whole blocks.
    pub fn block_elements(self) -> usize {
        match self {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => 1,
            WeightType::Q4_0
            | WeightType::Q4_1
            | WeightType::Q5_0
            | WeightType::Q5_1
            | WeightType::Q8_0 => 32,
            WeightType::Q4_K | WeightType::Q5_K | WeightType::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightType::F32 => 4,
            WeightType::F16 | WeightType::BF16 => 2,
            WeightType::Q4_0 => 18,
            WeightType::Q4_1 => 20,
            WeightType::Q5_0 => 22,
            WeightType::Q5_1 => 24,
            WeightType::Q8_0 => 34,
            WeightType::Q4_K => 144,
            WeightType::Q5_K => 176,
            WeightType::Q6_K => 210,
        }
    }

    /// True for types that are multiplied with quantised activations; false for those multiplied with f32 ones.
    pub fn is_quantized(self) -> bool {
        self.block_elements() > 1
    }

    /// Each half of 32 weights has an integer scale of its own.
    pub(crate) fn has_sub_scales(self) -> bool {
        self == WeightType::Q6_K
    }

    /// Bytes of one row of `n_cols` elements, or `None` if the row is not whole blocks or its size overflows.
    pub fn row_bytes(self, n_cols: usize) -> Option<usize> {
        if !n_cols.is_multiple_of(self.block_elements()) {
            return None;
        }
        (n_cols / self.block_elements()).checked_mul(self.block_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_found_again() {
        for ty in WeightType::ALL {
            assert_eq!(
                WeightType::from_ggml_id(ty.ggml_id()),
                Some(ty),
                "{}",
                ty.name()
            );
        }
        assert_eq!(
            WeightType::from_ggml_id(9),
            None,
            "Q8_1 is not a weight type"
        );
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(WeightType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(WeightType::Q4_K.row_bytes(576), None);
        assert_eq!(WeightType::F32.row_bytes(usize::MAX), None);
    }
}
