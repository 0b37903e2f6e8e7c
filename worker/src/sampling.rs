//! The next token, drawn from logits.
//!
//! The order is penalties, top-k, top-p, min-p, temperature. Everything is a function of the logits, the recent tokens and
//! the parameters; the random number is a function of the seed and the token's index alone. Equal logits are ordered by
//! token id, so the same logits give the same token on every machine.

use std::collections::HashMap;

use potluck_kernels::exp;
use potluck_proto::Sampling;

/// Logits further than this below the best one are never drawn: together they hold less than 1e-7 of the probability
/// of a vocabulary of 2^18 tokens.
const NEGLIGIBLE: f32 = 30.0;

/// Logits that are not numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotFinite;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// Draws a token. `history` is the whole sequence so far; `logits` are changed by the penalties.
pub(crate) fn sample(
    logits: &mut [f32],
    history: &[u32],
    params: &Sampling,
) -> Result<u32, NotFinite> {
    if logits
        .iter()
        .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
    {
        return Err(NotFinite);
    }
    apply_penalties(logits, history, params);
    let best = argmax(logits).ok_or(NotFinite)?;
    if params.temperature <= 0.0 || params.top_k == 1 {
        return Ok(best.id);
    }
    let mut candidates = likely(logits, best, params.temperature);
    keep_top_k(&mut candidates, params.top_k);
    keep_top_p(&mut candidates, params.top_p);
    keep_min_p(&mut candidates, params.min_p);
    Ok(draw(&candidates, params))
}

/// Lowers the logits of recent tokens: by a factor (CTRL, <https://arxiv.org/abs/1909.05858>), by the number of
/// occurrences, and by having occurred at all.
fn apply_penalties(logits: &mut [f32], history: &[u32], params: &Sampling) {
    let off = params.repeat_penalty == 1.0
        && params.frequency_penalty == 0.0
        && params.presence_penalty == 0.0;
    if off {
        return;
    }
    let window = history.len().saturating_sub(params.penalty_window as usize);
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for id in &history[window..] {
        *counts.entry(*id).or_default() += 1;
    }
    for (id, count) in counts {
        let Some(logit) = logits.get_mut(id as usize) else {
            continue;
        };
        *logit = match *logit > 0.0 {
            true => *logit / params.repeat_penalty,
            false => *logit * params.repeat_penalty,
        };
        *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
    }
}

/// The highest logit, of equal ones the lowest id. None if every logit is minus infinity.
fn argmax(logits: &[f32]) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |best| best.logit) {
            best = Some(Candidate {
                id: id as u32,
                logit,
            });
        }
    }
    best
}

/// Tokens that can be drawn at all, the most likely first.
fn likely(logits: &[f32], best: Candidate, temperature: f32) -> Vec<Candidate> {
    let floor = best.logit - NEGLIGIBLE * temperature.max(1.0);
    let mut candidates: Vec<_> = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| **logit >= floor)
        .map(|(id, &logit)| Candidate {
            id: id as u32,
            logit,
        })
        .collect();
    candidates.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id)));
    candidates
}

fn keep_top_k(candidates: &mut Vec<Candidate>, top_k: u32) {
    if top_k > 0 {
        candidates.truncate(top_k as usize);
    }
}

/// Nucleus sampling, <https://arxiv.org/abs/1904.09751>: the fewest tokens whose probabilities reach `top_p`.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 {
        return;
    }
    let weights = weights(candidates, 1.0);
    let total: f64 = weights.iter().sum();
    let mut sum = 0.0;
    let n_kept = weights.iter().take_while(|weight| {
        let reached = sum >= f64::from(top_p) * total;
        sum += **weight;
        !reached
    });
    let n_kept = n_kept.count().max(1);
    candidates.truncate(n_kept);
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

fn draw(candidates: &[Candidate], params: &Sampling) -> u32 {
    let weights = weights(candidates, params.temperature);
    let target = uniform(params.seed, params.index) * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    for (candidate, weight) in candidates.iter().zip(&weights) {
        sum += weight;
        if target < sum {
            return candidate.id;
        }
    }
    // Rounding may leave the target a hair above the sum.
    candidates.last().map_or(0, |candidate| candidate.id)
}

/// Probabilities relative to the first candidate's.
fn weights(candidates: &[Candidate], temperature: f32) -> Vec<f64> {
    let best = candidates.first().map_or(0.0, |candidate| candidate.logit);
    candidates
        .iter()
        .map(|candidate| f64::from(exp((candidate.logit - best) / temperature)))
        .collect()
}

/// A number in [0, 1) that is a function of the seed and the index: two rounds of the SplitMix64 finalizer
/// (<https://doi.org/10.1145/2714064.2660195>) over a counter.
fn uniform(seed: u64, index: u32) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let stream = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(stream.wrapping_add(GOLDEN.wrapping_mul(u64::from(index) + 1)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(temperature: f32) -> Sampling {
        Sampling {
            temperature,
            ..Sampling::greedy()
        }
    }

    /// How often each token is drawn over 20 000 indices.
    fn shares(logits: &[f32], params: Sampling) -> Vec<f64> {
        const N: u32 = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for index in 0..N {
            let id = sample(&mut logits.to_vec(), &[], &Sampling { index, ..params }).unwrap();
            counts[id as usize] += 1;
        }
        counts
            .iter()
            .map(|count| f64::from(*count) / f64::from(N))
            .collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(sample(&mut [1.0, 3.0, 3.0], &[], &params(0.0)), Ok(1));
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0, f32::ln(2.0), f32::ln(5.0)];
        let shares = shares(&logits, params(1.0));
        for (share, want) in shares.iter().zip([0.125, 0.25, 0.625]) {
            assert!((share - want).abs() < 0.015, "{shares:?}");
        }
    }

    #[test]
    fn filters_cut_the_tail() {
        let logits = [0.0, f32::ln(2.0), f32::ln(5.0)];
        let cases = [
            Sampling {
                top_k: 2,
                ..params(1.0)
            },
            Sampling {
                top_p: 0.7,
                ..params(1.0)
            },
            Sampling {
                min_p: 0.3,
                ..params(1.0)
            },
        ];
        for case in cases {
            let shares = shares(&logits, case);
            assert_eq!(shares[0], 0.0, "{case:?}");
            assert!(
                (shares[1] - 2.0 / 7.0).abs() < 0.015,
                "{case:?}: {shares:?}"
            );
        }
        let top_p = Sampling {
            top_p: 0.6,
            ..params(1.0)
        };
        assert_eq!(shares(&logits, top_p)[2], 1.0);
    }

    #[test]
    fn penalties_reach_back_only_so_far() {
        let logits = [2.0, 1.9, -1.0];
        let repeat = Sampling {
            repeat_penalty: 2.0,
            ..params(0.0)
        };
        assert_eq!(sample(&mut logits.to_vec(), &[0], &repeat), Ok(1));
        let short = Sampling {
            penalty_window: 1,
            ..repeat
        };
        assert_eq!(sample(&mut logits.to_vec(), &[0, 2], &short), Ok(0));
        let presence = Sampling {
            presence_penalty: 0.5,
            ..params(0.0)
        };
        assert_eq!(sample(&mut logits.to_vec(), &[0], &presence), Ok(1));
        let frequency = Sampling {
            frequency_penalty: 0.06,
            ..params(0.0)
        };
        assert_eq!(sample(&mut logits.to_vec(), &[0], &frequency), Ok(0));
        assert_eq!(sample(&mut logits.to_vec(), &[0, 0], &frequency), Ok(1));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(sample(&mut [0.0, bad], &[], &params(0.0)), Err(NotFinite));
        }
        let none = [f32::NEG_INFINITY; 2];
        assert_eq!(
            sample(&mut none.to_vec(), &[], &params(1.0)),
            Err(NotFinite)
        );
    }

    #[test]
    fn random_numbers_are_a_function_of_seed_and_index() {
        let a: Vec<_> = (0..4).map(|i| uniform(7, i)).collect();
        let b: Vec<_> = (0..4).map(|i| uniform(8, i)).collect();
        assert_eq!(a, (0..4).map(|i| uniform(7, i)).collect::<Vec<_>>());
        assert_ne!(a, b);
        assert!(a.iter().all(|u| (0.0..1.0).contains(u)));
    }
}
