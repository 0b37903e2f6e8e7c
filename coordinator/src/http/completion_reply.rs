//! The shapes of a text completion: whole, and the chunks of a streamed one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::chat_parts::reason;
use super::chat_reply::{Accounts, ReplyHead};
use super::reply_whole::WholeAnswer;
use crate::answer::{Finish, Timings};

/// A whole reply or a chunk of one: both have the same shape.
#[derive(Serialize)]
pub(super) struct TextCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<TextChoice<'a>>,
    #[serde(flatten)]
    accounts: Option<Accounts>,
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

/// Log-probabilities as lists side by side, an entry for each token.
#[derive(Serialize)]
pub(super) struct TextLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Characters of the answer before the token.
    pub text_offset: Vec<usize>,
}

impl ReplyHead {
    /// All answers at once.
    pub(super) fn whole_text<'a>(
        &'a self,
        answers: &'a [WholeAnswer],
        timings: &Timings,
    ) -> TextCompletion<'a> {
        let choices = (0..).zip(answers).map(|(index, answer)| TextChoice {
            index,
            text: &answer.text,
            logprobs: answer.logprobs.as_ref().map(|logprobs| logprobs.as_text(0)),
            finish_reason: answer.finish.map(reason),
        });
        self.text_completion(choices.collect(), Some(timings.into()))
    }

    /// A piece of an answer, or its end.
    pub(super) fn text_piece<'a>(
        &'a self,
        index: u32,
        text: &'a str,
        logprobs: Option<TextLogprobs>,
        finish: Option<Finish>,
    ) -> TextCompletion<'a> {
        let choice = TextChoice {
            index,
            text,
            logprobs,
            finish_reason: finish.map(reason),
        };
        self.text_completion(vec![choice], None)
    }

    /// The chunk with the counts, which has no choices.
    pub(super) fn text_accounts(&self, timings: &Timings) -> TextCompletion<'_> {
        self.text_completion(Vec::new(), Some(timings.into()))
    }

    fn text_completion<'a>(
        &'a self,
        choices: Vec<TextChoice<'a>>,
        accounts: Option<Accounts>,
    ) -> TextCompletion<'a> {
        TextCompletion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            choices,
            accounts,
        }
    }
}
