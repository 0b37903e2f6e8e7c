//! The vector kernels, written once for every instruction set that implements [`Simd`](super::simd::Simd). Each file gives exactly
//! the bits of the file of the same name in `scalar`.
//!
//! Public functions take slices and check them at their door; pointers live inside. Only `Kernels`, which exists only on a CPU
//! that has the instructions, calls them.
#![allow(unsafe_code)]

pub(crate) mod attention;
pub(crate) mod elementwise;
mod exp;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod probe;
pub(crate) mod quantize;
pub(crate) mod rope;
