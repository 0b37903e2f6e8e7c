//! The kernels of AVX2 with FMA and F16C. Each file gives exactly the bits of the file of the same name in `scalar`.
//!
//! Functions here carry `#[target_feature]`; only `Kernels`, which exists only on a CPU that has the instructions, calls
//! them. Public functions take slices and check them at their door; pointers live inside.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub(crate) mod elementwise;
mod exp;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod quantize;
pub(crate) mod rope;

/// f32 lanes of a vector.
const LANES: usize = 8;
