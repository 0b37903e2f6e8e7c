//! Several answers to one question, which grow at the same time.

use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};

use potluck_proto::random::{GOLDEN, mix};

use super::{Answer, AnswerEvent, Timings};
use crate::text::{Reading, ReplyParser};

/// The events of all answers as they come, each with the index of its answer. Dropping it cancels all.
pub struct Choices {
    n: u32,
    n_prompt: u32,
    n_predicted: u32,
    parser: ReplyParser,
    events: SelectAll<BoxStream<'static, (u32, AnswerEvent)>>,
}

impl Choices {
    pub(super) fn new(answers: Vec<Answer>, n_prompt: u32, reading: Reading) -> Choices {
        Choices {
            parser: ReplyParser::new(reading),
            n: answers.len() as u32,
            n_prompt,
            n_predicted: 0,
            events: (0..)
                .zip(answers)
                .map(|(i, answer)| numbered(i, answer))
                .collect(),
        }
    }

    /// How many answers there are.
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Reads an answer's text: thoughts and calls are in it as the model writes them. Each answer takes one of its own.
    pub fn parser(&self) -> ReplyParser {
        self.parser.clone()
    }

    /// The accounts of all answers in one, each prompt counted once.
    pub fn timings(&self, all: &[Timings]) -> Timings {
        Timings {
            prompt_tokens: self.n_prompt,
            ..Timings::together(all)
        }
    }

    /// Tokens of the prompts, each counted once.
    pub fn n_prompt(&self) -> u32 {
        self.n_prompt
    }

    /// Tokens of all answers, as far as their text has come.
    pub fn n_predicted(&self) -> u32 {
        self.n_predicted
    }

    /// The next event and whose it is; `None` after the end of the last answer. Nothing is lost when the future is dropped before
    /// it is ready.
    pub async fn next(&mut self) -> Option<(u32, AnswerEvent)> {
        let event = self.events.next().await;
        if let Some((_, AnswerEvent::Delta(delta))) = &event {
            self.n_predicted += delta.tokens.len() as u32;
        }
        event
    }
}

fn numbered(index: u32, answer: Answer) -> BoxStream<'static, (u32, AnswerEvent)> {
    stream::unfold(answer, move |mut answer| async move {
        let event = answer.next().await?;
        Some(((index, event), answer))
    })
    .boxed()
}

/// The seed of answer `index`. The first is the request's own: it is the answer that a request for a single one gets.
pub(super) fn seed_of(seed: u64, index: u32) -> u64 {
    match index {
        0 => seed,
        _ => mix(seed.wrapping_add(u64::from(index).wrapping_mul(GOLDEN))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_answer_has_a_seed_of_its_own() {
        assert_eq!(seed_of(42, 0), 42);
        let seeds: BTreeSet<_> = (0..100)
            .flat_map(|seed| (0..16).map(move |index| seed_of(seed, index)))
            .collect();
        assert_eq!(seeds.len(), 1600);
    }
}
