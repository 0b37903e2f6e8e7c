//! The body of a chat completion request: what may be in it, and what it means.
//!
//! [`ChatRequest::parse`] is the door: a body of any bytes gives a question whose every value is within its range, or an error
//! that names the field and the value. Fields that we do not know are ignored; fields that ask for what is not offered are
//! refused by name, for an answer that silently lacks it would be worse.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::body;
use super::chat_body::{
    Body, BodyMessage, BodyPart, BodyToolCall, LogprobsField, MAX_PARTS, MAX_STOPS,
};
use super::error::ApiError;
use super::field::{Asked, TextOr};
use crate::answer::{AnswerRequest, Input};
use crate::text::{Content, FunctionCall, Message, ToolCall};

/// Answers to one request. They wait for places together, so this must be well below the engine's `MAX_WAITING`.
const MAX_CHOICES: u32 = 16;

/// A checked request.
#[derive(Debug)]
pub(super) struct ChatRequest {
    /// `None` takes whatever is served.
    pub model: Option<String>,
    pub reply: Reply,
    /// How many answers are asked for.
    pub n: u32,
    pub question: AnswerRequest,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Whole,
    Stream { include_usage: bool },
}

impl ChatRequest {
    pub(super) fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        let mut body: Body = body::parse(body)?;
        body.refuse_what_is_not_offered()?;
        let (reply, n) = (body.reply(), body.n()?);
        let (model, chat) = (body.model.take(), body.take_chat()?);
        if matches!(body.logprobs, Some(LogprobsField::Top(_))) {
            return Err(ApiError::invalid(
                "`logprobs` is a number; in a chat it is true or false, and `top_logprobs` the number",
            ));
        }
        let question = body.into_question(Input::Chat(chat))?;
        Ok(ChatRequest {
            model,
            reply,
            n,
            question,
        })
    }
}

impl Body {
    /// Everything but what is to be answered.
    pub(super) fn into_question(self, input: Input) -> Result<AnswerRequest, ApiError> {
        Ok(AnswerRequest {
            input,
            max_tokens: self.max_tokens()?,
            sampling: self.sampling()?,
            seed: self.seed()?,
            biases: self.logit_bias.map_or_else(Vec::new, |bias| bias.0),
            ignore_end: self.ignore_eos == Some(true),
            stop: stops(self.stop)?,
        })
    }

    pub(super) fn refuse_what_is_not_offered(&self) -> Result<(), ApiError> {
        let asked = [
            ("functions", self.functions),
            ("function_call", self.function_call),
            ("response_format", self.response_format),
            ("audio", self.audio),
            ("grammar", self.grammar),
            ("json_schema", self.json_schema),
            ("chat_template", self.chat_template),
        ];
        if let Some((field, _)) = asked.iter().find(|(_, asked)| *asked == Asked::Yes) {
            return Err(ApiError::invalid(format!(
                "`{field}` is not supported; leave it out"
            )));
        }
        match self.best_of {
            None | Some(1) => Ok(()),
            Some(best_of) => Err(ApiError::invalid(format!(
                "`best_of` is {best_of}; every answer is returned, so it must be 1 or absent"
            ))),
        }
    }

    pub(super) fn reply(&self) -> Reply {
        let include_usage = self
            .stream_options
            .as_ref()
            .and_then(|options| options.include_usage);
        match self.stream {
            Some(true) => Reply::Stream {
                include_usage: include_usage.unwrap_or(false),
            },
            _ => Reply::Whole,
        }
    }

    pub(super) fn n(&self) -> Result<u32, ApiError> {
        let n = ranged("n", self.n, &(1..=i64::from(MAX_CHOICES)))?;
        Ok(n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1))
    }

    /// `max_completion_tokens` is the newer name and counts where both are given.
    fn max_tokens(&self) -> Result<Option<u32>, ApiError> {
        let range = 1..=i64::from(i32::MAX);
        let older = ranged("max_tokens", self.max_tokens, &range)?;
        let newer = ranged("max_completion_tokens", self.max_completion_tokens, &range)?;
        Ok(newer
            .or(older)
            .and_then(|tokens| u32::try_from(tokens).ok()))
    }

    fn seed(&self) -> Result<Option<u64>, ApiError> {
        // llama.cpp's clients say -1 for a seed of the server's choice.
        let seed = ranged("seed", self.seed, &(-1..=i64::MAX))?;
        Ok(seed.and_then(|seed| u64::try_from(seed).ok()))
    }
}

pub(super) fn ranged<T: PartialOrd + Display>(
    field: &str,
    value: Option<T>,
    range: &RangeInclusive<T>,
) -> Result<Option<T>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            let (low, high) = (range.start(), range.end());
            let message = format!("`{field}` is {value}; it must be between {low} and {high}");
            Err(ApiError::invalid(message))
        }
        value => Ok(value),
    }
}

fn stops(stop: Option<TextOr<String, MAX_STOPS>>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(TextOr::Text(stop)) => vec![stop],
        Some(TextOr::List(stops)) => stops,
    };
    check_stops("stop", &stops)?;
    Ok(stops)
}

pub(super) fn check_stops(field: &str, stops: &[String]) -> Result<(), ApiError> {
    match stops.iter().any(String::is_empty) {
        true => Err(ApiError::invalid(format!(
            "`{field}` has an empty string, which would end every answer; leave it out"
        ))),
        false => Ok(()),
    }
}

pub(super) fn messages(messages: Vec<BodyMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid(
            "`messages` is empty; it must have at least one message",
        ));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| checked(index, message))
        .collect()
}

fn checked(index: usize, message: BodyMessage) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        // The newer name for the same; templates know the older one.
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool") => role,
        role => {
            return Err(ApiError::invalid(format!(
                "`messages[{index}].role` is '{role}'; it must be system, developer, user, assistant or tool"
            )));
        }
    };
    let content = message
        .content
        .map(|content| text_of(&format!("messages[{index}].content"), content))
        .transpose()?;
    if content.is_none() && role != "assistant" {
        return Err(ApiError::invalid(format!(
            "`messages[{index}].content` is missing; it must be text"
        )));
    }
    let tool_calls = message
        .tool_calls
        .map(|calls| calls.0.into_iter().map(tool_call).collect());
    Ok(Message {
        role: role.to_owned(),
        content: content.map(Content::Text),
        name: message.name,
        reasoning_content: message.reasoning_content,
        tool_calls,
        tool_call_id: message.tool_call_id,
    })
}

/// The text of what the request has at `path`.
pub(super) fn text_of(
    path: &str,
    content: TextOr<BodyPart, MAX_PARTS>,
) -> Result<String, ApiError> {
    let parts = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::List(parts) => parts,
    };
    let mut text = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        if part.kind != "text" {
            let kind = part.kind;
            return Err(ApiError::invalid(format!(
                "`{path}[{at}].type` is '{kind}'; only 'text' is supported"
            )));
        }
        text.push_str(part.text.as_deref().unwrap_or_default());
    }
    Ok(text)
}

fn tool_call(call: BodyToolCall) -> ToolCall {
    let arguments = call
        .function
        .arguments
        .map_or(serde_json::Value::Null, serde_json::Value::String);
    ToolCall {
        id: call.id,
        function: FunctionCall {
            name: call.function.name,
            arguments,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::chat_sampling::default_sampling;

    #[test]
    fn a_request_that_asks_for_nothing_gets_the_defaults() {
        let request = ChatRequest::parse(br#"{"messages":[{"role":"user","content":"x"}]}"#);
        assert_eq!(request.unwrap().question.sampling, default_sampling());
    }
}
