//! How likely tokens are by the model alone: the logarithm of the softmax over logits that nothing has changed.
//!
//! The sum is taken in f64, in the order of the ids, with exp and log that are the same on every machine.

use potluck_kernels::exp;
use potluck_proto::{Logprobs, TokenLogprob};

/// The log-probability of `drawn`, and the `n_top` most likely tokens with theirs. At least one logit is finite, none is NaN.
pub(super) fn of(logits: &[f32], drawn: u32, n_top: u32) -> Logprobs {
    let top = top(logits, n_top as usize);
    let log_sum = log_sum_exp(logits);
    // Rounding may lift a certain token a hair above 0.
    let logprob = |logit: f32| (f64::from(logit) - log_sum).min(0.0) as f32;
    let logit = logits.get(drawn as usize).copied();
    Logprobs {
        drawn: logprob(logit.unwrap_or(f32::NEG_INFINITY)),
        top: top
            .into_iter()
            .map(|entry| TokenLogprob {
                logprob: logprob(entry.logprob),
                ..entry
            })
            .collect(),
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(exp(l - best))).sum();
    f64::from(best) + libm::log(sum)
}

/// The `n` highest logits, the highest first, of equal ones the lower id. What cannot occur is left out.
fn top(logits: &[f32], n: usize) -> Vec<TokenLogprob> {
    let mut top: Vec<TokenLogprob> = Vec::with_capacity(n + 1);
    for (id, &logit) in logits.iter().enumerate() {
        let floor = match top.get(n.wrapping_sub(1)) {
            Some(lowest) => lowest.logprob,
            None => f32::NEG_INFINITY,
        };
        if n > 0 && logit > floor {
            let at = top.partition_point(|entry| entry.logprob >= logit);
            let entry = TokenLogprob {
                token: id as u32,
                logprob: logit,
            };
            top.insert(at, entry);
            top.truncate(n);
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f32, want: f64) -> bool {
        (f64::from(got) - want).abs() < 1e-6
    }

    #[test]
    fn they_are_the_logarithms_of_the_softmax() {
        // 1 : 3 : 4, far from 0, where exp would overflow.
        let logits = [1000.0, 1000.0 + f32::ln(3.0), 1000.0 + f32::ln(4.0)];
        let logprobs = of(&logits, 0, 2);
        assert!((f64::from(logprobs.drawn) - f64::ln(0.125)).abs() < 1e-4);
        let got: Vec<_> = logprobs.top.iter().map(|entry| entry.token).collect();
        assert_eq!(got, [2, 1]);
        let near = of(&[0.0, f32::ln(3.0), f32::ln(4.0)], 1, 3);
        assert!(close(near.drawn, f64::ln(0.375)));
        assert!(close(near.top[0].logprob, f64::ln(0.5)));
        assert!(close(near.top[2].logprob, f64::ln(0.125)));
    }

    #[test]
    fn equal_tokens_are_ordered_by_id_and_impossible_ones_left_out() {
        let logits = [1.0, f32::NEG_INFINITY, 2.0, 1.0, 2.0, 1.0];
        let tokens = |n| -> Vec<u32> {
            of(&logits, 2, n)
                .top
                .iter()
                .map(|entry| entry.token)
                .collect()
        };
        assert_eq!(tokens(3), [2, 4, 0]);
        assert_eq!(tokens(20), [2, 4, 0, 3, 5]);
        assert!(tokens(0).is_empty());
        assert_eq!(of(&logits, 1, 0).drawn, f32::NEG_INFINITY);
        assert_eq!(of(&[5.0, f32::NEG_INFINITY], 0, 0).drawn, 0.0, "certain");
    }
}
