//! The Kullback-Leibler divergence from reference logits, position by position.

use std::fmt;

use anyhow::bail;
use serde::Serialize;

use super::{Logits, Position, log_sum_exp};

/// Two reference logits closer than this do not decide which token is the best.
const TIE: f64 = 0.001;

/// How logits compare with a reference.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Mean over positions of KL(reference || ours), in nats, over the reference's listed tokens and the rest as one.
    pub mean_kl: f64,
    /// The largest of them.
    pub max_kl: f64,
    /// Positions where the likeliest token is the same.
    pub same_top: usize,
    /// Positions where the reference's two best logits differ by more than 0.001.
    pub decided: usize,
    /// Those of them where the likeliest token is the same.
    pub decided_same_top: usize,
    /// Positions.
    pub positions: usize,
}

/// A comparison in the making.
pub struct Comparing<'a> {
    against: &'a [Position],
    sum_kl: f64,
    max_kl: f64,
    same_top: usize,
    decided: usize,
    decided_same_top: usize,
    n: usize,
}

/// Begins to compare. Refuses a reference of other tokens.
pub fn compare<'a>(against: &'a Logits, tokens: &[u32]) -> anyhow::Result<Comparing<'a>> {
    if against.prompt_tokens != tokens {
        bail!("the reference was made from other tokens: another text, or another tokenizer");
    }
    if against.positions.len() != tokens.len()
        || against
            .positions
            .iter()
            .any(|position| position.top.is_empty())
    {
        bail!(
            "the reference does not list logits for each of the {} tokens",
            tokens.len()
        );
    }
    Ok(Comparing {
        against: &against.positions,
        sum_kl: 0.0,
        max_kl: 0.0,
        same_top: 0,
        decided: 0,
        decided_same_top: 0,
        n: 0,
    })
}

impl Comparing<'_> {
    /// Takes the logits of the next position.
    pub fn add(&mut self, logits: &[f32]) {
        let reference = &self.against[self.n];
        self.n += 1;
        let kl = divergence(reference, logits);
        self.sum_kl += kl;
        self.max_kl = self.max_kl.max(kl);
        let best = (0u32..)
            .zip(logits)
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let same = best.is_some_and(|(id, _)| id == reference.top[0].0);
        let decided = reference
            .top
            .get(1)
            .is_none_or(|second| reference.top[0].1 - second.1 > TIE);
        self.same_top += usize::from(same);
        self.decided += usize::from(decided);
        self.decided_same_top += usize::from(decided && same);
    }

    pub fn finish(self) -> Comparison {
        Comparison {
            mean_kl: self.sum_kl / self.n.max(1) as f64,
            max_kl: self.max_kl,
            same_top: self.same_top,
            decided: self.decided,
            decided_same_top: self.decided_same_top,
            positions: self.n,
        }
    }
}

/// sum p ln(p / q) over the listed tokens, and over all others taken together.
fn divergence(reference: &Position, logits: &[f32]) -> f64 {
    let lse = log_sum_exp(logits);
    let (mut kl, mut p_listed, mut q_listed) = (0.0, 0.0, 0.0);
    for (id, logit) in &reference.top {
        let ln_p = logit - reference.lse;
        let ln_q = logits
            .get(*id as usize)
            .map_or(f64::NEG_INFINITY, |logit| f64::from(*logit) - lse);
        kl += ln_p.exp() * (ln_p - ln_q);
        p_listed += ln_p.exp();
        q_listed += ln_q.exp();
    }
    let (p_rest, q_rest) = (1.0 - p_listed, 1.0 - q_listed);
    // Rounding in the file may leave a hair less than nothing.
    if p_rest > 1e-9 && q_rest > 0.0 {
        kl += p_rest * (p_rest / q_rest).ln();
    }
    kl.max(0.0)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "KL divergence {:.3e} mean, {:.3e} largest; same top token at {} of {} positions ({} of the {} where the \
             reference is decided)",
            self.mean_kl,
            self.max_kl,
            self.same_top,
            self.positions,
            self.decided_same_top,
            self.decided
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_diverge_by_nothing_and_others_by_what_they_should() {
        let logits = [1.0f32, 2.0, 0.5, -1.0];
        let reference = Position {
            lse: log_sum_exp(&logits),
            top: vec![(1, 2.0), (0, 1.0)],
        };
        assert!(divergence(&reference, &logits) < 1e-12);
        // Two tokens, p = (1/2, 1/2), q = (1/5, 4/5).
        let even = Position {
            lse: f64::ln(2.0),
            top: vec![(0, 0.0), (1, 0.0)],
        };
        let skewed = [0.0, f32::ln(4.0)];
        let want = 0.5 * f64::ln(0.5 / 0.2) + 0.5 * f64::ln(0.5 / 0.8);
        assert!((divergence(&even, &skewed) - want).abs() < 1e-6);
    }
}
