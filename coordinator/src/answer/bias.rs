//! From what a request says of single tokens and texts to biases by token id.

use std::collections::HashSet;

use potluck_proto::{LogitBias, limits};

use super::AnswerError;
use crate::text::{AddBos, Special, TokenId, Tokenizer};

/// What is made more or less likely, and by how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Bias {
    pub of: Biased,
    /// Added to the logit; minus infinity forbids.
    pub bias: f32,
}

/// What a bias is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Biased {
    /// A token's id, or what should be one.
    Token(u64),
    /// Each token of a text.
    Text(String),
}

/// Why biases cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BiasError {
    #[error("`logit_bias` has token {id}; the model has ids 0 to {last}")]
    NoSuchToken { id: u64, last: u64 },
    #[error(
        "`logit_bias` is about {got} tokens, its texts counted by token; at most {limit} are accepted"
    )]
    TooMany { got: usize, limit: usize },
    #[error("`logit_bias` and `ignore_eos` forbid every token of the model; allow at least one")]
    NothingLeft,
}

/// The biases by id, with the tokens in `never` forbidden.
pub(super) fn resolve(
    tokenizer: &Tokenizer,
    biases: &[Bias],
    never: &[TokenId],
) -> Result<Vec<LogitBias>, AnswerError> {
    let forbid = |&token| LogitBias {
        token,
        bias: f32::NEG_INFINITY,
    };
    let mut resolved: Vec<_> = never.iter().map(forbid).collect();
    for Bias { of, bias } in biases {
        let tokens = tokens(tokenizer, of)?;
        resolved.extend(
            tokens
                .into_iter()
                .map(|token| LogitBias { token, bias: *bias }),
        );
        at_most(resolved.len(), limits::MAX_LOGIT_BIASES)?;
    }
    something_left(tokenizer, &resolved)?;
    Ok(resolved)
}

fn tokens(tokenizer: &Tokenizer, of: &Biased) -> Result<Vec<TokenId>, AnswerError> {
    match of {
        Biased::Text(text) => Ok(tokenizer.encode(text, Special::Text, AddBos::Never)?),
        Biased::Token(id) => {
            let n_vocab = tokenizer.n_vocab() as u64;
            let token = TokenId::try_from(*id).ok().filter(|_| *id < n_vocab);
            let last = n_vocab.saturating_sub(1);
            Ok(vec![token.ok_or(BiasError::NoSuchToken { id: *id, last })?])
        }
    }
}

fn at_most(got: usize, limit: usize) -> Result<(), BiasError> {
    match got > limit {
        true => Err(BiasError::TooMany { got, limit }),
        false => Ok(()),
    }
}

fn something_left(tokenizer: &Tokenizer, biases: &[LogitBias]) -> Result<(), BiasError> {
    let forbidden = biases.iter().filter(|entry| entry.bias.is_infinite());
    let forbidden: HashSet<_> = forbidden.map(|entry| entry.token).collect();
    match forbidden.len() >= tokenizer.n_vocab() {
        true => Err(BiasError::NothingLeft),
        false => Ok(()),
    }
}
