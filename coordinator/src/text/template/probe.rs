//! Finds out what a template expects where templates differ, by rendering small chats and looking for what was put in.
//!
//! A template that fails on every probe keeps the usual form: then the chat itself will show what is wrong.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::message::{ArgumentsForm, ContentForm, Expectations};
use super::{ChatTemplate, RenderOptions};

/// A word that no template writes by itself.
const NEEDLE: &str = "potluck-probe";

pub(super) fn expectations(template: &ChatTemplate) -> Expectations {
    let content = content_form(template);
    Expectations {
        content,
        arguments: arguments_form(template, content),
    }
}

fn content_form(template: &ChatTemplate) -> ContentForm {
    let shows = |content: Json| {
        rendered(template, vec![user(content)]).is_some_and(|text| text.contains(NEEDLE))
    };
    if !shows(json!(NEEDLE)) && shows(parts(NEEDLE)) {
        ContentForm::Parts
    } else {
        ContentForm::Text
    }
}

/// A template that prints arguments as they are wants JSON text: a mapping would come out in the engine's own notation.
fn arguments_form(template: &ChatTemplate, content: ContentForm) -> ArgumentsForm {
    let text = json!({ NEEDLE: [true] }).to_string();
    let verbatim =
        call(template, json!(text), content).is_some_and(|prompt| prompt.contains(&text));
    if !verbatim {
        return ArgumentsForm::Mapping;
    }
    // A template that takes both forms, by `is string` or by `tojson`, gives a mapping as JSON too.
    let mapping = call(template, json!({ NEEDLE: [true] }), content);
    let as_json = mapping.is_some_and(|prompt| prompt.contains(&text) || prompt.contains("[true]"));
    if as_json {
        ArgumentsForm::Mapping
    } else {
        ArgumentsForm::Text
    }
}

fn call(template: &ChatTemplate, arguments: Json, content: ContentForm) -> Option<String> {
    let question = match content {
        ContentForm::Text => json!("question"),
        ContentForm::Parts => parts("question"),
    };
    let function = json!({"name": "tool", "arguments": arguments});
    let calls = json!([{"id": "call00001", "type": "function", "function": function}]);
    rendered(
        template,
        vec![
            user(question),
            json!({"role": "assistant", "content": "", "tool_calls": calls}),
        ],
    )
}

fn user(content: Json) -> Json {
    json!({"role": "user", "content": content})
}

fn parts(text: &str) -> Json {
    json!([{"type": "text", "text": text}])
}

fn rendered(template: &ChatTemplate, messages: Vec<Json>) -> Option<String> {
    let mut options = RenderOptions::new(SystemTime::UNIX_EPOCH);
    options.add_generation_prompt = false;
    template
        .render_json(messages, &options)
        .ok()
        .map(|rendered| rendered.text())
}
