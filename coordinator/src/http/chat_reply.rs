//! The shapes of an answer: the whole completion, and the chunks of a streamed one.

use serde::Serialize;

use super::chat_logprobs::ChoiceLogprobs;
use super::chat_parts::{ReplyMessage, Said, Speaker};
use super::reply_whole::WholeAnswer;
use crate::answer::{Timings, random_u64};
use crate::text::ReplyParser;
use std::time::{SystemTime, UNIX_EPOCH};

/// What all parts of one reply have in common.
#[derive(Debug, Clone)]
pub(super) struct ReplyHead {
    pub id: String,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
}

impl ReplyHead {
    /// With a random id that begins with `kind`.
    pub(super) fn new(kind: &str, model: &str) -> ReplyHead {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        ReplyHead {
            id: format!("{kind}-{:016x}{:016x}", random_u64(), random_u64()),
            created: now.map_or(0, |now| now.as_secs()),
            model: model.to_owned(),
        }
    }

    /// The first chunk of a choice, which says who speaks.
    pub(super) fn opening(&self, index: u32) -> Chunk<'_> {
        self.chunk(
            index,
            ChunkDelta {
                role: Some("assistant"),
                content: Some(()),
                said: None,
            },
            None,
            None,
        )
    }

    pub(super) fn piece<'a>(
        &'a self,
        index: u32,
        said: &'a Said,
        logprobs: Option<ChoiceLogprobs>,
    ) -> Chunk<'a> {
        self.chunk(
            index,
            ChunkDelta {
                role: None,
                content: None,
                said: Some(said),
            },
            logprobs,
            None,
        )
    }

    /// The chunk that says why a choice is complete.
    pub(super) fn closing(&self, index: u32, reason: &'static str) -> Chunk<'_> {
        self.chunk(
            index,
            ChunkDelta {
                role: None,
                content: None,
                said: None,
            },
            None,
            Some(reason),
        )
    }

    /// The chunk with the counts, which has no choices.
    pub(super) fn accounts(&self, timings: &Timings) -> Chunk<'_> {
        Chunk {
            choices: Vec::new(),
            accounts: Some(timings.into()),
            ..self.empty_chunk()
        }
    }

    /// All answers at once; each is read by a parser of its own.
    pub(super) fn whole(
        &self,
        answers: Vec<WholeAnswer>,
        parser: &ReplyParser,
        timings: &Timings,
    ) -> Completion<'_> {
        let choices = (0..).zip(answers).map(|(index, answer)| {
            let mut speaker = Speaker::new(parser.clone());
            Choice {
                index,
                message: speaker.whole(&answer.text),
                logprobs: answer.logprobs,
                finish_reason: answer.finish.map(|finish| speaker.reason(finish)),
            }
        });
        Completion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: choices.collect(),
            accounts: timings.into(),
        }
    }

    fn chunk<'a>(
        &'a self,
        index: u32,
        delta: ChunkDelta<'a>,
        logprobs: Option<ChoiceLogprobs>,
        finish_reason: Option<&'static str>,
    ) -> Chunk<'a> {
        let choice = ChunkChoice {
            index,
            delta,
            logprobs,
            finish_reason,
        };
        Chunk {
            choices: vec![choice],
            ..self.empty_chunk()
        }
    }

    fn empty_chunk(&self) -> Chunk<'_> {
        Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices: Vec::new(),
            accounts: None,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice>,
    #[serde(flatten)]
    accounts: Accounts,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: ReplyMessage,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    #[serde(flatten)]
    accounts: Option<Accounts>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: ChunkDelta<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The first chunk has a role and null for content, the last has nothing.
#[derive(Serialize)]
struct ChunkDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<()>,
    #[serde(flatten)]
    said: Option<&'a Said>,
}

/// The counts and times of a reply.
#[derive(Debug, Serialize)]
pub(super) struct Accounts {
    usage: Usage,
    timings: WireTimings,
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

impl From<&Timings> for Accounts {
    fn from(timings: &Timings) -> Accounts {
        Accounts {
            usage: timings.into(),
            timings: timings.into(),
        }
    }
}

impl From<&Timings> for Usage {
    fn from(timings: &Timings) -> Usage {
        Usage {
            prompt_tokens: timings.prompt_tokens,
            completion_tokens: timings.predicted_tokens,
            total_tokens: timings
                .prompt_tokens
                .saturating_add(timings.predicted_tokens),
        }
    }
}

/// Timings under llama.cpp's names.
#[derive(Debug, Serialize)]
struct WireTimings {
    /// Tokens of the prompt that did not have to be computed.
    cache_n: u32,
    prompt_n: u32,
    prompt_ms: f64,
    prompt_per_second: f64,
    predicted_n: u32,
    predicted_ms: f64,
    predicted_per_second: f64,
}

impl From<&Timings> for WireTimings {
    fn from(timings: &Timings) -> WireTimings {
        WireTimings {
            cache_n: 0,
            prompt_n: timings.prompt_tokens,
            prompt_ms: timings.prompt_ms,
            prompt_per_second: timings.prompt_per_second(),
            predicted_n: timings.predicted_tokens,
            predicted_ms: timings.predicted_ms,
            predicted_per_second: timings.predicted_per_second(),
        }
    }
}
