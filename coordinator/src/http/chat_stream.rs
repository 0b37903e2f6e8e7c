//! The chunks of a streamed chat completion.

use std::sync::Arc;

use axum::response::sse::Event;

use super::chat_logprobs::ChoiceLogprobs;
use super::chat_parts::{Said, Speaker};
use super::chat_reply::ReplyHead;
use super::error::ApiError;
use super::reply_stream::Shape;
use super::sse::{self, event};
use crate::answer::{Choices, Delta, Done, Timings};
use crate::text::Tokenizer;

pub(super) struct ChatStream {
    /// One for each choice.
    speakers: Vec<Speaker>,
    tokenizer: Arc<Tokenizer>,
    head: ReplyHead,
    include_usage: bool,
}

impl ChatStream {
    pub(super) fn new(
        choices: &Choices,
        tokenizer: Arc<Tokenizer>,
        head: ReplyHead,
        include_usage: bool,
    ) -> ChatStream {
        let speakers = (0..choices.n()).map(|_| Speaker::new(choices.parser()));
        ChatStream {
            speakers: speakers.collect(),
            tokenizer,
            head,
            include_usage,
        }
    }

    /// Log-probabilities go with the first of what is said, or alone where all of it is held back.
    fn say(
        &self,
        index: u32,
        mut said: Vec<Said>,
        mut logprobs: Option<ChoiceLogprobs>,
    ) -> Vec<Event> {
        if said.is_empty() && logprobs.is_some() {
            said.push(Said::Content(String::new()));
        }
        let pieces = said
            .iter()
            .map(|said| event(&self.head.piece(index, said, logprobs.take())));
        pieces.collect()
    }
}

impl Shape for ChatStream {
    fn opening(&mut self) -> Vec<Event> {
        let openings = (0..)
            .zip(&self.speakers)
            .map(|(index, _)| event(&self.head.opening(index)));
        openings.collect()
    }

    fn piece(&mut self, index: u32, delta: &Delta) -> Vec<Event> {
        let said = self.speakers[index as usize].push(&delta.text);
        self.say(index, said, ChoiceLogprobs::of(delta, &self.tokenizer))
    }

    fn closing(&mut self, index: u32, done: &Done) -> Vec<Event> {
        let speaker = &mut self.speakers[index as usize];
        let (said, reason) = (speaker.finish(), speaker.reason(done.finish));
        let mut events = self.say(index, said, None);
        events.push(event(&self.head.closing(index, reason)));
        events
    }

    fn end(&mut self, timings: &Timings) -> Vec<Event> {
        let accounts = self
            .include_usage
            .then(|| event(&self.head.accounts(timings)));
        accounts.into_iter().chain([sse::done()]).collect()
    }

    fn error(&self, error: &ApiError) -> Event {
        event(&error.body())
    }
}
