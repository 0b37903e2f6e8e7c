//! The body of a request for a message as it is written: fields, their JSON types, bounded lists. What the values mean and which
//! are accepted is in `messages_request`.

use serde::Deserialize;

use super::chat_body::{BodyPart, MAX_PARTS, MAX_STOPS};
use super::field::{Asked, Bounded, RawJson, TextOr};
use crate::text::MAX_MESSAGES;

/// The body as it is written. `null` is the same as absent.
#[derive(Deserialize)]
pub(super) struct Body {
    pub model: Option<String>,
    pub max_tokens: Option<i64>,
    pub messages: Bounded<Turn, MAX_MESSAGES>,
    pub system: Option<TextOr<BodyPart, MAX_PARTS>>,
    pub stop_sequences: Option<Bounded<String, MAX_STOPS>>,
    pub stream: Option<bool>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub tools: Option<RawJson>,
    pub tool_choice: Option<ToolChoice>,
    pub thinking: Option<Thinking>,
    pub output_config: Option<OutputConfig>,
    #[serde(default)]
    pub output_format: Asked,
    #[serde(default)]
    pub mcp_servers: Asked,
    #[serde(default)]
    pub container: Asked,
}

/// What one side said.
#[derive(Deserialize)]
pub(super) struct Turn {
    pub role: String,
    pub content: TextOr<Block, MAX_PARTS>,
}

#[derive(Deserialize)]
pub(super) struct ToolChoice {
    #[serde(rename = "type")]
    pub kind: String,
    pub disable_parallel_tool_use: Option<bool>,
}

#[derive(Deserialize)]
pub(super) struct Thinking {
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Deserialize)]
pub(super) struct OutputConfig {
    #[serde(default)]
    pub format: Asked,
}

/// A part of what was said. Small, for a body may have hundreds of thousands.
#[derive(Deserialize)]
#[serde(try_from = "WrittenBlock")]
pub(super) enum Block {
    Text(String),
    Thinking(String),
    ToolUse(Box<ToolUse>),
    ToolResult(Box<ToolResult>),
    /// Of a type that is not known here.
    Other(String),
}

/// A call of a tool.
pub(super) struct ToolUse {
    pub id: String,
    pub name: String,
    /// A JSON object.
    pub input: RawJson,
}

/// What a tool gave.
pub(super) struct ToolResult {
    pub tool_use_id: String,
    pub content: Option<TextOr<BodyPart, MAX_PARTS>>,
    pub is_error: bool,
}

impl Block {
    /// Its type by Anthropic's name.
    pub(super) fn kind(&self) -> &str {
        match self {
            Block::Text(_) => "text",
            Block::Thinking(_) => "thinking",
            Block::ToolUse(_) => "tool_use",
            Block::ToolResult(_) => "tool_result",
            Block::Other(kind) => kind,
        }
    }
}

/// A block of any type.
#[derive(Deserialize)]
struct WrittenBlock {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<RawJson>,
    tool_use_id: Option<String>,
    content: Option<TextOr<BodyPart, MAX_PARTS>>,
    is_error: Option<bool>,
}

/// Why a block is none of its type.
#[derive(Debug, thiserror::Error)]
enum BadBlock {
    #[error("it has no `{0}`")]
    Lacks(&'static str),
    #[error("its `input` is not an object")]
    Input,
}

impl TryFrom<WrittenBlock> for Block {
    type Error = BadBlock;

    fn try_from(block: WrittenBlock) -> Result<Block, BadBlock> {
        match block.kind.as_str() {
            "text" => Ok(Block::Text(given(block.text, "text")?)),
            "thinking" => Ok(Block::Thinking(given(block.thinking, "thinking")?)),
            "tool_use" => Ok(Block::ToolUse(Box::new(ToolUse {
                id: given(block.id, "id")?,
                name: given(block.name, "name")?,
                input: object(given(block.input, "input")?)?,
            }))),
            "tool_result" => Ok(Block::ToolResult(Box::new(ToolResult {
                tool_use_id: given(block.tool_use_id, "tool_use_id")?,
                content: block.content,
                is_error: block.is_error == Some(true),
            }))),
            _ => Ok(Block::Other(block.kind)),
        }
    }
}

fn given<T>(value: Option<T>, name: &'static str) -> Result<T, BadBlock> {
    value.ok_or(BadBlock::Lacks(name))
}

fn object(json: RawJson) -> Result<RawJson, BadBlock> {
    match json.text().starts_with('{') {
        true => Ok(json),
        false => Err(BadBlock::Input),
    }
}

// A block of the shortest JSON, `{"type":""},`, takes little more room than its text.
const _: () = assert!(size_of::<Block>() <= 32);
