//! From a question to the tokens of its prompt. Long inputs take long: callers keep this off the async threads.

use std::time::SystemTime;

use super::{AnswerError, Input, ServedModel};
use crate::text::{AddBos, RenderOptions, Special};

/// The tokens of a prompt. Control tokens that a user spells out stay text, in a chat and in plain text alike.
pub(super) fn tokens(model: &ServedModel, input: &Input) -> Result<Vec<u32>, AnswerError> {
    match input {
        Input::Raw(text) => Ok(model
            .tokenizer
            .encode(text, Special::Text, AddBos::ModelRule)?),
        Input::Chat(messages) => {
            let no_template = || AnswerError::NoChatTemplate {
                model: model.name.clone(),
            };
            let template = model.template.as_ref().ok_or_else(no_template)?;
            let rendered = template.render(messages, &RenderOptions::new(SystemTime::now()))?;
            Ok(model.tokenizer.encode_chat(&rendered)?)
        }
    }
}
