//! What a request for a message means. [`MessagesRequest::parse`] and [`CountRequest::parse`] are the doors: a body of any bytes
//! gives a question whose every value is within its range, or an error that names the field and the value. Fields that are not
//! known, `metadata` and `cache_control` among them, are ignored.

use serde_json::{Map, Value as Json};

use super::chat_request::{check_stops, ranged};
use super::chat_sampling::basic_sampling;
use super::error::ApiError;
use super::field::Asked;
use super::messages_body::Body;
use super::{body, messages_tools, messages_turns};
use crate::answer::{AnswerRequest, Chat, Input};
use crate::text::Thoughts;

/// A checked request.
pub(super) struct MessagesRequest {
    /// `None` takes whatever is served.
    pub model: Option<String>,
    pub stream: bool,
    pub question: AnswerRequest,
}

/// A checked request to count the tokens of a prompt.
pub(super) struct CountRequest {
    /// `None` takes whatever is served.
    pub model: Option<String>,
    pub chat: Chat,
}

impl MessagesRequest {
    pub(super) fn parse(body: &[u8]) -> Result<MessagesRequest, ApiError> {
        let mut body: Body = body::parse(body)?;
        body.refuse_what_is_not_offered()?;
        let question = AnswerRequest {
            max_tokens: Some(body.max_tokens()?),
            // What is left open is as in a chat completion.
            sampling: basic_sampling(body.temperature, body.top_p, body.top_k)?,
            biases: Vec::new(),
            ignore_end: false,
            seed: None,
            input: Input::Chat(body.take_chat()?),
            stop: body.take_stops()?,
        };
        Ok(MessagesRequest {
            model: body.model,
            stream: body.stream == Some(true),
            question,
        })
    }
}

impl CountRequest {
    pub(super) fn parse(body: &[u8]) -> Result<CountRequest, ApiError> {
        let mut body: Body = body::parse(body)?;
        Ok(CountRequest {
            chat: body.take_chat()?,
            model: body.model,
        })
    }
}

impl Body {
    /// An answer that silently lacks it would be worse.
    fn refuse_what_is_not_offered(&self) -> Result<(), ApiError> {
        let format = self.output_config.as_ref().map(|config| config.format);
        let asked = [
            ("output_config.format", format.unwrap_or_default()),
            ("output_format", self.output_format),
            ("mcp_servers", self.mcp_servers),
            ("container", self.container),
        ];
        match asked.iter().find(|(_, asked)| *asked == Asked::Yes) {
            Some((field, _)) => Err(ApiError::invalid(format!(
                "`{field}` is not supported; leave it out"
            ))),
            None => Ok(()),
        }
    }

    fn max_tokens(&self) -> Result<u32, ApiError> {
        let max_tokens = ranged("max_tokens", self.max_tokens, &(1..=i64::from(i32::MAX)))?;
        let max_tokens = max_tokens.and_then(|tokens| u32::try_from(tokens).ok());
        max_tokens.ok_or_else(|| {
            ApiError::invalid("`max_tokens` is missing; it must say how long the answer may become")
        })
    }

    fn take_stops(&mut self) -> Result<Vec<String>, ApiError> {
        let stops = self.stop_sequences.take();
        let stops = stops.map_or_else(Vec::new, |stops| stops.0);
        check_stops("stop_sequences", &stops)?;
        Ok(stops)
    }

    /// Takes the chat out of the body.
    fn take_chat(&mut self) -> Result<Chat, ApiError> {
        let choice = self.tool_choice.as_ref();
        Ok(Chat {
            calls: messages_tools::calls(choice),
            tools: messages_tools::offered(self.tools.take(), choice)?,
            arguments: self.arguments()?,
            thoughts: Thoughts::Apart,
            add_generation_prompt: true,
            messages: messages_turns::messages(
                self.system.take(),
                std::mem::take(&mut self.messages.0),
            )?,
        })
    }

    /// The template's variables. How much a model thinks is not counted in tokens here, so that only on and off are told.
    fn arguments(&self) -> Result<Map<String, Json>, ApiError> {
        let thinks = match self
            .thinking
            .as_ref()
            .map(|thinking| thinking.kind.as_str())
        {
            None | Some("adaptive") => return Ok(Map::new()),
            Some("enabled") => true,
            Some("disabled") => false,
            Some(other) => {
                return Err(ApiError::invalid(format!(
                    "`thinking.type` is '{other}'; it must be 'enabled', 'adaptive' or 'disabled'"
                )));
            }
        };
        Ok(Map::from_iter([(
            "enable_thinking".to_owned(),
            thinks.into(),
        )]))
    }
}
