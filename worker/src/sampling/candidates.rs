//! Which tokens may be drawn: one filter after another, each at its neutral value by default.

use potluck_kernels::exp;
use potluck_proto::Sampling;

use super::random::{Purpose, uniform};

/// Logits further than this below the best one are never drawn: together they hold less than 1e-7 of the probability
/// of a vocabulary of 2^18 tokens.
const NEGLIGIBLE: f32 = 30.0;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub id: u32,
    pub logit: f32,
}

/// What all filters leave, at least one token, the most likely first.
pub(super) fn remaining(logits: &[f32], best: Candidate, params: &Sampling) -> Vec<Candidate> {
    let floor = negligible(best, params).max(sigma_floor(logits, best, params.top_n_sigma));
    let mut candidates = most_likely(logits, floor, params.top_k);
    keep_typical(&mut candidates, params.typical_p);
    keep_top_p(&mut candidates, params.top_p);
    keep_min_p(&mut candidates, params.min_p);
    exclude_top_choices(&mut candidates, params);
    candidates
}

/// Below this logit nothing is worth looking at. A dynamic temperature counts the tokens, so it takes all.
fn negligible(best: Candidate, params: &Sampling) -> f32 {
    match params.dynatemp_range > 0.0 {
        true => f32::NEG_INFINITY,
        false => best.logit - NEGLIGIBLE * params.temperature.max(1.0),
    }
}

/// Top-nσ, <https://arxiv.org/abs/2411.07641>: `n` standard deviations of all logits below the best. Forbidden tokens do not
/// count.
fn sigma_floor(logits: &[f32], best: Candidate, n: f32) -> f32 {
    if n <= 0.0 {
        return f32::NEG_INFINITY;
    }
    let possible = || {
        let finite = logits.iter().filter(|logit| logit.is_finite());
        finite.map(|&logit| f64::from(logit))
    };
    let count = possible().count() as f64;
    let mean = possible().sum::<f64>() / count;
    let variance = possible().map(|l| (l - mean) * (l - mean)).sum::<f64>() / count;
    best.logit - n * variance.sqrt() as f32
}

/// Tokens of at least `floor` that can be drawn at all, `top_k` at most unless it is 0, the most likely first.
fn most_likely(logits: &[f32], floor: f32, top_k: u32) -> Vec<Candidate> {
    let mut candidates: Vec<_> = (0u32..)
        .zip(logits)
        .map(|(id, &logit)| Candidate { id, logit })
        .filter(|candidate| candidate.logit >= floor && candidate.logit > f32::NEG_INFINITY)
        .collect();
    let order = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let top_k = top_k as usize;
    if top_k > 0 && top_k < candidates.len() {
        candidates.select_nth_unstable_by(top_k, order);
        candidates.truncate(top_k);
    }
    candidates.sort_unstable_by(order);
    candidates
}

/// Locally typical sampling, <https://arxiv.org/abs/2202.00666>: the fewest tokens whose probabilities reach `typical_p`, beginning
/// with those whose surprise is closest to the expected one, which is the entropy.
fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f32) {
    if typical_p >= 1.0 {
        return;
    }
    let Surprises { each, entropy } = surprises(candidates);
    let distance = |at: &usize| (each[*at] - entropy).abs();
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // Stable: of equal ones the more likely comes first.
    order.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let weights = weights(candidates, 1.0);
    let by_distance: Vec<_> = order.iter().map(|at| weights[*at]).collect();
    order.truncate(n_reaching(&by_distance, typical_p));
    order.sort_unstable();
    *candidates = order.iter().map(|at| candidates[*at]).collect();
}

/// Nucleus sampling, <https://arxiv.org/abs/1904.09751>: the fewest tokens whose probabilities reach `top_p`.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p < 1.0 {
        let n_kept = n_reaching(&weights(candidates, 1.0), top_p);
        candidates.truncate(n_kept);
    }
}

/// How many of `weights`, from the first on, make up the share `p` of them all: one at least.
fn n_reaching(weights: &[f64], p: f32) -> usize {
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let n_kept = weights.iter().take_while(|weight| {
        let reached = sum >= f64::from(p) * total;
        sum += **weight;
        !reached
    });
    n_kept.count().max(1)
}

/// Tokens at least `min_p` times as likely as the best, <https://arxiv.org/abs/2407.01082>.
fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    if min_p > 0.0 {
        let weights = weights(candidates, 1.0);
        let n_kept = weights
            .iter()
            .take_while(|weight| **weight >= f64::from(min_p))
            .count();
        candidates.truncate(n_kept.max(1));
    }
}

/// XTC, <https://github.com/oobabooga/textgen/pull/6335>: with a probability of `xtc_probability`, of all tokens at
/// least as likely as `xtc_threshold` only the least likely stays, and what is below it.
fn exclude_top_choices(candidates: &mut Vec<Candidate>, params: &Sampling) {
    let chance = f64::from(params.xtc_probability);
    if uniform(params.seed, params.index, Purpose::Exclude) >= chance {
        return;
    }
    let weights = weights(candidates, 1.0);
    let least = f64::from(params.xtc_threshold) * weights.iter().sum::<f64>();
    let n_likely = weights
        .iter()
        .take_while(|weight| **weight >= least)
        .count();
    candidates.drain(..n_likely.saturating_sub(1));
}

/// Probabilities relative to the first candidate's.
pub(super) fn weights(candidates: &[Candidate], temperature: f32) -> Vec<f64> {
    let best = candidates.first().map_or(0.0, |candidate| candidate.logit);
    candidates
        .iter()
        .map(|candidate| f64::from(exp((candidate.logit - best) / temperature)))
        .collect()
}

/// How surprising each candidate would be: minus the logarithm of its probability. The entropy is what is to be expected.
pub(super) struct Surprises {
    pub each: Vec<f64>,
    pub entropy: f64,
}

pub(super) fn surprises(candidates: &[Candidate]) -> Surprises {
    let best = candidates.first().map_or(0.0, |candidate| candidate.logit);
    let weights = weights(candidates, 1.0);
    let total: f64 = weights.iter().sum();
    let log_total = libm::log(total);
    let each: Vec<_> = candidates
        .iter()
        .map(|candidate| log_total - f64::from(candidate.logit - best))
        .collect();
    let entropy = weights
        .iter()
        .zip(&each)
        .map(|(weight, surprise)| weight / total * surprise)
        .sum();
    Surprises { each, entropy }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of tokens with these probabilities.
    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    fn kept(logits: &[f32], params: Sampling) -> Vec<u32> {
        let params = Sampling {
            temperature: 1.0,
            ..params
        };
        let best = super::super::argmax(logits).unwrap();
        let kept = remaining(logits, best, &params);
        kept.iter().map(|candidate| candidate.id).collect()
    }

    #[test]
    fn standard_deviations_are_those_of_all_logits() {
        // Mean 0, variance (4 + 1 + 1 + 4) / 4 = 2.5, sigma 1.58.
        let logits = [-2.0, -1.0, 1.0, 2.0, f32::NEG_INFINITY];
        let with = |top_n_sigma| {
            kept(
                &logits,
                Sampling {
                    top_n_sigma,
                    ..Sampling::greedy()
                },
            )
        };
        assert_eq!(with(0.6), [3], "down to 1.05");
        assert_eq!(with(0.65), [3, 2], "down to 0.97");
        assert_eq!(with(2.0), [3, 2, 1], "down to -1.16");
        assert_eq!(with(0.0), [3, 2, 1, 0], "off");
    }

    #[test]
    fn typical_tokens_are_those_of_the_expected_surprise() {
        // The entropy is 1.09 nats; the surprises are 0.51, 1.61, 2.30, 2.30, their distances 0.58, 0.52, 1.21, 1.21.
        let logits = logits(&[0.6, 0.2, 0.1, 0.1]);
        let with = |typical_p| {
            kept(
                &logits,
                Sampling {
                    typical_p,
                    ..Sampling::greedy()
                },
            )
        };
        assert_eq!(with(0.15), [1], "the second is the most typical");
        assert_eq!(with(0.7), [0, 1], "back in order of probability");
        assert_eq!(with(0.85), [0, 1, 2]);
        assert_eq!(with(0.0), [1], "one is always left");
        assert_eq!(with(1.0), [0, 1, 2, 3], "off");
    }

    #[test]
    fn top_choices_are_excluded_as_often_as_asked() {
        let logits = logits(&[0.4, 0.3, 0.2, 0.1]);
        let with = |xtc_probability, xtc_threshold, index| {
            kept(
                &logits,
                Sampling {
                    xtc_probability,
                    xtc_threshold,
                    index,
                    ..Sampling::greedy()
                },
            )
        };
        assert_eq!(
            with(1.0, 0.15, 0),
            [2, 3],
            "the least likely of three stays"
        );
        assert_eq!(with(1.0, 0.35, 0), [0, 1, 2, 3], "a single one stays");
        assert_eq!(with(1.0, 0.5, 0), [0, 1, 2, 3]);
        assert_eq!(with(1.0, 0.0, 0), [3]);
        assert_eq!(with(0.0, 0.15, 0), [0, 1, 2, 3], "off");
        let n_excluded = (0..10_000)
            .filter(|&index| with(0.25, 0.15, index).len() == 2)
            .count();
        assert!((2300..2700).contains(&n_excluded), "{n_excluded}");
    }

    #[test]
    fn the_k_most_likely_are_in_order_and_equal_ones_by_id() {
        let logits = [1.0, 3.0, 2.0, 3.0, 1.0];
        let with = |top_k| {
            kept(
                &logits,
                Sampling {
                    top_k,
                    ..Sampling::greedy()
                },
            )
        };
        assert_eq!(with(3), [1, 3, 2]);
        assert_eq!(with(4), [1, 3, 2, 0]);
        assert_eq!(with(0), [1, 3, 2, 0, 4]);
    }
}
