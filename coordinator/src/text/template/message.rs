//! Messages as a request brings them, and as a template wants them.
//!
//! Templates see content as one text and the arguments of tool calls as a mapping, unless `probe` found that this template
//! was written for something else.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::TemplateError;

/// One message of a chat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    #[serde(default)]
    pub content: Option<Content>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What a reasoning model thought before its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

impl Message {
    pub fn new(role: &str, text: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: Some(Content::Text(text.to_owned())),
            ..Message::default()
        }
    }
}

/// The content of a message: text, or a list of parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// One part of a message; `kind` is `text`, or something that is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A call of a tool by the assistant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub function: FunctionCall,
}

/// The function that a tool call names. `arguments` is JSON in a string, or the JSON object itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    pub name: String,
    #[serde(default)]
    pub arguments: Json,
}

/// What a template expects where templates differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Expectations {
    pub content: ContentForm,
    pub no_content: NoContentForm,
    pub arguments: ArgumentsForm,
    pub no_tools: NoToolsForm,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ContentForm {
    #[default]
    Text,
    /// A list of parts.
    Parts,
}

/// How a message without content is passed: an assistant that only calls tools has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NoContentForm {
    #[default]
    Null,
    /// An empty text, for templates that take every content for a text.
    Empty,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ArgumentsForm {
    #[default]
    Mapping,
    /// JSON in a string.
    Text,
}

/// How it is said that there are no tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NoToolsForm {
    #[default]
    Null,
    /// An empty list, for templates that go through the tools without asking whether there are any.
    Empty,
}

impl NoToolsForm {
    pub(super) fn json(self) -> Json {
        match self {
            NoToolsForm::Null => Json::Null,
            NoToolsForm::Empty => json!([]),
        }
    }
}

/// The messages as a template of this kind wants them.
pub(super) fn to_json(
    messages: &[Message],
    expects: Expectations,
) -> Result<Vec<Json>, TemplateError> {
    messages
        .iter()
        .enumerate()
        .map(|(index, message)| message_json(index, message, expects))
        .collect()
}

fn message_json(
    index: usize,
    message: &Message,
    expects: Expectations,
) -> Result<Json, TemplateError> {
    let mut map = Map::new();
    map.insert("role".into(), json!(message.role));
    map.insert(
        "content".into(),
        content_json(index, message.content.as_ref(), expects)?,
    );
    let optional = [
        ("name", &message.name),
        ("reasoning_content", &message.reasoning_content),
        ("tool_call_id", &message.tool_call_id),
    ];
    for (key, value) in optional {
        if let Some(text) = value {
            map.insert(key.into(), json!(text));
        }
    }
    if let Some(calls) = message
        .tool_calls
        .as_ref()
        .filter(|calls| !calls.is_empty())
    {
        let calls = calls.iter().enumerate();
        let calls = calls
            .map(|(at, call)| call_json((index, at), call, expects.arguments))
            .collect::<Result<_, _>>()?;
        map.insert("tool_calls".into(), Json::Array(calls));
    }
    Ok(Json::Object(map))
}

fn content_json(
    index: usize,
    content: Option<&Content>,
    expects: Expectations,
) -> Result<Json, TemplateError> {
    let text = match content {
        None if expects.no_content == NoContentForm::Null => return Ok(Json::Null),
        None => return Ok(json!("")),
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => join(index, parts)?,
    };
    Ok(match expects.content {
        ContentForm::Text => Json::String(text),
        ContentForm::Parts => json!([{"type": "text", "text": text}]),
    })
}

pub(super) fn join(index: usize, parts: &[Part]) -> Result<String, TemplateError> {
    let mut text = String::new();
    for part in parts {
        if part.kind != "text" {
            return Err(TemplateError::UnsupportedPart {
                message: index,
                kind: part.kind.clone(),
            });
        }
        text.push_str(part.text.as_deref().unwrap_or_default());
    }
    Ok(text)
}

fn call_json(
    at: (usize, usize),
    call: &ToolCall,
    form: ArgumentsForm,
) -> Result<Json, TemplateError> {
    let arguments = parse_arguments(at, &call.function.arguments)?;
    let arguments = match form {
        ArgumentsForm::Mapping => Json::Object(arguments),
        ArgumentsForm::Text => Json::String(Json::Object(arguments).to_string()),
    };
    let mut map = Map::new();
    if let Some(id) = &call.id {
        map.insert("id".into(), json!(id));
    }
    map.insert("type".into(), json!("function"));
    map.insert(
        "function".into(),
        json!({"name": call.function.name, "arguments": arguments}),
    );
    Ok(Json::Object(map))
}

/// A model calls a function without parameters with an empty string or null as often as with `{}`.
fn parse_arguments(
    (message, call): (usize, usize),
    arguments: &Json,
) -> Result<Map<String, Json>, TemplateError> {
    let refuse = |reason: String| TemplateError::ToolArguments {
        message,
        call,
        reason,
    };
    match arguments {
        Json::Null => Ok(Map::new()),
        Json::Object(map) => Ok(map.clone()),
        Json::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Json::String(text) => serde_json::from_str(text).map_err(|error| refuse(error.to_string())),
        _ => Err(refuse("neither an object nor a string".to_owned())),
    }
}
