//! Arithmetic on slices: quantised matrix products, attention, norms, rope, and the thread pool they run on.
//!
//! The scalar code in `isa/scalar` defines every result bit for bit; each other instruction set gives exactly
//! its bits, whatever the number of threads, the batch a token travels in, or whether it is computed in prefill or in
//! decode. Integer dot products are exact in any order; every f32 sum has one fixed order with fused multiply-add.
//!
//! Knows nothing of files, networks, models or text. Start at [`Kernels`]; the shapes are in [`WeightMatrix`] and
//! [`QuantizedRows`], the order of sums in `isa/scalar/*.rs`.
#![deny(unsafe_code)]

mod attention;
mod block;
mod gated;
mod isa;
mod kernels;
mod matmul;
mod pack;
mod pool;
mod probe;
mod rope;
mod rows;
mod weight;

pub use attention::{
    AttentionRun, AttentionSpec, KV_BLOCK, KvBlock, KvBlocks, KvPage, KvSlice, KvSliceMut, KvType,
    kv_store,
};
pub use block::dequantize;
pub use gated::{Activation, Gated, GatedOut};
pub use isa::scalar::exp::{exp, tanh};
pub use isa::{Isa, IsaError};
pub use kernels::Kernels;
pub use matmul::Product;
pub use pack::{ShapeError, SharedBytes, WeightMatrix};
pub use pool::Pool;
pub use probe::Limits;
pub use rope::RopeTable;
pub use rows::{ACT_BLOCK, QuantizedRows, Rows};
pub use weight::WeightType;
