//! A GGUF file as loose parts, each of which a test may spoil before the bytes are put together.
//!
//! `GgufWriter` cannot write a wrong file, so this builder knows the format a second time, from the specification.

/// The parts of a file. [`Raw::valid`] is right in every part.
pub struct Raw {
    pub magic: [u8; 4],
    pub version: u32,
    /// Counts in the header, when they are to differ from what follows.
    pub n_tensors: Option<u64>,
    pub n_entries: Option<u64>,
    /// Encoded entries: key, type, value.
    pub entries: Vec<Vec<u8>>,
    pub tensors: Vec<RawTensor>,
    /// Used for padding; the entry `general.alignment` is another matter.
    pub alignment: usize,
    /// The last change to the finished bytes.
    pub after: fn(&mut Vec<u8>),
}

pub struct RawTensor {
    pub name: Vec<u8>,
    pub n_dims: Option<u32>,
    pub ne: Vec<u64>,
    pub ty: u32,
    /// The offset in the table, when it is to differ from where the data is.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

pub fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// An entry with any key, any type and any bytes for its value.
pub fn entry(key: &[u8], ty: u32, value: &[u8]) -> Vec<u8> {
    [&string(key)[..], &ty.to_le_bytes(), value].concat()
}

pub fn u32_entry(key: &str, value: u32) -> Vec<u8> {
    entry(key.as_bytes(), U32, &value.to_le_bytes())
}

pub fn string_entry(key: &str, value: &str) -> Vec<u8> {
    entry(key.as_bytes(), STRING, &string(value.as_bytes()))
}

/// An entry that claims `len` elements and brings `bytes`.
pub fn array_entry(key: &str, element: u32, len: u64, bytes: &[u8]) -> Vec<u8> {
    entry(
        key.as_bytes(),
        ARRAY,
        &[&element.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat(),
    )
}

pub fn tensor(name: &str, ty: u32, ne: &[u64], n_bytes: usize) -> RawTensor {
    RawTensor {
        name: name.into(),
        n_dims: None,
        ne: ne.to_vec(),
        ty,
        offset: None,
        data: vec![0x5a; n_bytes],
    }
}

impl Raw {
    pub fn valid() -> Raw {
        Raw {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_entries: None,
            entries: vec![
                string_entry("general.architecture", "llama"),
                u32_entry("llama.block_count", 1),
                array_entry(
                    "tokenizer.ggml.tokens",
                    STRING,
                    2,
                    &[string(b"a"), string(b"b\xff")].concat(),
                ),
                array_entry("flags", BOOL, 3, &[0, 1, 1]),
            ],
            tensors: vec![
                tensor("token_embd.weight", 8, &[32, 2], 68),
                tensor("blk.0.attn_norm.weight", 0, &[32], 128),
                tensor("output_norm.weight", 0, &[8], 32),
            ],
            alignment: 32,
            after: |_| {},
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(
            self.n_tensors
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        out.extend(
            self.n_entries
                .unwrap_or(self.entries.len() as u64)
                .to_le_bytes(),
        );
        out.extend(self.entries.concat());
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend(
                tensor
                    .n_dims
                    .unwrap_or(tensor.ne.len() as u32)
                    .to_le_bytes(),
            );
            out.extend(tensor.ne.iter().flat_map(|n| n.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend_from_slice(&tensor.data);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        (self.after)(&mut out);
        out
    }
}
