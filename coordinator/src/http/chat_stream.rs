//! A streamed reply: server-sent events, one for each piece of text.
//!
//! The stream owns the answers, and the connection owns the stream: a client that goes away takes all of it along, which cancels
//! the sequences. An error in the middle is one last event, for the status has long been sent.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream;

use super::chat_logprobs::ChoiceLogprobs;
use super::chat_parts::{Said, Speaker};
use super::chat_reply::ReplyHead;
use super::error::ApiError;
use super::request_log::RequestLog;
use super::sse::{self, event};
use crate::answer::{AnswerEvent, Choices, Delta, Timings};
use crate::text::Tokenizer;

/// A reply on its way.
pub(super) struct ChatStream {
    /// `None` after the end.
    choices: Option<Choices>,
    /// One for each choice.
    speakers: Vec<Speaker>,
    tokenizer: Arc<Tokenizer>,
    head: ReplyHead,
    include_usage: bool,
    log: RequestLog,
    /// Of the choices that are complete.
    timings: Vec<Timings>,
    ready: VecDeque<Event>,
}

impl ChatStream {
    pub(super) fn new(
        choices: Choices,
        tokenizer: Arc<Tokenizer>,
        head: ReplyHead,
        include_usage: bool,
        log: RequestLog,
    ) -> ChatStream {
        let openings = (0..choices.n()).map(|index| event(&head.opening(index)));
        let speakers = (0..choices.n()).map(|_| Speaker::new(choices.parser()));
        ChatStream {
            ready: openings.collect(),
            speakers: speakers.collect(),
            choices: Some(choices),
            tokenizer,
            head,
            include_usage,
            log,
            timings: Vec::new(),
        }
    }

    /// The response that streams the answers, of which `first` has already been taken.
    pub(super) fn response(mut self, first: Option<(u32, AnswerEvent)>) -> Response {
        if let Some((index, first)) = first {
            self.apply(index, first);
        }
        let events = stream::unfold(self, |mut stream| async move {
            let event = stream.next().await?;
            Some((event, stream))
        });
        sse::response(events, KeepAlive::new())
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (index, event) = self.choices.as_mut()?.next().await?;
            self.apply(index, event);
        }
    }

    fn apply(&mut self, index: u32, answer_event: AnswerEvent) {
        match answer_event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => self.piece(index, &delta),
            AnswerEvent::Done(done) => {
                let speaker = &mut self.speakers[index as usize];
                let (said, reason) = (speaker.finish(), speaker.reason(done.finish));
                self.say(index, said, None);
                let closing = event(&self.head.closing(index, reason));
                self.ready.push_back(closing);
                self.timings.push(done.timings);
                self.end_if_complete();
            }
            AnswerEvent::Failed(error) => {
                let error = ApiError::from(error);
                self.log.failed(&error);
                self.choices = None;
                self.ready.push_back(event(&error.body()));
            }
        }
    }

    fn piece(&mut self, index: u32, delta: &Delta) {
        let n_predicted = self.choices.as_ref().map_or(0, Choices::n_predicted);
        self.log.predicted(n_predicted);
        let said = self.speakers[index as usize].push(&delta.text);
        self.say(index, said, ChoiceLogprobs::of(delta, &self.tokenizer));
    }

    /// Log-probabilities go with the first of what is said, or alone where all of it is held back.
    fn say(&mut self, index: u32, mut said: Vec<Said>, mut logprobs: Option<ChoiceLogprobs>) {
        if said.is_empty() && logprobs.is_some() {
            said.push(Said::Content(String::new()));
        }
        for said in said {
            let piece = event(&self.head.piece(index, &said, logprobs.take()));
            self.ready.push_back(piece);
        }
    }

    fn end_if_complete(&mut self) {
        let Some(choices) = &self.choices else { return };
        if self.timings.len() < choices.n() as usize {
            return;
        }
        let timings = choices.timings(&self.timings);
        self.log.done(&timings);
        self.choices = None;
        if self.include_usage {
            let accounts = event(&self.head.accounts(&timings));
            self.ready.push_back(accounts);
        }
        self.ready.push_back(Event::default().data("[DONE]"));
    }
}
