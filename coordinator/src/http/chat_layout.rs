//! How the chat of a request is laid out for the template, and how its answer is to be read: messages, tools, the template's
//! arguments, thoughts.

use serde_json::{Map, Value as Json};

use super::chat_body::{Body, BodyMessage};
use super::chat_request::messages;
use super::error::ApiError;
use super::field::{MAX_VALUES, n_values};
use super::tools;
use crate::answer::Chat;
use crate::text::{Calls, Message, Thoughts};

/// OpenAI's words for how much a model should think.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

impl Body {
    /// Takes the chat out of the body.
    pub(super) fn take_chat(&mut self) -> Result<Chat, ApiError> {
        let calls = match self.parallel_tool_calls {
            Some(false) => Calls::One,
            _ => Calls::Many,
        };
        Ok(Chat {
            tools: tools::offered(self.tools.take(), self.tool_choice.as_ref())?,
            calls,
            thoughts: self.thoughts()?,
            arguments: self.take_arguments()?,
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            messages: self.take_messages()?,
        })
    }

    fn take_messages(&mut self) -> Result<Vec<Message>, ApiError> {
        let body = self.messages.take();
        let body = body
            .ok_or_else(|| ApiError::invalid("`messages` is missing"))?
            .0;
        check_arguments(&body)?;
        let messages = messages(body)?;
        check_end(&messages, messages.len() - 1)?;
        Ok(messages)
    }

    fn thoughts(&self) -> Result<Thoughts, ApiError> {
        match self.reasoning_format.as_deref() {
            None | Some("auto" | "deepseek") => Ok(Thoughts::Apart),
            Some("none") => Ok(Thoughts::InText),
            Some(other) => Err(ApiError::invalid(format!(
                "`reasoning_format` is '{other}'; it must be 'auto', 'deepseek' or 'none'"
            ))),
        }
    }

    /// What `chat_template_kwargs` says counts before what follows from other fields.
    fn take_arguments(&mut self) -> Result<Map<String, Json>, ApiError> {
        let field = "chat_template_kwargs";
        let given = self.chat_template_kwargs.take();
        let mut arguments = match given.map(|given| given.read(field)).transpose()? {
            None => Map::new(),
            Some(Json::Object(arguments)) => arguments,
            Some(_) => return Err(ApiError::invalid(format!("`{field}` is not an object"))),
        };
        let Some(effort) = self.reasoning_effort.take() else {
            return Ok(arguments);
        };
        if !EFFORTS.contains(&effort.as_str()) {
            let known = EFFORTS.join(", ");
            return Err(ApiError::invalid(format!(
                "`reasoning_effort` is '{effort}'; it must be one of {known}"
            )));
        }
        if effort == "none" {
            arguments.entry("enable_thinking").or_insert(false.into());
        }
        arguments.entry("reasoning_effort").or_insert(effort.into());
        Ok(arguments)
    }
}

/// The arguments of earlier calls are texts that become trees for the template.
fn check_arguments(messages: &[BodyMessage]) -> Result<(), ApiError> {
    let mut n = 0;
    for (index, message) in messages.iter().enumerate() {
        let calls = message.tool_calls.iter().flat_map(|calls| &calls.0);
        let arguments = calls.filter_map(|call| call.function.arguments.as_deref());
        n += arguments.map(n_values).sum::<usize>();
        if n > MAX_VALUES {
            return Err(ApiError::invalid(format!(
                "`messages[{index}].tool_calls` bring the arguments of all calls above {MAX_VALUES} values"
            )));
        }
    }
    Ok(())
}

/// One begun answer can be continued, not two. `last` is the index of the last message in the request.
pub(super) fn check_end(messages: &[Message], last: usize) -> Result<(), ApiError> {
    match messages {
        [.., before, end] if end.is_begun_answer() && before.role == "assistant" => {
            Err(ApiError::invalid(format!(
                "`messages[{last}]` is the second assistant message in a row at the end; the answer can continue one, so join them"
            )))
        }
        _ => Ok(()),
    }
}
