//! Log-probabilities in OpenAI's shape, with ids as llama.cpp's server adds them.

use potluck_proto::{Logprobs, TokenLogprob};
use serde::Serialize;

use super::completion_reply::TextLogprobs;
use crate::answer::Delta;
use crate::text::{TokenId, Tokenizer};

/// What is written for a token that cannot occur: JSON has no infinity, and OpenAI writes this.
const IMPOSSIBLE: f32 = -9999.0;

/// An entry for each token of a choice or of a piece of it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ChoiceLogprobs {
    content: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize)]
struct Entry {
    #[serde(flatten)]
    token: Token,
    top_logprobs: Vec<Token>,
}

#[derive(Debug, Clone, Serialize)]
struct Token {
    id: TokenId,
    /// Bytes that are no text on their own are shown as U+FFFD; a control token by its name.
    token: String,
    /// `None` for a token that stands for no text.
    bytes: Option<Vec<u8>>,
    logprob: f32,
}

impl ChoiceLogprobs {
    /// Those of a piece; `None` if there are none, as where the request did not ask for any.
    pub(super) fn of(delta: &Delta, tokenizer: &Tokenizer) -> Option<ChoiceLogprobs> {
        let entries = delta.tokens.iter().zip(&delta.logprobs);
        let content: Vec<_> = entries
            .map(|(&id, logprobs)| entry(id, logprobs, tokenizer))
            .collect();
        (!content.is_empty()).then_some(ChoiceLogprobs { content })
    }

    /// In the shape of text completions, for a piece that begins after so many characters of its answer.
    pub(super) fn as_text(&self, mut n_chars: usize) -> TextLogprobs {
        let top = |entry: &Entry| {
            let top = entry.top_logprobs.iter();
            top.map(|token| (token.token.clone(), token.logprob))
                .collect()
        };
        let mut offset = |entry: &Entry| {
            let before = n_chars;
            // A control token has a name, but no text in the answer.
            let is_text = entry.token.bytes.is_some();
            n_chars += if is_text {
                entry.token.token.chars().count()
            } else {
                0
            };
            before
        };
        let entries = self.content.iter();
        TextLogprobs {
            tokens: entries.clone().map(|e| e.token.token.clone()).collect(),
            token_logprobs: entries.clone().map(|e| e.token.logprob).collect(),
            top_logprobs: entries.clone().map(top).collect(),
            text_offset: entries.map(&mut offset).collect(),
        }
    }

    /// Puts those of the next piece behind these.
    pub(super) fn append(&mut self, next: Option<ChoiceLogprobs>) {
        self.content
            .extend(next.into_iter().flat_map(|next| next.content));
    }
}

fn entry(id: TokenId, logprobs: &Logprobs, tokenizer: &Tokenizer) -> Entry {
    let top = logprobs.top.iter();
    Entry {
        token: token(id, logprobs.drawn, tokenizer),
        top_logprobs: top
            .map(|&TokenLogprob { token: id, logprob }| token(id, logprob, tokenizer))
            .collect(),
    }
}

fn token(id: TokenId, logprob: f32, tokenizer: &Tokenizer) -> Token {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let text = match bytes.is_empty() {
        true => tokenizer.token_text(id).unwrap_or_default().to_owned(),
        false => String::from_utf8_lossy(bytes).into_owned(),
    };
    Token {
        id,
        token: text,
        bytes: (!bytes.is_empty()).then(|| bytes.to_vec()),
        logprob: logprob.max(IMPOSSIBLE),
    }
}
