//! How tokens are drawn, as a request says it: each field with its range and what it means when it is left out.

use std::ops::RangeInclusive;

use potluck_proto::{Sampling, limits};

use super::chat_body::{Body, LogprobsField};
use super::chat_request::ranged;
use super::error::ApiError;

/// OpenAI's default: the model's own distribution.
const DEFAULT_TEMPERATURE: f32 = 1.0;

/// OpenAI has no `top_k` and no `min_p`. Small quantised models need some cut of the unlikely, so what a request leaves open
/// is what llama.cpp's server would take.
const DEFAULT_TOP_K: u32 = 40;
const DEFAULT_MIN_P: f32 = 0.05;

/// Tokens that the penalties look back over, as in llama.cpp.
const PENALTY_WINDOW: u32 = 64;

/// The share from which on a token is a top choice, as in llama.cpp.
const DEFAULT_XTC_THRESHOLD: f32 = 0.1;

/// What a request gets that asks for nothing else.
pub(super) fn default_sampling() -> Sampling {
    Sampling {
        temperature: DEFAULT_TEMPERATURE,
        top_k: DEFAULT_TOP_K,
        min_p: DEFAULT_MIN_P,
        penalty_window: PENALTY_WINDOW,
        xtc_threshold: DEFAULT_XTC_THRESHOLD,
        ..Sampling::greedy()
    }
}

/// The options that every API has; the others as by default.
pub(super) fn basic_sampling(
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
) -> Result<Sampling, ApiError> {
    let default = default_sampling();
    let top_k = ranged("top_k", top_k, &(0..=i64::from(i32::MAX)))?;
    Ok(Sampling {
        temperature: float("temperature", temperature, 0.0..=2.0, default.temperature)?,
        top_k: top_k
            .and_then(|k| u32::try_from(k).ok())
            .unwrap_or(default.top_k),
        top_p: float("top_p", top_p, 0.0..=1.0, default.top_p)?,
        ..default
    })
}

impl Body {
    pub(super) fn sampling(&self) -> Result<Sampling, ApiError> {
        let basics = basic_sampling(self.temperature, self.top_p, self.top_k)?;
        Ok(Sampling {
            min_p: float("min_p", self.min_p, 0.0..=1.0, basics.min_p)?,
            repeat_penalty: float("repeat_penalty", self.repeat_penalty, 0.1..=10.0, 1.0)?,
            frequency_penalty: float("frequency_penalty", self.frequency_penalty, -2.0..=2.0, 0.0)?,
            presence_penalty: float("presence_penalty", self.presence_penalty, -2.0..=2.0, 0.0)?,
            penalty_window: self.penalty_window()?,
            top_logprobs: self.top_logprobs()?,
            typical_p: float("typical_p", self.typical_p, 0.0..=1.0, 1.0)?,
            // llama.cpp's clients say -1 for none.
            top_n_sigma: float("top_n_sigma", self.top_n_sigma, -1.0..=100.0, 0.0)?.max(0.0),
            xtc_probability: float("xtc_probability", self.xtc_probability, 0.0..=1.0, 0.0)?,
            xtc_threshold: float(
                "xtc_threshold",
                self.xtc_threshold,
                0.0..=1.0,
                basics.xtc_threshold,
            )?,
            dynatemp_range: float("dynatemp_range", self.dynatemp_range, 0.0..=2.0, 0.0)?,
            dynatemp_exponent: float("dynatemp_exponent", self.dynatemp_exponent, 0.0..=10.0, 1.0)?,
            ..basics
        })
    }

    /// -1 stands for the whole sequence, which is as far as there are tokens.
    fn penalty_window(&self) -> Result<u32, ApiError> {
        let range = -1..=i64::from(limits::MAX_PENALTY_WINDOW);
        Ok(match ranged("repeat_last_n", self.repeat_last_n, &range)? {
            None => PENALTY_WINDOW,
            Some(n) => u32::try_from(n).unwrap_or(limits::MAX_PENALTY_WINDOW),
        })
    }

    /// How many likely tokens are told with each, if any log-probability is.
    fn top_logprobs(&self) -> Result<Option<u32>, ApiError> {
        let range = 0..=i64::from(limits::MAX_TOP_LOGPROBS);
        if let Some(LogprobsField::Top(n)) = self.logprobs {
            let n = ranged("logprobs", Some(n), &range)?;
            return Ok(n.and_then(|n| u32::try_from(n).ok()));
        }
        let n_top = ranged("top_logprobs", self.top_logprobs, &range)?;
        let n_top = n_top.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        match self.logprobs {
            Some(LogprobsField::Wanted(true)) => Ok(Some(n_top)),
            _ if n_top > 0 => Err(ApiError::invalid(format!(
                "`top_logprobs` is {n_top} but `logprobs` is not true; set it, or leave both out"
            ))),
            _ => Ok(None),
        }
    }
}

pub(super) fn float(
    field: &str,
    value: Option<f64>,
    range: RangeInclusive<f64>,
    default: f32,
) -> Result<f32, ApiError> {
    // Within these ranges the cast only rounds.
    Ok(ranged(field, value, &range)?.map_or(default, |value| value as f32))
}
