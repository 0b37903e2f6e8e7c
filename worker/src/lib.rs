//! Runs a span of a model's layers: weights, KV cache, the architectures, sampling at the last stage, and the service
//! that offers all this to a coordinator.
//!
//! A worker never sees text: token ids and hidden states come in, hidden states or token ids go out. It knows its own
//! span and the address of the next stage, and nothing of other workers' plans.
//!
//! Read `arch/llama.rs` for the model itself, [`Stage`] for what one step does, [`node`] for the process around it.
#![forbid(unsafe_code)]

mod arch;
mod batch;
mod compute;
mod exec;
mod kv;
mod linear;
mod load;
mod memory;
pub mod node;
mod probe;
mod sampling;
mod stage;
mod weights;

pub use load::{FileSource, LoadError, TensorSource, TensorSpec, WeightStorage};
pub use memory::{MemoryUse, StageLimits};
pub use probe::Speed;
pub use stage::{Fault, RunFault, Stage, StageConfig, StepOutput};
pub use weights::{CacheError, WeightCache};
