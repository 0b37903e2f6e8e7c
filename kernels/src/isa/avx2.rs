//! The kernels of AVX2: for now the portable ones.
pub(crate) use super::scalar::*;
