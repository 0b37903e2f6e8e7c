//! Why a request gets no answer, or no more of it, in sentences for the person who sent it.

use potluck_proto::WireError;

use super::FaultKind;

/// A request that was refused or whose answer was cut off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    #[error("the prompt is empty; send at least one token")]
    PromptEmpty,
    #[error(
        "the prompt has {n_prompt} tokens, but the context of {context} tokens must hold it and the answer; \
         shorten the prompt or serve the model with a larger context"
    )]
    PromptTooLong { n_prompt: usize, context: u32 },
    #[error("the sampling options cannot be used: {0}")]
    Sampling(WireError),
    #[error(
        "token {id} is outside the model's vocabulary of {n_vocab} tokens; \
         the tokenizer and the weights do not belong together"
    )]
    TokenOutOfVocabulary { id: u32, n_vocab: u32 },
    #[error("{limit} requests are waiting already; try again in a moment")]
    QueueFull { limit: usize },
    #[error("the model is not ready: {why}; try again in a moment")]
    NotReady { why: String },
    #[error("the workers were lost before the answer was complete: {why}; send the request again")]
    WorkerLost { why: String },
    #[error("{kind}: {message}")]
    Fault { kind: FaultKind, message: String },
    #[error(
        "a worker holds {kv_len} positions of this conversation where {expected} were expected; \
         send the request again"
    )]
    OutOfStep { kv_len: u32, expected: u32 },
    #[error(
        "the last worker returned no token where token {index} of the answer was due; \
         send the request again"
    )]
    TokenMissing { index: u32 },
    #[error(
        "the last worker did not tell the log-probabilities of token {index} of the answer; \
         send the request again"
    )]
    LogprobsMissing { index: u32 },
    #[error(
        "a worker runs a version of potluck that is too old for what is asked (it speaks protocol {worker}, {needed} is \
         needed): logit_bias, ignore_eos, logprobs, typical_p, top_n_sigma, xtc_probability, dynatemp_range, or \
         repeat_last_n above 4096; update the worker or leave them out"
    )]
    WorkerTooOld { worker: u32, needed: u32 },
}
