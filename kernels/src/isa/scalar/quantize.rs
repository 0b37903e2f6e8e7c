//! How activations are quantised: the law.
//!
//! For each 32 consecutive values: `d = max|x| / 127`, codes are `x * (1/d)` rounded to nearest even. A block so
//! small that `1/d` is not finite is zero. A block with an infinity or a NaN has `d = NaN` and zero codes: what went
//! wrong upstream shows in the result instead of becoming a plausible number. `s` is `d` times the sum of codes, rounded once.

use crate::rows::{ACT_BLOCK, ActBlock, HALF_ZERO};

/// The largest code.
const CODE_MAX: f32 = 127.0;

/// Quantise one row: `x` is `(32 * n)`, its blocks go to every `stride`-th of `out`.
pub(crate) fn row(x: &[f32], out: &mut [ActBlock], stride: usize) {
    let (x, rest) = x.as_chunks::<ACT_BLOCK>();
    assert!(rest.is_empty() && x.len() <= out.len().div_ceil(stride));
    for (x, out) in x.iter().zip(out.iter_mut().step_by(stride)) {
        *out = block(x);
    }
}

fn block(x: &[f32; ACT_BLOCK]) -> ActBlock {
    let (d, codes) = codes_of(x, |d| d);
    let sum = |half: &[i8]| half.iter().map(|code| i32::from(*code)).sum::<i32>();
    let (low, high) = (sum(&codes[..16]), sum(&codes[16..]));
    ActBlock {
        codes,
        d,
        s: d * (low + high) as f32,
        minus: [-HALF_ZERO * low, -HALF_ZERO * high, -(low + high)],
    }
}

/// The scale of some values and their codes. `rounded` is the scale as it can be stored.
pub(crate) fn codes_of<const N: usize>(
    x: &[f32; N],
    rounded: impl Fn(f32) -> f32,
) -> (f32, [i8; N]) {
    // As integers, |x| of a NaN is above that of infinity, and that above every finite one.
    let max_bits = x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let (d, inverse) = scale_of(max_bits, rounded);
    let code = |x: f32| {
        // `inverse` is 0 for a block without codes; what it is multiplied with may still be a NaN.
        let value = if inverse == 0.0 {
            0.0
        } else {
            (x * inverse).round_ties_even()
        };
        value.clamp(-CODE_MAX, CODE_MAX) as i8
    };
    (d, x.map(code))
}

/// The scale of a block and its inverse, from the bits of the largest |x|; an inverse of 0 means that every code is 0.
pub(crate) fn scale_of(max_bits: u32, rounded: impl Fn(f32) -> f32) -> (f32, f32) {
    let max = f32::from_bits(max_bits);
    if !max.is_finite() {
        return (f32::NAN, 0.0);
    }
    let d = rounded(max / CODE_MAX);
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
        row(x, &mut out, 1);
        out[0]
    }

    #[test]
    fn the_largest_value_has_the_largest_code() {
        let x: Vec<f32> = (0..32).map(|j| (j as f32 - 15.5) / 3.0).collect();
        let block = quantized(&x);
        assert_eq!((block.codes[0], block.codes[31]), (-127, 127));
        for (j, x) in x.iter().enumerate() {
            let d = block.d;
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
            assert!(block.d.is_nan() && block.s.is_nan());
            assert_eq!(block.codes[0], 0);
        }
    }
}
