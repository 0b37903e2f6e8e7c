//! From a question to the tokens of its prompt. Long inputs take long: callers keep this off the async threads.

use std::time::SystemTime;

use serde_json::Value as Json;

use super::chat::{Chat, tool_names};
use super::{AnswerError, Input, ServedModel};
use crate::text::{
    AddBos, ChatTemplate, ControlTokens, Layout, Reading, RenderOptions, Special, Thoughts, TokenId,
};

/// What an answer continues, and how it is to be read.
pub(super) struct Prompt {
    pub tokens: Vec<u32>,
    pub reading: Reading,
}

impl Prompt {
    /// One whose answer is text and nothing else.
    fn plain(tokens: Vec<TokenId>) -> Prompt {
        Prompt {
            tokens,
            reading: Reading::default(),
        }
    }
}

/// The prompt of a question. Control tokens that a user spells out in a chat stay text.
pub(super) fn prompt(model: &ServedModel, input: Input) -> Result<Prompt, AnswerError> {
    let encoded = |text: String, special| {
        let tokenizer = &model.tokenizer;
        Ok(Prompt::plain(tokenizer.encode(
            &text,
            special,
            AddBos::ModelRule,
        )?))
    };
    match input {
        Input::Raw(text) => encoded(text, Special::Text),
        Input::Spelled(text) => encoded(text, Special::Parse),
        Input::Tokens(tokens) => Ok(Prompt::plain(known(model, tokens)?)),
        Input::Chat(chat) => {
            let template = template(model)?;
            let mut reading = Reading {
                form: template.reply_form(),
                thoughts: chat.thoughts,
                tools: tool_names(&chat.tools),
                calls: chat.calls,
            };
            let layout = lay_out(template, chat)?;
            if reading.thoughts == Thoughts::Apart && layout.thought_begun {
                reading.thoughts = Thoughts::Begun;
            }
            let tokens = model.tokenizer.encode_chat(&layout.prompt)?;
            Ok(Prompt { tokens, reading })
        }
    }
}

/// The prompt of a question as text.
pub(super) fn text(model: &ServedModel, input: Input) -> Result<String, AnswerError> {
    match input {
        Input::Raw(text) | Input::Spelled(text) => Ok(text),
        Input::Tokens(tokens) => Ok(model.tokenizer.decode(&tokens, ControlTokens::Show)),
        Input::Chat(chat) => Ok(lay_out(template(model)?, chat)?.prompt.text()),
    }
}

/// Ids that the model has.
fn known(model: &ServedModel, tokens: Vec<TokenId>) -> Result<Vec<TokenId>, AnswerError> {
    let n_vocab = model.tokenizer.n_vocab();
    match tokens.iter().find(|id| **id as usize >= n_vocab) {
        Some(&id) => Err(AnswerError::NoSuchToken {
            id,
            last: n_vocab.saturating_sub(1),
        }),
        None => Ok(tokens),
    }
}

fn template(model: &ServedModel) -> Result<&ChatTemplate, AnswerError> {
    let no_template = || AnswerError::NoChatTemplate {
        model: model.name.clone(),
    };
    model.template.as_ref().ok_or_else(no_template)
}

fn lay_out(template: &ChatTemplate, chat: Chat) -> Result<Layout, AnswerError> {
    let options = RenderOptions {
        add_generation_prompt: chat.add_generation_prompt,
        tools: (!chat.tools.is_empty()).then_some(Json::Array(chat.tools)),
        arguments: chat.arguments,
        now: SystemTime::now(),
    };
    Ok(template.lay_out(&chat.messages, options)?)
}
