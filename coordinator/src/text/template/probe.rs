//! Finds out what a template expects where templates differ, by rendering small chats and looking for what was put in.
//!
//! A template that fails on every probe keeps the usual form: then the chat itself will show what is wrong.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::message::{ArgumentsForm, ContentForm, Expectations, NoContentForm, NoToolsForm};
use super::{ChatTemplate, RenderOptions};

/// A word that no template writes by itself.
const NEEDLE: &str = "potluck-probe";

pub(super) fn expectations(template: &ChatTemplate) -> Expectations {
    let no_tools = no_tools_form(template);
    let content = content_form(template, no_tools);
    let result =
        json!({"role": "tool", "name": "tool", "tool_call_id": "call00001", "content": "result"});
    let usual = Expectations {
        content,
        no_tools,
        ..Expectations::default()
    };
    // Some templates treat the last message specially, some know no results.
    best_forms(template, usual, &[result])
        .or_else(|| best_forms(template, usual, &[]))
        .unwrap_or(usual)
}

/// The forms with the fewest flaws in a chat that ends with these messages; of equally good ones the usual.
fn best_forms(template: &ChatTemplate, usual: Expectations, end: &[Json]) -> Option<Expectations> {
    let arguments = [ArgumentsForm::Mapping, ArgumentsForm::Text];
    let forms = arguments.into_iter().flat_map(|arguments| {
        [NoContentForm::Null, NoContentForm::Empty].map(|no_content| Expectations {
            arguments,
            no_content,
            ..usual
        })
    });
    let rated = forms.filter_map(|forms| Some((flaws(template, forms, end)?, forms)));
    rated
        .min_by_key(|(flaws, _)| *flaws)
        .map(|(_, forms)| forms)
}

fn no_tools_form(template: &ChatTemplate) -> NoToolsForm {
    let works = |form| {
        let mut contents = [json!(NEEDLE), parts(NEEDLE)].into_iter();
        contents.any(|content| rendered(template, form, vec![user(content)]).is_some())
    };
    if !works(NoToolsForm::Null) && works(NoToolsForm::Empty) {
        NoToolsForm::Empty
    } else {
        NoToolsForm::Null
    }
}

fn content_form(template: &ChatTemplate, no_tools: NoToolsForm) -> ContentForm {
    let shows = |content: Json| {
        rendered(template, no_tools, vec![user(content)]).is_some_and(|text| text.contains(NEEDLE))
    };
    if !shows(json!(NEEDLE)) && shows(parts(NEEDLE)) {
        ContentForm::Parts
    } else {
        ContentForm::Text
    }
}

/// How much looks wrong when an assistant that says nothing calls a tool; `None` if the template fails. A call that is not
/// shown at all outweighs everything else.
fn flaws(template: &ChatTemplate, forms: Expectations, end: &[Json]) -> Option<usize> {
    let question = match forms.content {
        ContentForm::Text => json!("question"),
        ContentForm::Parts => parts("question"),
    };
    let arguments = json!({ NEEDLE: [true] });
    let arguments = match forms.arguments {
        ArgumentsForm::Mapping => arguments,
        ArgumentsForm::Text => json!(arguments.to_string()),
    };
    let content = match forms.no_content {
        NoContentForm::Null => Json::Null,
        NoContentForm::Empty => json!(""),
    };
    let function = json!({"name": "tool", "arguments": arguments});
    let calls = json!([{"id": "call00001", "type": "function", "function": function}]);
    let answer = json!({"role": "assistant", "content": content, "tool_calls": calls});
    let chat = [user(question), answer]
        .into_iter()
        .chain(end.iter().cloned());
    let prompt = rendered(template, forms.no_tools, chat.collect())?;
    // A missing content that is printed, and a mapping that is printed in the engine's notation instead of as JSON.
    let shown_wrong = prompt.matches("None").count() + prompt.matches("[True]").count();
    let call_missing = if prompt.contains(NEEDLE) {
        0
    } else {
        prompt.len()
    };
    Some(shown_wrong + call_missing)
}

fn user(content: Json) -> Json {
    json!({"role": "user", "content": content})
}

fn parts(text: &str) -> Json {
    json!([{"type": "text", "text": text}])
}

fn rendered(template: &ChatTemplate, no_tools: NoToolsForm, messages: Vec<Json>) -> Option<String> {
    let mut options = RenderOptions::new(SystemTime::UNIX_EPOCH);
    options.tools = Some(no_tools.json());
    options.add_generation_prompt = false;
    let rendered = template.render_json(messages, &options).ok();
    rendered.map(|rendered| rendered.text())
}
