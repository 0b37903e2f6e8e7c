//! The portable kernels: the definition of every result, bit for bit. Written to be read; speed is the other folders'.
//!
//! `f32::mul_add` is one rounding. Sums have the order in which they are written.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod probe;
pub(crate) mod quantize;
pub(crate) mod rope;
