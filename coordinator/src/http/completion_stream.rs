//! A streamed text completion. As in `chat_stream`, the connection owns the answers.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream;

use super::chat_logprobs::ChoiceLogprobs;
use super::completion_reply::TextHead;
use super::error::ApiError;
use super::request_log::RequestLog;
use super::sse::{self, event};
use crate::answer::{AnswerEvent, Choices, Delta, Timings};
use crate::text::Tokenizer;

/// A reply on its way.
pub(super) struct TextStream {
    /// `None` after the end.
    choices: Option<Choices>,
    /// Characters that each choice has so far.
    n_chars: Vec<usize>,
    tokenizer: Arc<Tokenizer>,
    head: TextHead,
    include_usage: bool,
    log: RequestLog,
    /// Of the choices that are complete.
    timings: Vec<Timings>,
    ready: VecDeque<Event>,
}

impl TextStream {
    pub(super) fn new(
        choices: Choices,
        tokenizer: Arc<Tokenizer>,
        head: TextHead,
        include_usage: bool,
        log: RequestLog,
    ) -> TextStream {
        TextStream {
            n_chars: vec![0; choices.n() as usize],
            choices: Some(choices),
            tokenizer,
            head,
            include_usage,
            log,
            timings: Vec::new(),
            ready: VecDeque::new(),
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
                let closing = self.head.piece(index, "", None, Some(done.finish));
                self.ready.push_back(event(&closing));
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
        let n_chars = &mut self.n_chars[index as usize];
        let logprobs = ChoiceLogprobs::of(delta, &self.tokenizer);
        let logprobs = logprobs.map(|logprobs| logprobs.as_text(*n_chars));
        *n_chars += delta.text.chars().count();
        if !delta.text.is_empty() || logprobs.is_some() {
            let piece = self.head.piece(index, &delta.text, logprobs, None);
            self.ready.push_back(event(&piece));
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
