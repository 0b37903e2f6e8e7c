//! Element-wise operations between the matrix products: the law. No element depends on another.

use super::exp::{exp, tanh};

/// sqrt(2 / pi) and the cubic coefficient of the tanh form of GELU.
pub(crate) const GELU_SCALE: f32 = 0.797_884_6;
pub(crate) const GELU_CUBIC: f32 = 0.044_715;

/// `x += y`.
pub(crate) fn add_assign(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `x *= factor`.
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `x = cap * tanh(x / cap)`.
pub(crate) fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * tanh(*x / cap);
    }
}

/// `out = silu(gate) * up`, `silu(x) = x / (1 + exp(-x))`.
pub(crate) fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

/// `out = gelu(gate) * up` in the tanh form, `x (1 + tanh(u)) / 2` with `u = sqrt(2/pi) (x + 0.044715 x^3)`, which is
/// `x / (1 + exp(-2u))`.
pub(crate) fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let u = GELU_SCALE * (gate * gate * GELU_CUBIC).mul_add(*gate, *gate);
        *out = gate / (1.0 + exp(-2.0 * u)) * up;
    }
}
