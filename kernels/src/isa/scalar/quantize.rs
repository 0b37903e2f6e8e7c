//! How activations are quantised: the law.
//!
//! For each `ACT_BLOCK` consecutive values: `d = max|x| / 127`, codes are `x * (1/d)` rounded to nearest even. A block so
//! small that `1/d` is not finite is zero. A block with an infinity or a NaN has `d = NaN` and zero codes: what went
//! wrong upstream shows in the result instead of becoming a plausible number. `s` is the sum of what the codes of the
//! 32 stand for: a chain of `fma(d, sum of codes, s)` from 0 over the scales.

use crate::rows::{ACT_BLOCK, ACT_SCALES, ACT_WINDOW, ActBlock};

/// The largest code.
const CODE_MAX: f32 = 127.0;

/// Quantise one row: `x` is `(32 * out.len())`.
pub(crate) fn row(x: &[f32], out: &mut [ActBlock]) {
    assert_eq!(x.len(), out.len() * ACT_WINDOW);
    for (x, out) in x.chunks_exact(ACT_WINDOW).zip(out) {
        window(x, out);
    }
}

fn window(x: &[f32], out: &mut ActBlock) {
    *out = ActBlock::ZERO;
    for (i, x) in x.chunks_exact(ACT_BLOCK).enumerate() {
        let (d, inverse) = scale(x);
        out.d[i] = d;
        for (code, x) in out.codes[i * ACT_BLOCK..].iter_mut().zip(x) {
            // `inverse` is 0 for a block without codes; what it is multiplied with may still be a NaN.
            let value = if inverse == 0.0 {
                0.0
            } else {
                (x * inverse).round_ties_even()
            };
            *code = value.clamp(-CODE_MAX, CODE_MAX) as i8;
        }
    }
    for (sum, codes) in out.sums.iter_mut().zip(out.codes.chunks_exact(16)) {
        *sum = codes.iter().map(|code| i16::from(*code)).sum();
    }
    for i in 0..ACT_SCALES {
        let codes = &out.codes[i * ACT_BLOCK..(i + 1) * ACT_BLOCK];
        let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
        out.s = out.d[i].mul_add(sum as f32, out.s);
    }
}

/// The scale of a block and its inverse; an inverse of 0 means that every code is 0.
fn scale(x: &[f32]) -> (f32, f32) {
    // As integers, |x| of a NaN is above that of infinity, and that above every finite one.
    let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    if !max.is_finite() {
        return (f32::NAN, 0.0);
    }
    let d = max / CODE_MAX;
    let inverse = 1.0 / d;
    if inverse.is_finite() {
        (d, inverse)
    } else {
        (0.0, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32]) -> ActBlock {
        let mut out = [ActBlock::ZERO];
        row(x, &mut out);
        out[0]
    }

    #[test]
    fn the_largest_value_has_the_largest_code() {
        let x: Vec<f32> = (0..32).map(|j| (j as f32 - 15.5) / 3.0).collect();
        let block = quantized(&x);
        assert_eq!((block.codes[0], block.codes[31]), (-127, 127));
        for (j, x) in x.iter().enumerate() {
            let d = block.d[j / ACT_BLOCK];
            assert!((d * f32::from(block.codes[j]) - x).abs() <= d / 2.0 * 1.001);
        }
    }

    #[test]
    fn zeros_and_dust_are_zero() {
        for x in [0.0, -0.0, f32::from_bits(1), 1e-40] {
            assert_eq!(quantized(&[x; 32]), ActBlock::ZERO, "{x:e}");
        }
    }

    #[test]
    fn what_is_not_finite_stays_visible() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[5] = bad;
            let block = quantized(&x);
            assert!(block.d[0].is_nan() && block.s.is_nan());
            assert_eq!(block.codes[0], 0);
        }
    }
}
