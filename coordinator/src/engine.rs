//! The engine: turns requests of token ids into steps for the ring, and what comes back into answers.
//!
//! Owns every sequence from its prompt to its last token: the token log, which positions the ring holds, whose turn it
//! is. Token ids in, token ids out: it must not know text, HTTP, sockets or models, and never touches a tensor.
//!
//! Read `request.rs` and `ring.rs` (the two edges), `sequence.rs`, `scheduler.rs`, `core.rs` (pure: no clock, no tokio,
//! no logging), then `task.rs` (the one async task that owns the core). `simulation.rs` runs the core against a ring
//! that delays, loses and breaks things.

mod core;
mod error;
mod flight;
mod handle;
mod request;
mod ring;
mod scheduler;
mod sequence;
#[cfg(test)]
mod simulation;
mod task;

pub use error::GenerateError;
pub use handle::{EngineHandle, EngineStatus, Generation};
pub use request::{FinishReason, Finished, GenerateEvent, GenerateRequest};
pub use ring::{FaultKind, RingEvent, RingLimits, RunFault};
pub use scheduler::PREFILL_CHUNK;
pub use task::spawn;

pub use self::core::MAX_WAITING;
