//! The temperature of one token: as it was asked for, or moved by how uncertain the model is.

use potluck_proto::Sampling;

use super::candidates::{Candidate, surprises};

/// Dynamic temperature (<https://github.com/LostRuins/koboldcpp/pull/600>): between `dynatemp_range` below and above
/// `temperature`, by the entropy of the candidates as a share of the greatest that so many could have.
pub(super) fn of(candidates: &[Candidate], params: &Sampling) -> f32 {
    if params.dynatemp_range <= 0.0 || candidates.len() < 2 {
        return params.temperature;
    }
    let low = f64::from((params.temperature - params.dynatemp_range).max(0.0));
    let high = f64::from(params.temperature + params.dynatemp_range);
    let greatest = libm::log(candidates.len() as f64);
    let share = (surprises(candidates).entropy / greatest).clamp(0.0, 1.0);
    (low + (high - low) * libm::pow(share, f64::from(params.dynatemp_exponent))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(logits: &[f32], temperature: f32, range: f32, exponent: f32) -> f32 {
        let candidates: Vec<_> = (0..)
            .zip(logits)
            .map(|(id, &logit)| Candidate { id, logit })
            .collect();
        let params = Sampling {
            temperature,
            dynatemp_range: range,
            dynatemp_exponent: exponent,
            ..Sampling::greedy()
        };
        of(&candidates, &params)
    }

    #[test]
    fn it_follows_the_entropy() {
        let even = [1.0; 4];
        assert!(
            (moved(&even, 1.0, 0.5, 1.0) - 1.5).abs() < 1e-6,
            "as uncertain as can be"
        );
        let certain = [100.0, 0.0, 0.0];
        assert!((moved(&certain, 1.0, 0.5, 1.0) - 0.5).abs() < 1e-6);
        assert!(moved(&certain, 0.5, 2.0, 1.0) < 1e-6, "never below 0");
        // Two of four are possible: half of the entropy of four, ln 2 of ln 4.
        let half = [0.0, 0.0, -200.0, -200.0];
        assert!((moved(&half, 1.0, 0.5, 1.0) - 1.0).abs() < 1e-6);
        // 0.5 + 1 * (1/2)^2.
        assert!((moved(&half, 1.0, 0.5, 2.0) - 0.75).abs() < 1e-6);
        assert_eq!(moved(&half, 0.8, 0.0, 2.0), 0.8, "off");
        assert_eq!(moved(&[3.0], 0.8, 0.5, 1.0), 0.8, "nothing to choose");
    }
}
