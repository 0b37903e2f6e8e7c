//! The HTTP API over real sockets and the real engine. The ring behind it is a stand-in that says what the last message asks
//! it to say (`ring.rs`), and the tokenizer is a small real one (`model.rs`), so every answer is known.

mod client;
mod model;
mod ring;
mod server;

mod answers;
mod begun;
mod cancellation;
mod choices;
mod cluster;
mod completions;
mod failures;
mod keys;
mod logprobs;
mod logs;
mod messages;
mod messages_errors;
mod metrics;
mod opened;
mod origins;
mod props;
mod reasoning;
mod refusals;
mod sampling;
mod slowness;
mod text_level;
mod tls;
mod tokens;
mod tools;
