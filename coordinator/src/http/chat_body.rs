//! The body of a request for a chat or text completion as it is written: fields, their JSON types, bounded lists. What the values mean and
//! which are accepted is in `chat_request`.

use serde::Deserialize;

use super::completion_request::Prompts;
use super::field::{Asked, Bounded, RawJson, TextOr};
use super::logit_bias::LogitBias;
use super::tools::ToolChoice;
use crate::text::MAX_MESSAGES;

/// Stop strings of a request; OpenAI takes 4.
pub(super) const MAX_STOPS: usize = 16;

/// Parts of one message. Clients split a text into a handful.
pub(super) const MAX_PARTS: usize = 1024;

/// Calls of tools in one message.
pub(super) const MAX_TOOL_CALLS: usize = 128;

/// `logprobs`: chats say whether, text completions how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a boolean, or a number in a text completion")]
pub(super) enum LogprobsField {
    Wanted(bool),
    Top(i64),
}

/// The body as it is written. `null` is the same as absent.
#[derive(Deserialize)]
pub(super) struct Body {
    pub model: Option<String>,
    /// Of a chat.
    pub messages: Option<Bounded<BodyMessage, MAX_MESSAGES>>,
    /// Of a text completion, as are `suffix` and `echo`.
    pub prompt: Option<Prompts>,
    pub suffix: Option<String>,
    pub echo: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub max_tokens: Option<i64>,
    pub max_completion_tokens: Option<i64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Option<TextOr<String, MAX_STOPS>>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub repeat_last_n: Option<i64>,
    pub typical_p: Option<f64>,
    pub top_n_sigma: Option<f64>,
    pub xtc_probability: Option<f64>,
    pub xtc_threshold: Option<f64>,
    pub dynatemp_range: Option<f64>,
    pub dynatemp_exponent: Option<f64>,
    pub logit_bias: Option<LogitBias>,
    pub ignore_eos: Option<bool>,
    pub logprobs: Option<LogprobsField>,
    pub top_logprobs: Option<i64>,
    pub n: Option<i64>,
    pub best_of: Option<i64>,
    pub tools: Option<RawJson>,
    pub tool_choice: Option<ToolChoice>,
    pub parallel_tool_calls: Option<bool>,
    pub reasoning_effort: Option<String>,
    pub reasoning_format: Option<String>,
    pub chat_template_kwargs: Option<RawJson>,
    pub add_generation_prompt: Option<bool>,
    #[serde(default)]
    pub functions: Asked,
    #[serde(default)]
    pub function_call: Asked,
    #[serde(default)]
    pub response_format: Asked,
    #[serde(default)]
    pub audio: Asked,
    #[serde(default)]
    pub grammar: Asked,
    #[serde(default)]
    pub json_schema: Asked,
    #[serde(default)]
    pub chat_template: Asked,
}

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub include_usage: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct BodyMessage {
    pub role: String,
    pub content: Option<TextOr<BodyPart, MAX_PARTS>>,
    pub name: Option<String>,
    pub reasoning_content: Option<String>,
    pub tool_calls: Option<Bounded<BodyToolCall, MAX_TOOL_CALLS>>,
    pub tool_call_id: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct BodyPart {
    #[serde(rename = "type")]
    pub kind: String,
    pub text: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct BodyToolCall {
    pub id: Option<String>,
    pub function: BodyFunction,
}

#[derive(Deserialize)]
pub(super) struct BodyFunction {
    pub name: String,
    /// JSON as a string.
    pub arguments: Option<String>,
}
