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

/// The prompt of a question. Control tokens that a user spells out stay text, in a chat and in plain text alike.
pub(super) fn prompt(model: &ServedModel, input: Input) -> Result<Prompt, AnswerError> {
    match input {
        Input::Raw(text) => Ok(Prompt {
            tokens: model
                .tokenizer
                .encode(&text, Special::Text, AddBos::ModelRule)?,
            reading: Reading::default(),
        }),
        Input::Spelled(text) => Ok(Prompt {
            tokens: model
                .tokenizer
                .encode(&text, Special::Parse, AddBos::ModelRule)?,
            reading: Reading::default(),
        }),
        Input::Tokens(tokens) => Ok(Prompt {
            tokens: known(model, tokens)?,
            reading: Reading::default(),
        }),
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
