//! The shape of a message: its blocks, and why it ended.

use serde::Serialize;
use serde::ser::{Error, Serializer};
use serde_json::value::RawValue;

use super::chat_parts::call_id;
use super::reply_whole::WholeAnswer;
use crate::answer::{Finish, Timings, random_u64};
use crate::text::{CallIds, ReplyParser, ReplyPiece};

/// What all parts of one reply have in common.
pub(super) struct MessageHead {
    pub id: String,
    pub model: String,
    /// The request's stop strings.
    pub stops: Vec<String>,
    /// Tokens of the prompt.
    pub n_prompt: u32,
}

/// A whole message, or one that begins.
#[derive(Serialize)]
pub(super) struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block>,
    #[serde(flatten)]
    ending: Ending<'a>,
    usage: Usage,
}

/// A part of a message.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block {
    Thinking {
        thinking: String,
        /// Anthropic's proof that the thought is its own; ours are not signed.
        signature: &'static str,
    },
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        /// A JSON object.
        #[serde(serialize_with = "as_json")]
        input: String,
    },
}

/// Why a message ended; nothing while it goes on.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Ending<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Usage {
    input_tokens: u32,
    output_tokens: u32,
}

impl MessageHead {
    pub(super) fn random_id() -> String {
        format!("msg_{:016x}{:016x}", random_u64(), random_u64())
    }

    /// A message of which nothing has been said.
    pub(super) fn opening(&self) -> Message<'_> {
        let usage = Usage {
            input_tokens: self.n_prompt,
            output_tokens: 0,
        };
        self.message(Vec::new(), Ending::default(), usage)
    }

    /// The message of an answer that is here as a whole.
    pub(super) fn whole(
        &self,
        answer: &WholeAnswer,
        mut parser: ReplyParser,
        timings: &Timings,
    ) -> Message<'_> {
        let mut pieces = parser.push(&answer.text);
        pieces.extend(parser.finish());
        let content = blocks(pieces, parser.call_ids());
        let calls = content.iter().any(Block::is_call);
        let ending = answer.finish.map(|finish| self.ending(finish, calls));
        self.message(content, ending.unwrap_or_default(), timings.into())
    }

    /// Why a message ended, which has calls or none. Calls want to be answered, whatever came after them.
    pub(super) fn ending(&self, finish: Finish, calls: bool) -> Ending<'_> {
        let (stop_reason, stop_sequence) = match finish {
            Finish::Length => ("max_tokens", None),
            Finish::Stop | Finish::StopString(_) if calls => ("tool_use", None),
            Finish::Stop => ("end_turn", None),
            Finish::StopString(index) => ("stop_sequence", self.stops.get(index)),
        };
        Ending {
            stop_reason: Some(stop_reason),
            stop_sequence: stop_sequence.map(String::as_str),
        }
    }

    fn message<'a>(&'a self, content: Vec<Block>, ending: Ending<'a>, usage: Usage) -> Message<'a> {
        Message {
            id: &self.id,
            kind: "message",
            role: "assistant",
            model: &self.model,
            content,
            ending,
            usage,
        }
    }
}

impl Block {
    pub(super) fn of(piece: ReplyPiece, ids: CallIds) -> Block {
        match piece {
            ReplyPiece::Thought(thinking) => Block::Thinking {
                thinking,
                signature: "",
            },
            ReplyPiece::Text(text) => Block::Text { text },
            ReplyPiece::Call(call) => Block::ToolUse {
                id: call_id("toolu_", ids),
                name: call.name,
                input: call.arguments,
            },
        }
    }

    pub(super) fn is_call(&self) -> bool {
        matches!(self, Block::ToolUse { .. })
    }
}

/// Pieces of the same kind that follow one another are one block.
fn blocks(pieces: Vec<ReplyPiece>, ids: CallIds) -> Vec<Block> {
    let mut blocks = Vec::new();
    for piece in pieces {
        match (blocks.last_mut(), piece) {
            (Some(Block::Text { text }), ReplyPiece::Text(more)) => text.push_str(&more),
            (Some(Block::Thinking { thinking, .. }), ReplyPiece::Thought(more)) => {
                thinking.push_str(&more);
            }
            (_, piece) => blocks.push(Block::of(piece, ids)),
        }
    }
    blocks
}

impl From<&Timings> for Usage {
    fn from(timings: &Timings) -> Usage {
        Usage {
            input_tokens: timings.prompt_tokens,
            output_tokens: timings.predicted_tokens,
        }
    }
}

fn as_json<S: Serializer>(json: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let json: &RawValue = serde_json::from_str(json).map_err(S::Error::custom)?;
    json.serialize(serializer)
}
