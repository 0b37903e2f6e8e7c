//! What a client asks of the engine, and what it is told while the answer grows.

use std::sync::Arc;

use potluck_proto::{Logprobs, Sampling};

use super::GenerateError;

/// A prompt to be continued.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// The answer ends after this many tokens, or earlier where the context is full.
    pub max_tokens: u32,
    /// How tokens are drawn. `index` is ignored: the engine counts.
    pub sampling: Sampling,
    /// Ids that end the answer. They are not part of it.
    pub end_tokens: Arc<[u32]>,
}

/// What happens to a request, in this order: `Queued` any number of times, `Progress`, `Token`, and at the end exactly
/// one of `Finished` and `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// The request waits for a free place in the ring.
    Queued {
        /// Requests that are served before it; 0 is next.
        position: u32,
    },
    /// A part of the prompt has been computed.
    Progress {
        /// Prompt tokens computed so far.
        done: u32,
        /// Prompt tokens in all.
        total: u32,
    },
    /// The answer has grown by one token.
    Token {
        /// Token id.
        id: u32,
        /// Index within the answer, from 0 without a gap.
        index: u32,
        /// Where `sampling` asks for them.
        logprobs: Option<Logprobs>,
    },
    /// The answer is complete.
    Finished(Finished),
    /// There will be no more of the answer.
    Failed(GenerateError),
}

impl GenerateEvent {
    /// Whether no event follows this one.
    pub fn is_last(&self) -> bool {
        matches!(self, GenerateEvent::Finished(_) | GenerateEvent::Failed(_))
    }
}

/// How an answer ended, with its counts and times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub n_prompt: u32,
    /// Tokens of the answer, without the end token.
    pub n_generated: u32,
    /// Milliseconds from the place in the ring to the first token.
    pub prompt_ms: f64,
    /// Milliseconds from the first token to the last.
    pub generate_ms: f64,
}

/// Why a complete answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
}
