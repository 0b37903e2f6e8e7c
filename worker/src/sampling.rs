//! The next token, drawn from logits.
//!
//! The order is: log-probabilities are read, then biases, penalties (`changes`), top-n-sigma, top-k, typical-p, top-p, min-p,
//! exclusion of top choices (`candidates`), temperature (`temperature`). Everything is a function of the logits, the recent
//! tokens and the parameters; random numbers are a function of the seed and the token's index alone (`random`). Equal logits are
//! ordered by token id, so the same logits give the same token on every machine.

mod candidates;
mod changes;
mod logprobs;
mod random;
mod temperature;

use potluck_proto::{Logprobs, Sampling};

use candidates::{Candidate, weights};
use random::{Purpose, uniform};

/// A token, and how likely it was if that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    pub logprobs: Option<Logprobs>,
}

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoToken {
    /// Logits that are not numbers.
    NotFinite,
    /// The biases forbid every token.
    AllForbidden,
}

/// Draws a token. `history` is the whole sequence so far; `logits` are changed by biases and penalties.
pub(crate) fn sample(
    logits: &mut [f32],
    history: &[u32],
    params: &Sampling,
) -> Result<Drawn, NoToken> {
    if logits
        .iter()
        .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
    {
        return Err(NoToken::NotFinite);
    }
    let unchanged = params.top_logprobs.map(|n_top| (logits.to_vec(), n_top));
    changes::apply(logits, history, params);
    let token = choose(logits, params).ok_or(match params.logit_bias.is_empty() {
        true => NoToken::NotFinite,
        false => NoToken::AllForbidden,
    })?;
    let logprobs = unchanged.map(|(logits, n_top)| logprobs::of(&logits, token, n_top));
    Ok(Drawn { token, logprobs })
}

/// None if every logit is minus infinity.
fn choose(logits: &[f32], params: &Sampling) -> Option<u32> {
    let best = argmax(logits)?;
    if params.temperature <= 0.0 || params.top_k == 1 {
        return Some(best.id);
    }
    let candidates = candidates::remaining(logits, best, params);
    let temperature = temperature::of(&candidates, params);
    Some(draw(&candidates, temperature, params))
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

fn draw(candidates: &[Candidate], temperature: f32, params: &Sampling) -> u32 {
    let first = candidates.first().map_or(0, |candidate| candidate.id);
    if temperature <= 0.0 {
        return first;
    }
    let weights = weights(candidates, temperature);
    let random = uniform(params.seed, params.index, Purpose::Draw);
    let target = random * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    for (candidate, weight) in candidates.iter().zip(&weights) {
        sum += weight;
        if target < sum {
            return candidate.id;
        }
    }
    // Rounding may leave the target a hair above the sum.
    candidates.last().map_or(first, |candidate| candidate.id)
}

#[cfg(test)]
mod tests {
    use potluck_proto::LogitBias;

    use super::*;

    fn params(temperature: f32) -> Sampling {
        Sampling {
            temperature,
            ..Sampling::greedy()
        }
    }

    fn token(logits: &[f32], history: &[u32], params: &Sampling) -> Result<u32, NoToken> {
        sample(&mut logits.to_vec(), history, params).map(|drawn| drawn.token)
    }

    /// How often each token is drawn over 20 000 indices.
    fn shares(logits: &[f32], params: Sampling) -> Vec<f64> {
        const N: u32 = 20_000;
        let mut counts = vec![0u32; logits.len()];
        for index in 0..N {
            let params = Sampling {
                index,
                ..params.clone()
            };
            counts[token(logits, &[], &params).unwrap() as usize] += 1;
        }
        counts
            .iter()
            .map(|count| f64::from(*count) / f64::from(N))
            .collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(token(&[1.0, 3.0, 3.0], &[], &params(0.0)), Ok(1));
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
            let shares = shares(&logits, case.clone());
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
        assert_eq!(token(&logits, &[0], &repeat), Ok(1));
        let short = Sampling {
            penalty_window: 1,
            ..repeat.clone()
        };
        assert_eq!(token(&logits, &[0, 2], &short), Ok(0));
        let presence = Sampling {
            presence_penalty: 0.5,
            ..params(0.0)
        };
        assert_eq!(token(&logits, &[0], &presence), Ok(1));
        let frequency = Sampling {
            frequency_penalty: 0.06,
            ..params(0.0)
        };
        assert_eq!(token(&logits, &[0], &frequency), Ok(0));
        assert_eq!(token(&logits, &[0, 0], &frequency), Ok(1));
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(
                token(&[0.0, bad], &[], &params(0.0)),
                Err(NoToken::NotFinite)
            );
        }
        let none = [f32::NEG_INFINITY; 2];
        assert_eq!(token(&none, &[], &params(1.0)), Err(NoToken::NotFinite));
    }

    #[test]
    fn biases_move_tokens_and_minus_infinity_forbids_them() {
        let logits = [2.0, 1.0, 0.5];
        let with = |biases: &[(u32, f32)], temperature| Sampling {
            logit_bias: biases
                .iter()
                .map(|&(token, bias)| LogitBias { token, bias })
                .collect(),
            ..params(temperature)
        };
        assert_eq!(token(&logits, &[], &with(&[(1, 1.5)], 0.0)), Ok(1));
        assert_eq!(token(&logits, &[], &with(&[(0, -1.25)], 0.0)), Ok(1));
        let twice = with(&[(2, 1.0), (2, 1.0)], 0.0);
        assert_eq!(token(&logits, &[], &twice), Ok(2), "entries add up");
        // Forbidden is forbidden, whatever is added to it.
        let forbidden = with(&[(0, f32::NEG_INFINITY), (0, 100.0)], 2.0);
        assert_eq!(shares(&logits, forbidden)[0], 0.0);
        let outside = with(&[(3, 1.0), (u32::MAX, 1.0)], 0.0);
        assert_eq!(token(&logits, &[], &outside), Ok(0));
        let all: Vec<_> = (0..3).map(|id| (id, f32::NEG_INFINITY)).collect();
        for temperature in [0.0, 1.0] {
            let nothing_left = token(&logits, &[], &with(&all, temperature));
            assert_eq!(nothing_left, Err(NoToken::AllForbidden));
        }
        // Halved by the penalty after the bias: (1 + 2) / 2 is less than 2.
        let penalised = Sampling {
            repeat_penalty: 2.0,
            ..with(&[(1, 2.0)], 0.0)
        };
        assert_eq!(token(&logits, &[1], &penalised), Ok(0));
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let logits = [0.0, f32::ln(2.0), f32::ln(5.0)];
        let params = Sampling {
            top_logprobs: Some(2),
            temperature: 0.5,
            logit_bias: [LogitBias {
                token: 2,
                bias: f32::NEG_INFINITY,
            }]
            .into(),
            top_k: 1,
            ..Sampling::greedy()
        };
        let drawn = sample(&mut logits.to_vec(), &[1], &params).unwrap();
        assert_eq!(drawn.token, 1);
        let logprobs = drawn.logprobs.unwrap();
        assert!((logprobs.drawn - f32::ln(0.25)).abs() < 1e-6);
        let top: Vec<_> = logprobs.top.iter().map(|entry| entry.token).collect();
        assert_eq!(top, [2, 1]);
    }
}
