//! One answer under way: the engine's events become text and an end.

use std::collections::VecDeque;
use std::time::Instant;

use potluck_proto::Logprobs;

use super::writer::{AnswerWriter, Written};
use super::{AnswerError, AnswerEvent, Done, Finish, Timings};
use crate::engine::{FinishReason, Finished, GenerateEvent, Generation};

/// The events of one answer. Dropping it cancels the sequence.
pub struct Answer {
    /// `None` once the answer has ended; what is still in `ready` comes after that.
    generation: Option<Generation>,
    writer: AnswerWriter,
    ready: VecDeque<AnswerEvent>,
    clock: Clock,
}

/// Measures an answer that a stop string ends: then the engine gives no account of it.
struct Clock {
    n_prompt: u32,
    started: Instant,
    first_token: Option<Instant>,
    n_tokens: u32,
}

impl Answer {
    pub(super) fn new(generation: Generation, writer: AnswerWriter, n_prompt: u32) -> Answer {
        let clock = Clock {
            n_prompt,
            started: Instant::now(),
            first_token: None,
            n_tokens: 0,
        };
        Answer {
            generation: Some(generation),
            writer,
            ready: VecDeque::new(),
            clock,
        }
    }

    /// Tokens of the prompt.
    pub fn n_prompt(&self) -> u32 {
        self.clock.n_prompt
    }

    /// The next event; `None` after `Done` or `Failed`. Nothing is lost when the future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<AnswerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.generation.as_mut()?.next().await {
                Some(event) => self.apply(event),
                None => self.end(AnswerEvent::Failed(AnswerError::EndedEarly)),
            }
        }
    }

    fn apply(&mut self, event: GenerateEvent) {
        match event {
            GenerateEvent::Queued { .. } => self.clock.started = Instant::now(),
            GenerateEvent::Progress { done, total } => {
                self.ready.push_back(AnswerEvent::Progress { done, total });
            }
            GenerateEvent::Token { id, logprobs, .. } => self.write(id, logprobs),
            GenerateEvent::Finished(finished) => {
                let tail = self.writer.finish();
                self.ready.extend(tail.map(AnswerEvent::Delta));
                self.end(AnswerEvent::Done(done(&finished)));
            }
            GenerateEvent::Failed(error) => self.end(AnswerEvent::Failed(error.into())),
        }
    }

    fn write(&mut self, id: u32, logprobs: Option<Logprobs>) {
        self.clock.count_token();
        match self.writer.push(id, logprobs) {
            Written::Nothing => {}
            Written::Text(delta) => self.ready.push_back(AnswerEvent::Delta(delta)),
            Written::Stopped(delta, index) => {
                self.ready.extend(delta.map(AnswerEvent::Delta));
                let timings = self.clock.timings();
                self.end(AnswerEvent::Done(Done {
                    finish: Finish::StopString(index),
                    timings,
                }));
            }
        }
    }

    /// Drops the generation, which tells the engine to stop where it has not.
    fn end(&mut self, event: AnswerEvent) {
        self.generation = None;
        self.ready.push_back(event);
    }
}

impl Clock {
    fn count_token(&mut self) {
        self.n_tokens += 1;
        self.first_token.get_or_insert_with(Instant::now);
    }

    fn timings(&self) -> Timings {
        let first = self.first_token.unwrap_or(self.started);
        Timings {
            prompt_tokens: self.n_prompt,
            prompt_ms: first.duration_since(self.started).as_secs_f64() * 1e3,
            predicted_tokens: self.n_tokens,
            predicted_ms: first.elapsed().as_secs_f64() * 1e3,
        }
    }
}

fn done(finished: &Finished) -> Done {
    let finish = match finished.reason {
        FinishReason::Stop => Finish::Stop,
        FinishReason::Length => Finish::Length,
    };
    let timings = Timings {
        prompt_tokens: finished.n_prompt,
        prompt_ms: finished.prompt_ms,
        predicted_tokens: finished.n_generated,
        predicted_ms: finished.generate_ms,
    };
    Done { finish, timings }
}
