//! Finds out how a model writes thoughts and calls, from how its template shows those of earlier answers.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::message::{FunctionCall, Message, ToolCall};
use super::{ChatTemplate, RenderOptions};
use crate::text::reply::{CALL_MARKS, CallIds, CallMarks, ReplyForm, THOUGHT_MARKS, ThoughtMarks};

/// Words that no template writes by itself.
const TOOL: &str = "potluck_probe_tool";
const CALLED: &str = "potluck_probe_called";

/// An id as servers give them, and one that every template takes.
const USUAL_ID: &str = "call_0123456789abcdef01234567";
const NINE_LETTERS: &str = "call00001";

/// What a template knows of tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplateCaps {
    /// It tells the model of the tools that there are.
    pub tools: bool,
    /// It shows the calls of earlier answers.
    pub tool_calls: bool,
}

pub(super) fn learn(template: &ChatTemplate) -> (ReplyForm, TemplateCaps) {
    let usual = rendered(template, &called(USUAL_ID));
    let nine = rendered(template, &called(NINE_LETTERS));
    let ids = match (&usual, &nine) {
        (None, Some(_)) => CallIds::Nine,
        _ => CallIds::Any,
    };
    // Some templates know no results.
    let shown = usual.or(nine).or_else(|| {
        let [question, call, _] = called(NINE_LETTERS);
        rendered(template, &[question, call])
    });
    let shown = shown.unwrap_or_default();
    let form = ReplyForm {
        thoughts: thought_marks(&template.source),
        calls: call_marks(&template.source, &shown),
        ids,
    };
    let offered = rendered(template, &[Message::new("user", "question")]);
    let caps = TemplateCaps {
        tools: offered.is_some_and(|prompt| prompt.contains(TOOL)),
        tool_calls: shown.contains(CALLED),
    };
    (form, caps)
}

fn thought_marks(source: &str) -> &'static ThoughtMarks {
    let mut known = THOUGHT_MARKS.iter();
    known
        .find(|marks| source.contains(marks.closes))
        .unwrap_or(&THOUGHT_MARKS[0])
}

/// The marks in front of JSON in a chat with a call; or else marks that the template knows but did not need for it.
fn call_marks(source: &str, shown: &str) -> Option<&'static CallMarks> {
    let known = || {
        CALL_MARKS
            .iter()
            .filter(|marks| source.contains(marks.opens))
    };
    let used = known().find(|marks| has_call_behind(marks, shown));
    used.or_else(|| known().find(|marks| !shown.contains(marks.opens)))
}

fn has_call_behind(marks: &CallMarks, shown: &str) -> bool {
    let mut behind = shown.split(marks.opens).skip(1).map(str::trim_start);
    behind.any(|text| text.starts_with(['{', '[']) || (marks.named && text.starts_with(CALLED)))
}

/// A chat in which the assistant has called a tool.
fn called(id: &str) -> [Message; 3] {
    let function = FunctionCall {
        name: CALLED.to_owned(),
        arguments: json!({"key": "value"}),
    };
    let call = Message {
        role: "assistant".to_owned(),
        tool_calls: Some(vec![ToolCall {
            id: Some(id.to_owned()),
            function,
        }]),
        ..Message::default()
    };
    let result = Message {
        name: Some(CALLED.to_owned()),
        tool_call_id: Some(id.to_owned()),
        ..Message::new("tool", "result")
    };
    [Message::new("user", "question"), call, result]
}

fn rendered(template: &ChatTemplate, messages: &[Message]) -> Option<String> {
    let mut options = RenderOptions::new(SystemTime::UNIX_EPOCH);
    options.tools = Some(tools());
    let rendered = template.render(messages, &options).ok();
    rendered.map(|rendered| rendered.text())
}

fn tools() -> Json {
    let parameters = json!({"type": "object", "properties": {"key": {"type": "string", "description": "a key"}}});
    let function = json!({"name": TOOL, "description": "a tool", "parameters": parameters});
    json!([{"type": "function", "function": function}])
}
