//! What the engine hears from the ring: it is up with these limits, it is down, a step came back, a run failed.
//!
//! The edge that feeds these events keeps three promises. Results come in the order of their steps, and every step
//! comes back, also one without runs; where that cannot be kept, the ring is `Down`. Nothing of an older plan follows
//! an `Up`. Nothing is read from a step that was sent before the last `Down` (see [`super::spawn`]).

use std::fmt;

use potluck_proto::{SeqId, StepId, StepResult, limits};

/// News from the ring.
#[derive(Debug, Clone, PartialEq)]
pub enum RingEvent {
    /// A plan is in force: every stage is loaded and holds no sequence. Steps are numbered from 0 again.
    Up(RingLimits),
    /// The ring cannot compute. What it held is lost.
    Down {
        /// Reason, as part of a sentence for users.
        why: String,
    },
    /// A step came back.
    Result(StepResult),
    /// A run of a step was not computed.
    Fault(RunFault),
}

/// What the ring can take under the plan in force. Every value is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLimits {
    /// Stages that a step passes.
    pub n_stages: u32,
    /// Positions that a sequence may have, prompt and answer together.
    pub context_tokens: u32,
    /// Sequences that the workers hold at once.
    pub max_sequences: u32,
    /// Tokens in one step over all its runs.
    pub max_step_tokens: u32,
    /// Token ids are below this.
    pub n_vocab: u32,
    /// The oldest protocol among the workers: each passes on, or does, only what it knows.
    pub protocol: u32,
}

impl RingLimits {
    /// The same limits, none of them 0 and none above what the protocol allows.
    pub(super) fn within_protocol(self) -> RingLimits {
        RingLimits {
            n_stages: self.n_stages.clamp(1, limits::MAX_STAGES as u32),
            context_tokens: self.context_tokens.clamp(1, limits::MAX_POSITIONS),
            max_sequences: self.max_sequences.max(1),
            max_step_tokens: self
                .max_step_tokens
                .clamp(1, limits::MAX_STEP_TOKENS as u32),
            n_vocab: self.n_vocab.max(1),
            protocol: self.protocol.max(1),
        }
    }

    /// Steps that may be under way: one in each stage, and one on its way to the first, so that the first stage
    /// need not wait for the coordinator.
    pub(super) fn max_in_flight(&self) -> usize {
        self.n_stages as usize + 1
    }
}

/// A run that a worker could not compute. The rest of its step went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFault {
    /// The sequence.
    pub seq: SeqId,
    /// The step whose run it was.
    pub step: StepId,
    /// What is wrong.
    pub kind: FaultKind,
    /// Positions that the worker holds for the sequence.
    pub kv_len: u32,
    /// The worker's words.
    pub message: String,
}

/// What is wrong with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The run begins beyond what the worker holds.
    Gap,
    /// No room left in the KV cache.
    KvFull,
    /// Hidden states or logits are not finite.
    NotFinite,
    /// The run breaks a rule of the protocol.
    Invalid,
    /// The worker did not say.
    Unspecified,
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Gap => "a worker lost a part of this conversation",
            FaultKind::KvFull => "a worker has no memory left for this conversation",
            FaultKind::NotFinite => {
                "the model computed values that are not numbers; its file may be damaged"
            }
            FaultKind::Invalid => {
                "a worker refused a step; are all machines on the same version of potluck?"
            }
            FaultKind::Unspecified => "a worker did not compute its part of the answer",
        })
    }
}
