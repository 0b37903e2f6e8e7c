//! Every limit of the protocol, with its unit and its reason.

/// Bytes of payload in one frame: a heartbeat on the same link never waits for more than this.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Bytes of one gRPC message: a frame and its header, or a manifest of a model with thousands of tensors.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Tokens in one step over all its runs.
pub const MAX_STEP_TOKENS: usize = 2048;

/// Runs (sequences) in one step.
pub const MAX_STEP_RUNS: usize = 256;

/// Sequences that one step may release.
pub const MAX_STEP_RELEASES: usize = 1024;

/// Stages in a ring.
pub const MAX_STAGES: usize = 64;

/// Parts of one step: `MAX_STEP_TOKENS` rows of 65 536 f32 in frames of 1 MiB.
pub const MAX_PARTS: u32 = 512;

/// Positions of one sequence.
pub const MAX_POSITIONS: u32 = 1 << 24;

/// Tensors in a manifest.
pub const MAX_TENSORS: usize = 65_536;

/// Nodes that one load is told to take weights from: all of a large home.
pub const MAX_SOURCES: usize = 256;

/// Dimensions of a tensor.
pub const MAX_DIMS: usize = 4;

/// Tokens that the penalties may look back over: counting them takes about a millisecond.
pub const MAX_PENALTY_WINDOW: u32 = 1 << 16;

/// Tokens that the penalties of a worker of protocol 2 may look back over.
pub const MAX_PENALTY_WINDOW_2: u32 = 4096;

/// Tokens of one sequence whose logits are changed. They travel with each of its tokens, 8 bytes an entry.
pub const MAX_LOGIT_BIASES: usize = 2048;

/// The farthest that a logit is moved: beyond any that models give, and no sum with it overflows.
pub const MAX_LOGIT_BIAS: f32 = 10_000.0;

/// The most likely tokens that are told with each token: OpenAI's limit.
pub const MAX_TOP_LOGPROBS: u32 = 20;

const _: () = assert!(MAX_FRAME_BYTES * 2 < MAX_MESSAGE_BYTES);
const _: () = assert!(MAX_STEP_RUNS * MAX_LOGIT_BIASES * 8 + MAX_FRAME_BYTES < MAX_MESSAGE_BYTES);
