//! Why there is no answer.

use potluck_proto::WireError;

use super::BiasError;
use crate::engine::GenerateError;
use crate::text::{StopError, TemplateError, TokenizerError};

/// A question that is not answered, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error(
        "model '{model}' has no chat template, so it cannot take chat messages; serve a model that was trained to chat (its name often ends in 'instruct' or 'it')"
    )]
    NoChatTemplate { model: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error("the sampling options cannot be used: {0}")]
    Sampling(#[source] WireError),
    #[error("`prompt` has token {id}; the model has ids 0 to {last}")]
    NoSuchToken { id: u32, last: usize },
    #[error(transparent)]
    Bias(#[from] BiasError),
    #[error(transparent)]
    Engine(#[from] GenerateError),
    #[error("preparing the prompt failed inside the server; its log says why")]
    PreparationFailed,
    #[error("the answer ended without a reason; send the request again")]
    EndedEarly,
}
