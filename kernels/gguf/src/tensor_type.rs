//! The encodings a tensor may have: ids, block lengths and block sizes as ggml defines them.
//!
//! One table holds all facts. This crate only does sizes; what the bits of a block mean is known in `potluck-kernels`.

/// A tensor's encoding. Names follow ggml; elements are grouped in blocks along a row.
#[allow(non_camel_case_types)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
    Q2_0,
}

/// One row of the table: type, id in files, elements and bytes of a block, name.
struct Facts(TensorType, u32, u64, u64, &'static str);

use TensorType as T;

/// In the order of the enum, which is the order of ids. Missing ids were withdrawn from the format: 4, 5, 31 to 33, 36 to 38.
const FACTS: [Facts; 35] = [
    Facts(T::F32, 0, 1, 4, "F32"),
    Facts(T::F16, 1, 1, 2, "F16"),
    Facts(T::Q4_0, 2, 32, 18, "Q4_0"),
    Facts(T::Q4_1, 3, 32, 20, "Q4_1"),
    Facts(T::Q5_0, 6, 32, 22, "Q5_0"),
    Facts(T::Q5_1, 7, 32, 24, "Q5_1"),
    Facts(T::Q8_0, 8, 32, 34, "Q8_0"),
    Facts(T::Q8_1, 9, 32, 36, "Q8_1"),
    Facts(T::Q2_K, 10, 256, 84, "Q2_K"),
    Facts(T::Q3_K, 11, 256, 110, "Q3_K"),
    Facts(T::Q4_K, 12, 256, 144, "Q4_K"),
    Facts(T::Q5_K, 13, 256, 176, "Q5_K"),
    Facts(T::Q6_K, 14, 256, 210, "Q6_K"),
    Facts(T::Q8_K, 15, 256, 292, "Q8_K"),
    Facts(T::IQ2_XXS, 16, 256, 66, "IQ2_XXS"),
    Facts(T::IQ2_XS, 17, 256, 74, "IQ2_XS"),
    Facts(T::IQ3_XXS, 18, 256, 98, "IQ3_XXS"),
    Facts(T::IQ1_S, 19, 256, 50, "IQ1_S"),
    Facts(T::IQ4_NL, 20, 32, 18, "IQ4_NL"),
    Facts(T::IQ3_S, 21, 256, 110, "IQ3_S"),
    Facts(T::IQ2_S, 22, 256, 82, "IQ2_S"),
    Facts(T::IQ4_XS, 23, 256, 136, "IQ4_XS"),
    Facts(T::I8, 24, 1, 1, "I8"),
    Facts(T::I16, 25, 1, 2, "I16"),
    Facts(T::I32, 26, 1, 4, "I32"),
    Facts(T::I64, 27, 1, 8, "I64"),
    Facts(T::F64, 28, 1, 8, "F64"),
    Facts(T::IQ1_M, 29, 256, 56, "IQ1_M"),
    Facts(T::BF16, 30, 1, 2, "BF16"),
    Facts(T::TQ1_0, 34, 256, 54, "TQ1_0"),
    Facts(T::TQ2_0, 35, 256, 66, "TQ2_0"),
    Facts(T::MXFP4, 39, 32, 17, "MXFP4"),
    Facts(T::NVFP4, 40, 64, 36, "NVFP4"),
    Facts(T::Q1_0, 41, 128, 18, "Q1_0"),
    Facts(T::Q2_0, 42, 64, 18, "Q2_0"),
];

/// Ids of encodings that were withdrawn are skipped, so the table is addressed by variant; this proves that it may be.
const _: () = {
    let mut i = 0;
    while i < FACTS.len() {
        assert!(
            FACTS[i].0 as usize == i,
            "FACTS must follow the order of TensorType"
        );
        i += 1;
    }
};

impl TensorType {
    /// Every type, in the order of ids.
    pub fn all() -> impl Iterator<Item = TensorType> {
        FACTS.iter().map(|facts| facts.0)
    }

    /// The type with this id in a file, or `None` for ids never given or withdrawn.
    pub fn from_id(id: u32) -> Option<TensorType> {
        FACTS
            .iter()
            .find(|facts| facts.1 == id)
            .map(|facts| facts.0)
    }

    /// The type with this name, as [`name`](Self::name) gives it.
    pub fn from_name(name: &str) -> Option<TensorType> {
        FACTS
            .iter()
            .find(|facts| facts.4 == name)
            .map(|facts| facts.0)
    }

    pub fn id(self) -> u32 {
        self.facts().1
    }

    /// Elements in a block; a row holds a whole number of blocks.
    pub fn block_elements(self) -> u64 {
        self.facts().2
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> u64 {
        self.facts().3
    }

    pub fn name(self) -> &'static str {
        self.facts().4
    }

    fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back_to_their_type() {
        for ty in TensorType::all() {
            assert_eq!(TensorType::from_id(ty.id()), Some(ty));
            assert_eq!(TensorType::from_name(ty.name()), Some(ty));
            assert_eq!(format!("{ty:?}"), ty.name());
        }
    }

    #[test]
    fn withdrawn_and_future_ids_are_no_types() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, 1000, u32::MAX] {
            assert_eq!(TensorType::from_id(id), None, "id {id}");
        }
    }
}
