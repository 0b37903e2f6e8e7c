//! The tools of a request for a message: from Anthropic's definitions to those that templates know, and whether the model may
//! call them.

use serde_json::{Map, Value as Json, json};

use super::error::ApiError;
use super::field::RawJson;
use super::messages_body::ToolChoice;
use crate::text::Calls;

/// What a definition holds, and by which names a template knows it.
const FIELDS: [(&str, &str); 3] = [
    ("name", "name"),
    ("description", "description"),
    ("input_schema", "parameters"),
];

/// How many calls are wanted.
pub(super) fn calls(choice: Option<&ToolChoice>) -> Calls {
    match choice.and_then(|choice| choice.disable_parallel_tool_use) {
        Some(true) => Calls::One,
        _ => Calls::Many,
    }
}

/// The tools that the model is told of: none if it must not call any.
pub(super) fn offered(
    tools: Option<RawJson>,
    choice: Option<&ToolChoice>,
) -> Result<Vec<Json>, ApiError> {
    let may_call = may_call(choice)?;
    let tools = match tools.map(|tools| tools.read("tools")).transpose()? {
        None => Vec::new(),
        Some(Json::Array(tools)) => tools,
        Some(_) => return Err(ApiError::invalid("`tools` is not a list")),
    };
    let functions = tools
        .into_iter()
        .enumerate()
        .map(|(index, tool)| function(index, tool));
    let functions: Vec<_> = functions.collect::<Result<_, _>>()?;
    Ok(if may_call { functions } else { Vec::new() })
}

fn may_call(choice: Option<&ToolChoice>) -> Result<bool, ApiError> {
    match choice.map(|choice| choice.kind.as_str()) {
        None | Some("auto") => Ok(true),
        Some("none") => Ok(false),
        Some(kind @ ("any" | "tool")) => Err(ApiError::invalid(format!(
            "`tool_choice.type` is '{kind}', which is not supported yet: an answer cannot be forced into a call; use 'auto' or \
             'none'"
        ))),
        Some(kind) => Err(ApiError::invalid(format!(
            "`tool_choice.type` is '{kind}'; it must be 'auto' or 'none'"
        ))),
    }
}

fn function(index: usize, tool: Json) -> Result<Json, ApiError> {
    let refuse =
        |path: &str, what: &str| Err(ApiError::invalid(format!("`tools[{index}]{path}` {what}")));
    let Json::Object(mut tool) = tool else {
        return refuse("", "is not an object");
    };
    let kind = tool.remove("type").unwrap_or_default();
    if !kind.is_null() && kind != "custom" {
        return refuse(
            ".type",
            "is not 'custom', the one kind of tool that is supported: others run at Anthropic",
        );
    }
    let mut function = Map::new();
    for (theirs, ours) in FIELDS {
        let value = tool.remove(theirs).filter(|value| !value.is_null());
        function.extend(value.map(|value| (ours.to_owned(), value)));
    }
    if !matches!(function.get("name"), Some(Json::String(name)) if !name.is_empty()) {
        return refuse(".name", "is missing");
    }
    if !matches!(function.get("description"), None | Some(Json::String(_))) {
        return refuse(".description", "is not a text");
    }
    if !matches!(function.get("parameters"), None | Some(Json::Object(_))) {
        return refuse(".input_schema", "is not an object");
    }
    Ok(json!({"type": "function", "function": function}))
}
