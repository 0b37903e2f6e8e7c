//! Real files must load: a check that is stricter than the world would be found here.
//!
//! Runs on every `.gguf` file of the folder named by `POTLUCK_MODELS` and says so; without it there is nothing to check.

use std::path::{Path, PathBuf};
use std::time::Instant;

use potluck_gguf::{Gguf, GgufError, Mapped, MetadataBuf, ModelShape, TensorPlace, span_of};

fn models() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("POTLUCK_MODELS") else {
        eprintln!("POTLUCK_MODELS is not set: no real models to check");
        return Vec::new();
    };
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("cannot list {folder:?}: {e}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "gguf"));
    paths.sort();
    assert!(!paths.is_empty(), "no .gguf file in {folder:?}");
    paths
}

#[test]
fn every_real_model_parses() {
    for path in models() {
        let mapped = Mapped::open(&path).unwrap();
        let start = Instant::now();
        let gguf = Gguf::parse(mapped.bytes()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        eprintln!(
            "{path:?}: {} entries, {} tensors in {:?}",
            gguf.metadata().len(),
            gguf.tensors().len(),
            start.elapsed()
        );
        for tensor in gguf.tensors() {
            assert_eq!(gguf.tensor_bytes(tensor).len() as u64, tensor.n_bytes);
            assert_eq!(gguf.tensor(tensor.name), Some(tensor));
        }
        check_shape(&path, &gguf);
    }
}

/// The shape agrees with the tensors, and a machine that gets only the carried metadata finds the same shape.
fn check_shape(path: &Path, gguf: &Gguf<'_>) {
    let shape = match ModelShape::from_metadata(gguf.metadata()) {
        // A vocabulary without a model, or a family that cannot be run yet: both are fine files.
        Err(GgufError::UnsupportedArchitecture { .. }) => return,
        other => other.unwrap_or_else(|e| panic!("{path:?}: {e}")),
    };
    eprintln!("{shape:?}");
    let carried = MetadataBuf::from_metadata(gguf.metadata());
    let carried = MetadataBuf::from_pairs(carried.into_pairs()).unwrap();
    assert_eq!(ModelShape::from_metadata(&carried.view()).unwrap(), shape);

    let Some(embedding) = gguf.tensor("token_embd.weight") else {
        return;
    };
    assert_eq!(
        embedding.dims.as_slice(),
        [u64::from(shape.d_model), u64::from(shape.n_vocab)]
    );
    let layers = gguf
        .tensors()
        .iter()
        .filter_map(|tensor| match span_of(tensor.name) {
            TensorPlace::Layer(i) => Some(i + 1),
            place => {
                assert_ne!(place, TensorPlace::Other, "{}", tensor.name);
                None
            }
        });
    assert_eq!(layers.max(), Some(shape.n_layers));
}
