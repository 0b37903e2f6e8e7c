//! The parts of an answer under OpenAI's names: content, `reasoning_content` and `tool_calls`, whole and as deltas.

use serde::Serialize;

use crate::answer::{Finish, random_u64};
use crate::text::{Call, CallIds, ReplyParser, ReplyPiece};

/// Reads an answer and says what each piece of it adds to the message.
pub(super) struct Speaker {
    parser: ReplyParser,
    n_calls: u32,
}

/// What one piece adds to a streamed message, as the one field of a delta.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    Content(String),
    ReasoningContent(String),
    ToolCalls([CallDelta; 1]),
}

/// A part of a call: its head, and then its arguments.
#[derive(Debug, Serialize)]
pub(super) struct CallDelta {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Debug, Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

/// A whole message.
#[derive(Debug, Serialize)]
pub(super) struct ReplyMessage {
    role: &'static str,
    /// Null if the model only calls tools.
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WholeCall>,
}

#[derive(Debug, Serialize)]
struct WholeCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: WholeFunction,
}

#[derive(Debug, Serialize)]
struct WholeFunction {
    name: String,
    arguments: String,
}

impl Speaker {
    pub(super) fn new(parser: ReplyParser) -> Speaker {
        Speaker { parser, n_calls: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Said> {
        let pieces = self.parser.push(text);
        self.say(pieces)
    }

    /// What was held back until the end.
    pub(super) fn finish(&mut self) -> Vec<Said> {
        let pieces = self.parser.finish();
        self.say(pieces)
    }

    /// Why the answer is complete, in OpenAI's words.
    pub(super) fn reason(&self, finish: Finish) -> &'static str {
        match finish {
            Finish::Stop | Finish::StopString(_) if self.n_calls > 0 => "tool_calls",
            finish => reason(finish),
        }
    }

    /// The message of an answer that is here as a whole.
    pub(super) fn whole(&mut self, text: &str) -> ReplyMessage {
        let mut pieces = self.parser.push(text);
        pieces.extend(self.parser.finish());
        let (mut content, mut thoughts, mut tool_calls) = (String::new(), None, Vec::new());
        for piece in pieces {
            match piece {
                ReplyPiece::Text(text) => content.push_str(&text),
                ReplyPiece::Thought(text) => {
                    thoughts.get_or_insert_with(String::new).push_str(&text);
                }
                ReplyPiece::Call(call) => tool_calls.push(self.whole_call(call)),
            }
        }
        let only_calls = content.is_empty() && !tool_calls.is_empty();
        ReplyMessage {
            role: "assistant",
            content: (!only_calls).then_some(content),
            reasoning_content: thoughts,
            tool_calls,
        }
    }

    fn say(&mut self, pieces: Vec<ReplyPiece>) -> Vec<Said> {
        let mut said = Vec::new();
        for piece in pieces {
            match piece {
                ReplyPiece::Text(text) => said.push(Said::Content(text)),
                ReplyPiece::Thought(text) => said.push(Said::ReasoningContent(text)),
                ReplyPiece::Call(call) => {
                    said.extend(self.call(call).map(|delta| Said::ToolCalls([delta])));
                }
            }
        }
        said
    }

    fn call(&mut self, call: Call) -> [CallDelta; 2] {
        let index = self.n_calls;
        let WholeCall { id, kind, function } = self.whole_call(call);
        let head = CallDelta {
            index,
            id: Some(id),
            kind: Some(kind),
            function: FunctionDelta {
                name: Some(function.name),
                arguments: String::new(),
            },
        };
        let arguments = CallDelta {
            index,
            id: None,
            kind: None,
            function: FunctionDelta {
                name: None,
                arguments: function.arguments,
            },
        };
        [head, arguments]
    }

    fn whole_call(&mut self, call: Call) -> WholeCall {
        self.n_calls += 1;
        WholeCall {
            id: call_id("call_", self.parser.call_ids()),
            kind: "function",
            function: WholeFunction {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

/// Why an answer without calls is complete, in OpenAI's words.
pub(super) fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop | Finish::StopString(_) => "stop",
    }
}

/// A random id, with a prefix where the template takes any.
pub(super) fn call_id(prefix: &str, ids: CallIds) -> String {
    match ids {
        CallIds::Any => format!("{prefix}{:016x}{:08x}", random_u64(), random_u64() >> 32),
        // Nine of 32 letters and digits: 45 bits.
        CallIds::Nine => {
            let bits = random_u64();
            let letter = |at| b"abcdefghijklmnopqrstuvwxyz012345"[(bits >> (5 * at)) as usize % 32];
            (0..9).map(|at| char::from(letter(at))).collect()
        }
    }
}
