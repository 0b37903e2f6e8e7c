//! A chat that is to be answered.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::text::{Calls, Message, Thoughts};

/// A chat, and how its answer is to be read.
#[derive(Debug, Clone)]
pub struct Chat {
    /// If the last one is an answer without calls, it is continued.
    pub messages: Vec<Message>,
    /// Tools that the model may call, defined as in OpenAI's requests.
    pub tools: Vec<Json>,
    pub calls: Calls,
    /// Further variables of the template, such as `enable_thinking`.
    pub arguments: Map<String, Json>,
    pub thoughts: Thoughts,
    /// Whether the prompt ends where the answer begins.
    pub add_generation_prompt: bool,
}

impl From<Vec<Message>> for Chat {
    /// Answered in text alone.
    fn from(messages: Vec<Message>) -> Chat {
        Chat {
            messages,
            tools: Vec::new(),
            calls: Calls::Many,
            arguments: Map::new(),
            thoughts: Thoughts::InText,
            add_generation_prompt: true,
        }
    }
}

/// The names of the functions among these tools.
pub(super) fn tool_names(tools: &[Json]) -> Arc<[String]> {
    let names = tools
        .iter()
        .filter_map(|tool| tool["function"]["name"].as_str());
    names.map(str::to_owned).collect()
}
