//! How a token is drawn, and how likely it was: what a run may ask of the last stage, and what comes back with the token.

use std::sync::Arc;

use crate::{WireError, limits, pairs, step::at_most, wire};

/// How the next token is drawn. In which order the options act is in the worker's `sampling.rs`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Random numbers are f(seed, index): they do not depend on what else is computed.
    pub seed: u64,
    /// Index of the token within the answer.
    pub index: u32,
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens whose probabilities sum to p; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted from the logit for each recent occurrence.
    pub frequency_penalty: f32,
    /// Subtracted from the logit once for a token that occurred recently.
    pub presence_penalty: f32,
    /// How many tokens back "recent" reaches.
    pub penalty_window: u32,
    /// Added to logits before anything else. Shared, because it goes out with every token of an answer.
    pub logit_bias: Arc<[LogitBias]>,
    /// Tell log-probabilities: of the drawn token, and of so many of the most likely.
    pub top_logprobs: Option<u32>,
    /// Keep the tokens of the most typical surprise whose probabilities sum to p; 1 keeps all.
    pub typical_p: f32,
    /// Keep logits at most so many standard deviations below the highest; 0 keeps all.
    pub top_n_sigma: f32,
    /// How often the most likely of several likely tokens are left out; 0 is never.
    pub xtc_probability: f32,
    /// What "likely" means there.
    pub xtc_threshold: f32,
    /// The temperature moves so far up or down with the uncertainty; 0 keeps it.
    pub dynatemp_range: f32,
    /// How it moves between its bounds; 1 is in a straight line.
    pub dynatemp_exponent: f32,
}

/// A change of one token's logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitBias {
    /// Token id.
    pub token: u32,
    /// Added to its logit, up to `MAX_LOGIT_BIAS` either way. Minus infinity forbids it.
    pub bias: f32,
}

/// How likely a drawn token was, by the model alone: before biases, penalties and temperature.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of the drawn token's probability.
    pub drawn: f32,
    /// The most likely tokens, the first of them first; of equal ones the lower id.
    pub top: Vec<TokenLogprob>,
}

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub token: u32,
    /// 0 at most; minus infinity is possible.
    pub logprob: f32,
}

impl Sampling {
    /// The most likely token, nothing else.
    pub fn greedy() -> Self {
        Sampling {
            seed: 0,
            index: 0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: [].into(),
            top_logprobs: None,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            dynatemp_range: 0.0,
            dynatemp_exponent: 1.0,
        }
    }

    /// The oldest protocol whose workers do all of this. Older ones would draw without what they do not know.
    pub fn protocol(&self) -> u32 {
        let as_in_protocol_2 = self.logit_bias.is_empty()
            && self.top_logprobs.is_none()
            && self.typical_p == 1.0
            && self.top_n_sigma == 0.0
            && self.xtc_probability == 0.0
            && self.dynatemp_range == 0.0
            && self.penalty_window <= limits::MAX_PENALTY_WINDOW_2;
        if as_in_protocol_2 { 2 } else { 3 }
    }

    /// Checks that every value is finite and within its meaning.
    pub fn validate(&self) -> Result<(), WireError> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("top_n_sigma", self.top_n_sigma, 0.0, 1000.0),
            ("xtc_probability", self.xtc_probability, 0.0, 1.0),
            ("xtc_threshold", self.xtc_threshold, 0.0, 1.0),
            ("dynatemp_range", self.dynatemp_range, 0.0, 100.0),
            ("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(WireError::Invalid {
                    field,
                    why: format!("{value} is not between {low} and {high}"),
                });
            }
        }
        at_most(
            "penalty_window",
            self.penalty_window.into(),
            limits::MAX_PENALTY_WINDOW.into(),
        )?;
        at_most(
            "top_logprobs",
            self.top_logprobs.unwrap_or(0).into(),
            limits::MAX_TOP_LOGPROBS.into(),
        )?;
        self.validate_bias()
    }

    fn validate_bias(&self) -> Result<(), WireError> {
        let n_biases = self.logit_bias.len() as u64;
        at_most("logit_bias", n_biases, limits::MAX_LOGIT_BIASES as u64)?;
        let is_bias = |bias: f32| bias.abs() <= limits::MAX_LOGIT_BIAS || bias == f32::NEG_INFINITY;
        match self.logit_bias.iter().find(|entry| !is_bias(entry.bias)) {
            Some(entry) => Err(WireError::Invalid {
                field: "logit_bias",
                why: format!("token {} would get {}", entry.token, entry.bias),
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn to_wire(&self) -> wire::Sampling {
        let biases = self
            .logit_bias
            .iter()
            .map(|entry| (entry.token, entry.bias));
        wire::Sampling {
            seed: self.seed,
            index: self.index,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            penalty_window: self.penalty_window,
            logit_bias: pairs::to_bytes(biases),
            top_logprobs: self.top_logprobs,
            typical_p: Some(self.typical_p),
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            dynatemp_range: self.dynatemp_range,
            dynatemp_exponent: Some(self.dynatemp_exponent),
        }
    }

    pub(crate) fn from_wire(sampling: wire::Sampling) -> Result<Sampling, WireError> {
        let biases =
            pairs::from_bytes("logit_bias", &sampling.logit_bias, limits::MAX_LOGIT_BIASES)?;
        let sampling = Sampling {
            seed: sampling.seed,
            index: sampling.index,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repeat_penalty,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            penalty_window: sampling.penalty_window,
            logit_bias: biases
                .into_iter()
                .map(|(token, bias)| LogitBias { token, bias })
                .collect(),
            top_logprobs: sampling.top_logprobs,
            typical_p: sampling.typical_p.unwrap_or(1.0),
            top_n_sigma: sampling.top_n_sigma,
            xtc_probability: sampling.xtc_probability,
            xtc_threshold: sampling.xtc_threshold,
            dynatemp_range: sampling.dynatemp_range,
            dynatemp_exponent: sampling.dynatemp_exponent.unwrap_or(1.0),
        };
        sampling.validate()?;
        Ok(sampling)
    }
}

impl Logprobs {
    pub(crate) fn to_wire(&self) -> wire::Logprobs {
        let top = self.top.iter().map(|entry| (entry.token, entry.logprob));
        wire::Logprobs {
            drawn: self.drawn,
            top: pairs::to_bytes(top),
        }
    }

    pub(crate) fn from_wire(logprobs: wire::Logprobs) -> Result<Logprobs, WireError> {
        let limit = limits::MAX_TOP_LOGPROBS as usize;
        let top = pairs::from_bytes("logprobs", &logprobs.top, limit)?;
        let all = top.iter().map(|(_, logprob)| *logprob);
        let is_logprob = |logprob: &f32| *logprob <= 0.0;
        if let Some(wrong) = all.chain([logprobs.drawn]).find(|p| !is_logprob(p)) {
            return Err(WireError::Invalid {
                field: "logprobs",
                why: format!("{wrong} is no logarithm of a probability"),
            });
        }
        Ok(Logprobs {
            drawn: logprobs.drawn,
            top: top
                .into_iter()
                .map(|(token, logprob)| TokenLogprob { token, logprob })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn all_options() -> Sampling {
        Sampling {
            seed: 3,
            logit_bias: [(7, -1.5), (9, f32::NEG_INFINITY)]
                .map(|(token, bias)| LogitBias { token, bias })
                .into(),
            top_logprobs: Some(20),
            typical_p: 0.5,
            top_n_sigma: 1.5,
            xtc_probability: 0.25,
            xtc_threshold: 0.2,
            dynatemp_range: 0.5,
            dynatemp_exponent: 2.0,
            ..Sampling::greedy()
        }
    }

    #[test]
    fn every_option_survives_the_wire() {
        for sampling in [all_options(), Sampling::greedy()] {
            assert_eq!(Sampling::from_wire(sampling.to_wire()), Ok(sampling));
        }
    }

    #[test]
    fn what_an_older_coordinator_leaves_out_is_off() {
        let older = wire::Sampling {
            top_p: 1.0,
            repeat_penalty: 1.0,
            ..Default::default()
        };
        let sampling = Sampling::from_wire(older).unwrap();
        assert_eq!(sampling.protocol(), 2);
        assert_eq!((sampling.typical_p, sampling.dynatemp_exponent), (1.0, 1.0));
    }

    #[test]
    fn newer_options_need_newer_workers() {
        assert_eq!(Sampling::greedy().protocol(), 2);
        assert_eq!(all_options().protocol(), 3);
        let long = Sampling {
            penalty_window: limits::MAX_PENALTY_WINDOW_2 + 1,
            ..Sampling::greedy()
        };
        assert_eq!(long.protocol(), 3);
    }

    #[test]
    fn bad_options_are_refused_by_name() {
        type Damage = fn(&mut wire::Sampling);
        let cases: [(&str, Damage); 9] = [
            ("logit_bias", |s| {
                s.logit_bias = Bytes::from_static(b"1234567")
            }),
            ("logit_bias", |s| s.logit_bias = vec![0; 8 * 2049].into()),
            ("logit_bias", |s| {
                s.logit_bias = pairs::to_bytes([(1, f32::NAN)])
            }),
            ("logit_bias", |s| {
                s.logit_bias = pairs::to_bytes([(1, 10_001.0)]);
            }),
            ("top_logprobs", |s| s.top_logprobs = Some(21)),
            ("typical_p", |s| s.typical_p = Some(f32::NAN)),
            ("top_n_sigma", |s| s.top_n_sigma = -1.0),
            ("xtc_probability", |s| s.xtc_probability = 1.5),
            ("dynatemp_exponent", |s| s.dynatemp_exponent = Some(-1.0)),
        ];
        for (field, damage) in cases {
            let mut wire = all_options().to_wire();
            damage(&mut wire);
            let error = Sampling::from_wire(wire).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn logarithms_of_probabilities_are_checked() {
        let good = Logprobs {
            drawn: f32::NEG_INFINITY,
            top: vec![TokenLogprob {
                token: 5,
                logprob: -0.25,
            }],
        };
        assert_eq!(Logprobs::from_wire(good.to_wire()), Ok(good));
        let of = |drawn, top: Bytes| Logprobs::from_wire(wire::Logprobs { drawn, top });
        assert!(of(0.5, Bytes::new()).is_err(), "more than certain");
        assert!(of(0.0, pairs::to_bytes([(1, f32::NAN)])).is_err());
        assert!(of(0.0, Bytes::from_static(b"odd")).is_err());
        assert!(of(0.0, vec![0; 8 * 21].into()).is_err(), "too many");
    }
}
