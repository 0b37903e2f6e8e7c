//! The model file, read safely: what a GGUF file says about a model and where each tensor's bytes lie.
//!
//! Everything in a file is hostile until checked. [`Gguf::parse`] checks all of it once, in one pass, in time and memory
//! linear in the header, and after that no call can run out of the file. This crate knows bytes, keys and shapes; it must not
//! know arithmetic on weights (`potluck-kernels`) or anything about machines and networks.
//!
//! Where to go: [`parse`](Gguf::parse) is the walk over the file, [`limits`] are the caps and their reasons,
//! [`ModelShape`] is the meaning of the metadata, [`MetadataBuf`] carries that meaning to a machine that never had the
//! file, [`GgufWriter`] makes files.
//!
//! ```
//! use potluck_gguf::{Gguf, GgufWriter, TensorType};
//! let bytes = GgufWriter::new()
//!     .with("general.architecture", "llama")
//!     .with_tensor("output_norm.weight", TensorType::F32, &[4], vec![0; 16])?
//!     .to_bytes();
//! let gguf = Gguf::parse(&bytes)?;
//! assert_eq!(gguf.metadata().require_str("general.architecture")?, "llama");
//! let norm = gguf.tensor("output_norm.weight").unwrap();
//! assert_eq!(gguf.tensor_bytes(norm).len(), 16);
//! # Ok::<(), potluck_gguf::GgufError>(())
//! ```
#![deny(unsafe_code)]

mod array;
mod cursor;
mod error;
pub mod limits;
mod mapped;
mod metadata;
mod metadata_buf;
mod parse;
mod place;
mod shape;
mod tensor;
mod tensor_type;
mod value;
mod write;

pub use array::{Array, RawStr, StringArray};
pub use error::GgufError;
pub use mapped::Mapped;
pub use metadata::Metadata;
pub use metadata_buf::{MetadataBuf, N_VOCAB_KEY, OwnedValue};
pub use parse::Gguf;
pub use place::{TensorPlace, span_of};
pub use shape::{Architecture, ModelShape, Rope, RopeScaling};
pub use tensor::{Dims, TensorInfo};
pub use tensor_type::TensorType;
pub use value::{Value, ValueType};
pub use write::GgufWriter;
