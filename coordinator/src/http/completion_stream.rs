//! The chunks of a streamed text completion.

use std::sync::Arc;

use axum::response::sse::Event;

use super::chat_logprobs::ChoiceLogprobs;
use super::chat_reply::ReplyHead;
use super::error::ApiError;
use super::reply_stream::Shape;
use super::sse::{self, event};
use crate::answer::{Choices, Delta, Done, Timings};
use crate::text::Tokenizer;

pub(super) struct TextStream {
    /// Characters that each choice has so far.
    n_chars: Vec<usize>,
    tokenizer: Arc<Tokenizer>,
    head: ReplyHead,
    include_usage: bool,
}

impl TextStream {
    pub(super) fn new(
        choices: &Choices,
        tokenizer: Arc<Tokenizer>,
        head: ReplyHead,
        include_usage: bool,
    ) -> TextStream {
        TextStream {
            n_chars: vec![0; choices.n() as usize],
            tokenizer,
            head,
            include_usage,
        }
    }
}

impl Shape for TextStream {
    fn opening(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn piece(&mut self, index: u32, delta: &Delta) -> Vec<Event> {
        let n_chars = &mut self.n_chars[index as usize];
        let logprobs = ChoiceLogprobs::of(delta, &self.tokenizer);
        let logprobs = logprobs.map(|logprobs| logprobs.as_text(*n_chars));
        *n_chars += delta.text.chars().count();
        if delta.text.is_empty() && logprobs.is_none() {
            return Vec::new();
        }
        vec![event(&self.head.text_piece(
            index,
            &delta.text,
            logprobs,
            None,
        ))]
    }

    fn closing(&mut self, index: u32, done: &Done) -> Vec<Event> {
        vec![event(&self.head.text_piece(
            index,
            "",
            None,
            Some(done.finish),
        ))]
    }

    fn end(&mut self, timings: &Timings) -> Vec<Event> {
        let accounts = self
            .include_usage
            .then(|| event(&self.head.text_accounts(timings)));
        accounts.into_iter().chain([sse::done()]).collect()
    }

    fn error(&self, error: &ApiError) -> Event {
        event(&error.body())
    }
}
