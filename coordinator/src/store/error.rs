//! Why a model cannot be opened or asked for a span.

use std::path::PathBuf;

use potluck_gguf::GgufError;

/// What is wrong with a model file or with a question about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no model, or not one that can be run.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file system refuses.
    #[error("cannot read {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The file is not the one that was opened any more.
    #[error(
        "{path:?} was changed while it was in use; restart to load it as it is now, and replace a model by renaming, not by writing over it"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file lacks a tensor without which nothing can run.
    #[error("the model has no tensor {name:?}; the file is damaged or not a language model")]
    MissingTensor {
        /// Name of the tensor.
        name: &'static str,
    },
    /// The file says it has more layers than it has tensors for.
    #[error(
        "the model states {n_layers} layers but has no tensors for layer {layer}; the file is damaged"
    )]
    MissingLayer {
        /// First layer without tensors.
        layer: u32,
        /// Layers stated.
        n_layers: u32,
    },
    /// The metadata would not fit in a message to a worker.
    #[error(
        "the model's metadata without its vocabulary takes {n_bytes} bytes, {limit} are allowed; the file is damaged"
    )]
    MetadataTooLarge {
        /// Bytes it takes.
        n_bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A span that the model does not have.
    #[error("layers {from} to {to} were asked for, the model has layers 0 to {n_layers}")]
    NoSuchSpan {
        /// First layer.
        from: u32,
        /// One past the last.
        to: u32,
        /// Layers of the model.
        n_layers: u32,
    },
}
