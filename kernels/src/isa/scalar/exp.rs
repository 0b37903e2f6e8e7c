//! exp and tanh as this project defines them: our own polynomials, at most 2 units in the last place from the truth.
//!
//! exp: Cody and Waite's reduction x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 for exp(r), then n added
//! to the exponent. Results below the smallest normal number are 0. The coefficients are a minimax fit of relative
//! error 3e-9 (exp) and 4e-9 (tanh), done with 80-bit arithmetic and then rounded to f32.

/// exp(x) is 0 below this: -126 ln 2, where results stop being normal numbers.
pub(crate) const EXP_MIN: f32 = -87.336_54;
/// exp(x) is infinite above this: the largest x whose exp is finite.
pub(crate) const EXP_MAX: f32 = 88.722_83;
/// ln 2 in two parts.
pub(crate) const LN2_HIGH: f32 = std::f32::consts::LN_2;
pub(crate) const LN2_LOW: f32 = -1.904_654_2e-9;
/// (exp(r) - 1 - r) / r^2, constant term first.
pub(crate) const EXP_TERMS: [f32; 5] = [
    0.499_999_94,
    0.166_665_2,
    0.041_668_393,
    0.008_368_781,
    0.001_381_446_7,
];

/// Below this |x| tanh is a polynomial, as 1 - exp(-2x) would cancel.
pub(crate) const TANH_SMALL: f32 = 0.625;
/// (tanh(x) / x - 1) / x^2 in powers of x^2, constant term first.
pub(crate) const TANH_TERMS: [f32; 5] = [
    -0.333_332_84,
    0.133_314_91,
    -0.053_743_497,
    0.020_650_586,
    -0.005_717_044_7,
];

/// e to the x. exp(-inf) = 0, exp(inf) = inf, exp(NaN) = NaN.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return f32::NAN;
    }
    if x < EXP_MIN {
        return 0.0;
    }
    if x > EXP_MAX {
        return f32::INFINITY;
    }
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let tail = polynomial(&EXP_TERMS, r);
    let p = (r * r).mul_add(tail, r) + 1.0;
    f32::from_bits(p.to_bits().wrapping_add((n as i32 as u32) << 23))
}

/// The hyperbolic tangent.
pub fn tanh(x: f32) -> f32 {
    let size = x.abs();
    if size < TANH_SMALL {
        let square = x * x;
        return (x * square).mul_add(polynomial(&TANH_TERMS, square), x);
    }
    let t = exp(-2.0 * size);
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// Horner's rule; `terms` from the constant up.
fn polynomial(terms: &[f32; 5], x: f32) -> f32 {
    let [t0, t1, t2, t3, t4] = *terms;
    t4.mul_add(x, t3)
        .mul_add(x, t2)
        .mul_add(x, t1)
        .mul_add(x, t0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance from the truth in units in the last place of the f32 nearest to it.
    fn ulps(got: f32, truth: f64) -> f64 {
        let nearest = truth as f32;
        let ulp = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
        (f64::from(got) - truth).abs() / ulp
    }

    /// Every 997th f32 of the range, both signs: some million values.
    fn sweep(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (from.to_bits()..=to.to_bits())
            .step_by(997)
            .map(f32::from_bits)
            .flat_map(|x| [x, -x])
    }

    #[test]
    fn exp_is_within_two_ulps() {
        let finite = |x: &f32| (EXP_MIN..=EXP_MAX).contains(x);
        let worst = sweep(1e-30, 89.0)
            .filter(finite)
            .map(|x| ulps(exp(x), libm::exp(f64::from(x))))
            .fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn tanh_is_within_two_ulps() {
        let worst = sweep(1e-30, 100.0)
            .map(|x| ulps(tanh(x), libm::tanh(f64::from(x))))
            .fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn exp_at_the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(EXP_MAX).is_finite());
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(-0.0), 0.0);
    }
}
