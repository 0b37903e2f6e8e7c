//! The tools of a request: which there are, and whether the model may call them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value as Json;

use super::error::ApiError;
use super::field::RawJson;

/// What a request says about calling tools.
pub(super) enum ToolChoice {
    Word(String),
    /// An object, which names the one function to call.
    Function,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ToolChoiceVisitor)
    }
}

struct ToolChoiceVisitor;

impl<'de> Visitor<'de> for ToolChoiceVisitor {
    type Value = ToolChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object")
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<ToolChoice, E> {
        Ok(ToolChoice::Word(word.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<ToolChoice, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(ToolChoice::Function)
    }
}

/// The tools that the model is told of: none if it must not call any.
pub(super) fn offered(
    tools: Option<RawJson>,
    choice: Option<&ToolChoice>,
) -> Result<Vec<Json>, ApiError> {
    let may_call = may_call(choice)?;
    let Some(tools) = tools else {
        return Ok(Vec::new());
    };
    let Json::Array(tools) = tools.read("tools")? else {
        return Err(ApiError::invalid("`tools` is not a list"));
    };
    for (index, tool) in tools.iter().enumerate() {
        check(index, tool)?;
    }
    Ok(if may_call { tools } else { Vec::new() })
}

fn may_call(choice: Option<&ToolChoice>) -> Result<bool, ApiError> {
    let needs_constraint = |what: &str| {
        ApiError::invalid(format!(
            "`tool_choice` {what}, which is not supported yet: an answer cannot be forced into a call; use 'auto' or 'none'"
        ))
    };
    match choice {
        None => Ok(true),
        Some(ToolChoice::Function) => Err(needs_constraint("names a function")),
        Some(ToolChoice::Word(word)) => match word.as_str() {
            "auto" => Ok(true),
            "none" => Ok(false),
            "required" => Err(needs_constraint("is 'required'")),
            word => Err(ApiError::invalid(format!(
                "`tool_choice` is '{word}'; it must be 'auto' or 'none'"
            ))),
        },
    }
}

fn check(index: usize, tool: &Json) -> Result<(), ApiError> {
    let refuse =
        |path: &str, what: &str| ApiError::invalid(format!("`tools[{index}]{path}` {what}"));
    if !tool.is_object() {
        return Err(refuse("", "is not an object"));
    }
    if tool["type"] != "function" {
        return Err(refuse(
            ".type",
            "is not 'function', the one kind of tool that is supported",
        ));
    }
    let function = &tool["function"];
    if function["name"].as_str().is_none_or(str::is_empty) {
        return Err(refuse(".function.name", "is missing"));
    }
    match &function["parameters"] {
        Json::Null | Json::Object(_) => Ok(()),
        _ => Err(refuse(".function.parameters", "is not an object")),
    }
}
