//! Random numbers that are a function of the seed and the token's index: the same wherever and whenever they are needed.

use potluck_proto::random::{GOLDEN, mix};

/// What a number decides. Each has a stream of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Which of the candidates is drawn.
    Draw = 1,
    /// Whether top choices are excluded.
    Exclude = 2,
}

/// A number in [0, 1): two rounds of SplitMix64's finalizer over a counter.
pub(super) fn uniform(seed: u64, index: u32, purpose: Purpose) -> f64 {
    let stream = mix(seed.wrapping_add(GOLDEN.wrapping_mul(purpose as u64)));
    let bits = mix(stream.wrapping_add(GOLDEN.wrapping_mul(u64::from(index) + 1)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_function_of_seed_index_and_purpose() {
        let numbers = |seed, purpose| {
            let number = |index| uniform(seed, index, purpose);
            (0..4).map(number).collect::<Vec<_>>()
        };
        let a = numbers(7, Purpose::Draw);
        assert_eq!(a, numbers(7, Purpose::Draw));
        assert_ne!(a, numbers(8, Purpose::Draw));
        assert_ne!(a, numbers(7, Purpose::Exclude));
        assert!(a.iter().all(|u| (0.0..1.0).contains(u)));
    }
}
