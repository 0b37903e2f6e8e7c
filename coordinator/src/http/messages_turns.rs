//! From Anthropic's turns, which are lists of blocks, to messages as templates know them: a turn with results of tools becomes
//! several, and the system prompt is the first.

use super::chat_body::{BodyPart, MAX_PARTS};
use super::chat_layout::check_end;
use super::chat_request::text_of;
use super::error::ApiError;
use super::field::{MAX_VALUES, TextOr, n_values};
use super::messages_body::{Block, ToolResult, ToolUse, Turn};
use crate::text::{Content, FunctionCall, Message, ToolCall};

/// What is put before a result that is an error: templates have no other place for that.
const ERROR_MARK: &str = "Error: ";

pub(super) fn messages(
    system: Option<TextOr<BodyPart, MAX_PARTS>>,
    turns: Vec<Turn>,
) -> Result<Vec<Message>, ApiError> {
    let Some(last) = turns.len().checked_sub(1) else {
        return Err(ApiError::invalid(
            "`messages` is empty; it must have at least one message",
        ));
    };
    check_inputs(&turns)?;
    let mut messages = Vec::new();
    if let Some(system) = system {
        messages.push(Message::new("system", &text_of("system", system)?));
    }
    for (index, turn) in turns.into_iter().enumerate() {
        let path = format!("messages[{index}].content");
        match turn.role.as_str() {
            "user" => messages.extend(user(&path, turn.content)?),
            "assistant" => messages.push(assistant(&path, turn.content)?),
            role => {
                return Err(ApiError::invalid(format!(
                    "`messages[{index}].role` is '{role}'; it must be user or assistant, and the system prompt is `system`"
                )));
            }
        }
    }
    check_end(&messages, last)?;
    Ok(messages)
}

/// The inputs of earlier calls are texts that become trees for the template.
fn check_inputs(turns: &[Turn]) -> Result<(), ApiError> {
    let mut n = 0;
    for (index, turn) in turns.iter().enumerate() {
        n += inputs(turn).map(n_values).sum::<usize>();
        if n > MAX_VALUES {
            return Err(ApiError::invalid(format!(
                "`messages[{index}].content` brings the inputs of all calls above {MAX_VALUES} values"
            )));
        }
    }
    Ok(())
}

fn inputs(turn: &Turn) -> impl Iterator<Item = &str> {
    let blocks = match &turn.content {
        TextOr::Text(_) => &[],
        TextOr::List(blocks) => blocks.as_slice(),
    };
    blocks.iter().filter_map(|block| match block {
        Block::ToolUse(call) => Some(call.input.text()),
        _ => None,
    })
}

/// What a user said, and what tools gave, in the order of the blocks.
fn user(path: &str, content: TextOr<Block, MAX_PARTS>) -> Result<Vec<Message>, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => return Ok(vec![Message::new("user", &text)]),
        TextOr::List(blocks) => blocks,
    };
    let said = |text: String| Message::new("user", &text);
    let mut messages = Vec::new();
    let mut text = blocks.is_empty().then(String::new);
    for (at, block) in blocks.into_iter().enumerate() {
        match block {
            Block::Text(more) => text.get_or_insert_default().push_str(&more),
            Block::ToolResult(result) => {
                messages.extend(text.take().map(said));
                messages.push(tool_result(&format!("{path}[{at}].content"), *result)?);
            }
            other => return Err(misplaced(path, at, &other, "'text' or 'tool_result'")),
        }
    }
    messages.extend(text.map(said));
    Ok(messages)
}

fn tool_result(path: &str, result: ToolResult) -> Result<Message, ApiError> {
    let content = result.content.map(|content| text_of(path, content));
    let mut text = content.transpose()?.unwrap_or_default();
    if result.is_error {
        text.insert_str(0, ERROR_MARK);
    }
    Ok(Message {
        tool_call_id: Some(result.tool_use_id),
        ..Message::new("tool", &text)
    })
}

/// An answer. Its blocks were pieces of one text.
fn assistant(path: &str, content: TextOr<Block, MAX_PARTS>) -> Result<Message, ApiError> {
    let blocks = match content {
        TextOr::Text(text) => return Ok(Message::new("assistant", &text)),
        TextOr::List(blocks) => blocks,
    };
    let (mut text, mut thoughts, mut calls) = (String::new(), None, Vec::new());
    for (at, block) in blocks.into_iter().enumerate() {
        match block {
            Block::Text(more) => text.push_str(&more),
            Block::Thinking(more) => {
                thoughts.get_or_insert_with(String::new).push_str(&more);
            }
            Block::ToolUse(call) => calls.push(tool_call(*call)),
            other => {
                let known = "'text', 'thinking' or 'tool_use'";
                return Err(misplaced(path, at, &other, known));
            }
        }
    }
    let no_text = text.is_empty() && (thoughts.is_some() || !calls.is_empty());
    Ok(Message {
        role: "assistant".to_owned(),
        content: (!no_text).then_some(Content::Text(text)),
        reasoning_content: thoughts,
        tool_calls: (!calls.is_empty()).then_some(calls),
        ..Message::default()
    })
}

fn tool_call(call: ToolUse) -> ToolCall {
    ToolCall {
        id: Some(call.id),
        function: FunctionCall {
            name: call.name,
            arguments: call.input.text().into(),
        },
    }
}

fn misplaced(path: &str, at: usize, block: &Block, known: &str) -> ApiError {
    let kind = block.kind();
    ApiError::invalid(format!(
        "`{path}[{at}].type` is '{kind}'; here it must be {known}"
    ))
}
