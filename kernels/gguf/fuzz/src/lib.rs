//! What the fuzzer does with arbitrary bytes: everything the crate offers, on whatever the parser lets through.
//!
//! Shared by the fuzz target and by `tests/mutations.rs`, so that an ordinary test run covers the same ground.

use potluck_gguf::{Gguf, Metadata, MetadataBuf, ModelShape, span_of};

/// Must return for any input. Whatever was accepted must also hold what the crate promises about it.
pub fn fuzz_one(bytes: &[u8]) {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    read_all_entries(gguf.metadata());
    let mut end = 0;
    for tensor in gguf.tensors() {
        assert!(
            tensor.offset >= end,
            "{} overlaps the tensor before it",
            tensor.name
        );
        end = tensor.offset + tensor.n_bytes;
        assert_eq!(gguf.tensor_bytes(tensor).len() as u64, tensor.n_bytes);
        assert_eq!(gguf.tensor(tensor.name), Some(tensor));
        assert_eq!(
            tensor.ty.tensor_bytes(&tensor.dims, tensor.name).ok(),
            Some(tensor.n_bytes)
        );
        span_of(tensor.name);
    }
    assert!(end <= bytes.len() as u64);

    let carried = MetadataBuf::from_metadata(gguf.metadata());
    let checked = MetadataBuf::from_pairs(carried.clone().into_pairs())
        .expect("what a file gave passes its own checks");
    read_all_entries(&checked.view());
    if let Ok(shape) = ModelShape::from_metadata(gguf.metadata()) {
        assert!(shape.n_heads % shape.n_kv_heads == 0 && shape.rope.dim <= shape.head_dim);
        (0..shape.n_layers).for_each(|layer| _ = shape.is_sliding(layer));
    }
}

/// Asks every entry for every type; at most one of the answers is not an error.
fn read_all_entries(metadata: &Metadata<'_>) {
    for (key, value) in metadata.iter() {
        assert_eq!(
            metadata.get(key).map(|found| found.value_type()),
            Some(value.value_type())
        );
        let _ = (
            metadata.str(key),
            metadata.bool(key),
            metadata.f32(key),
            metadata.u32(key),
        );
        let _ = (
            metadata.i32(key),
            metadata.u64(key),
            metadata.f32s(key),
            metadata.i32s(key),
        );
        let _ = (metadata.u32s(key), metadata.bools(key));
        if let Ok(Some(strings)) = metadata.strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
            strings.iter().for_each(|item| _ = item.str());
        } else if let Ok(Some(array)) = metadata.array(key) {
            assert_eq!(array.scalars().count(), array.len());
        }
    }
}
