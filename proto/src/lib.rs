//! The words that machines exchange: generated messages, typed ids, steps, limits, and the one place where
//! the wire form is turned into what the program means.
//!
//! How connections come about is the business of `link`, who connects to whom that of `worker` and `coordinator`; models are
//! unknown here. Read `id.rs`, then `step.rs` and `sampling.rs`; `frame.rs` cuts long steps into frames and puts them together
//! again.
#![forbid(unsafe_code)]

pub mod advert;
mod frame;
mod id;
mod kv;
pub mod limits;
mod manifest;
mod pairs;
pub mod random;
mod sampling;
mod step;

/// Messages and services generated from `proto/potluck/v1/node.proto`.
#[allow(clippy::all, missing_docs)]
pub mod wire {
    tonic::include_proto!("potluck.v1");
}

pub use frame::{Arrived, FrameAssembler, frames};
pub use id::{
    ClusterId, Epoch, Fence, InstanceId, NodeId, PlanGen, SeqId, StepId, bytes_of, hex_of,
};
pub use kv::{KvCacheType, UnknownKvCacheType};
pub use manifest::{ContentHash, Manifest, ManifestTensor, MetadataValue};
pub use sampling::{LogitBias, Logprobs, Sampling, TokenLogprob};
pub use step::{Run, RunResult, Step, StepResult};

/// Version of the protocol that this build speaks. A peer that differs by more than one is refused.
pub const PROTOCOL: u32 = 3;

/// Something on the wire that breaks the rules of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A required part of a message is absent.
    #[error("message without its `{0}`")]
    Missing(&'static str),
    /// A byte string has another length than its meaning needs.
    #[error("`{field}` has {got} bytes, {want} expected")]
    Length {
        /// Name of the field.
        field: &'static str,
        /// Length on the wire.
        got: usize,
        /// Length that its meaning needs.
        want: usize,
    },
    /// A count or a value is above its limit.
    #[error("`{field}` is {got}, the limit is {limit}")]
    TooLarge {
        /// Name of the field.
        field: &'static str,
        /// Value on the wire.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// A value makes no sense.
    #[error("`{field}` is not valid: {why}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Parts of steps arrived in an order that cannot be.
    #[error("part {got} of step {step} arrived where part {want} was expected")]
    OutOfOrder {
        /// The step.
        step: u64,
        /// Number of the part that arrived.
        got: u32,
        /// Number of the part that was due.
        want: u32,
    },
}
