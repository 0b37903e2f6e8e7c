//! Chat templates of real models give byte for byte what Python's Jinja gives, the engine they were written for.
//!
//! What it gives is in `templates/expected.json`, as hashes, because the templates are other people's: `templates/expected.py`
//! writes that file and shows the texts. Small templates of our own are in `templates/expressions.json`, with texts.

mod common;
#[path = "text/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use potluck_coordinator::text::{
    CallIds, ChatTemplate, Content, FunctionCall, Message, Reading, RenderOptions, Rendered,
    ReplyParser, ReplyPiece, TemplateError, Thoughts, ToolCall,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// 2026-07-05, a Sunday, at noon or near it in every time zone.
const NOW: u64 = 1_783_252_800;

/// Real templates that Python cannot render with tools, because it has no JSON for what its filters give.
const LENIENT: &[&str] = &["llama-cpp-deepseek-r1"];

/// Templates that print the arguments of a tool call as they are, and so get JSON in a text.
const TEXT_ARGUMENTS: &[&str] = &["meetkai-functionary-medium-v3.2"];

/// Chats as requests have them: contents are texts, and there is one.
const REQUESTS: &[&str] = &[
    "one question",
    "system and turns",
    "no answer begun",
    "tools offered",
    "tool called",
    "tools called side by side",
    "tool called with thoughts",
    "thinking",
    "not thinking",
];

/// Small templates with something else than Python's result, an error mostly; `docs/templates.md` says why.
const DIFFERENT: &[(&str, &str)] = &[
    ("{{ range(2, 4) }}", "[2, 3]"),
    ("{{ range(-3) }}", "[]"),
    ("{{ range(3)|tojson }}", "[0, 1, 2]"),
    ("{{ list|map('string')|tojson }}", r#"["3", "1", "2"]"#),
    (
        "{{ map.items()|tojson }}",
        r#"[["b", 1], ["a", [1, 2]], ["c", null]]"#,
    ),
    (
        "{{ map|items|tojson }}",
        r#"[["b", 1], ["a", [1, 2]], ["c", null]]"#,
    ),
    ("{{ map.keys()|tojson }}", r#"["b", "a", "c"]"#),
    ("{{ namespace(a=1)|tojson }}", r#"{"a": 1}"#),
    ("{{ map.items() is sequence }}", "True"),
    ("{{ map.keys() is sequence }}", "True"),
    ("{{ [1, 'a']|sort }}", "[1, 'a']"),
    ("{{ [1, none]|sort }}", "[None, 1]"),
    ("{{ 'abc'.startswith(['a']) }}", "True"),
    ("{{ '½'.isdigit() }}", "True"),
    ("{{ '{}'.format([huge]) }}", "[1e16]"),
];

fn read(file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    serde_json::from_str(&fs::read_to_string(folder.join(file)).unwrap()).unwrap()
}

/// The chats of `chats.json`, with the tools that they name.
fn chats() -> Vec<(String, Map<String, Value>)> {
    let file = read("chats.json");
    let tokenizer = tiny::tokenizer();
    assert_eq!(tokenizer.bos_text(), file["tokens"]["bos_token"].as_str());
    assert_eq!(tokenizer.eos_text(), file["tokens"]["eos_token"].as_str());
    let chats = file["chats"].as_object().unwrap().iter();
    let with_tools = |(title, chat): (&String, &Value)| {
        let mut chat = chat.as_object().unwrap().clone();
        if let Some(tools) = chat.get_mut("tools")
            && let Some(name) = tools.as_str()
        {
            *tools = file["tools"][name].clone();
        }
        (title.clone(), chat)
    };
    chats.map(with_tools).collect()
}

/// A chat's messages, and the rest of it.
fn taken_apart(mut chat: Map<String, Value>) -> (Vec<Value>, RenderOptions) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let mut options = RenderOptions::new(now);
    let Some(Value::Array(messages)) = chat.remove("messages") else {
        panic!("a chat has messages");
    };
    options.tools = chat.remove("tools");
    options.add_generation_prompt = chat.remove("add_generation_prompt") != Some(json!(false));
    options.arguments = chat;
    (messages, options)
}

/// What `expected.py` calls a digest.
fn digest(outcome: &Result<String, TemplateError>) -> String {
    let (kind, text) = match outcome {
        Ok(text) => ("ok", text),
        Err(TemplateError::Refused(message)) => ("refused", message),
        Err(TemplateError::Failed(_)) => return "fails".to_owned(),
        Err(error) => return error.to_string(),
    };
    let hash = Sha256::digest(text);
    let hash: String = hash
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{kind} {} {hash}", text.len())
}

/// File and compiled template of every template in llama.cpp's sources, by name.
fn templates() -> BTreeMap<String, (PathBuf, ChatTemplate)> {
    let files = fs::read_dir(common::llama_cpp_models().join("templates")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let tokenizer = tiny::tokenizer();
    let load = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let template = ChatTemplate::new(&fs::read_to_string(&path).unwrap(), &tokenizer);
        let template = template.unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, (path, template))
    };
    files
        .filter(|path| path.extension().is_some_and(|end| end == "jinja"))
        .map(load)
        .collect()
}

#[test]
fn real_templates_as_python_renders_them() {
    let expected = read("expected.json");
    let templates = templates();
    assert_eq!(expected.as_object().unwrap().len(), templates.len());
    let mut wrong = Vec::new();
    let mut counts = BTreeMap::<String, usize>::new();
    for (title, chat) in chats() {
        let (messages, options) = taken_apart(chat);
        for (name, (path, template)) in &templates {
            let theirs = expected[name][&title].as_str().unwrap();
            let ours = template
                .render_json(messages.clone(), &options)
                .map(|rendered| rendered.text());
            let digest = digest(&ours);
            let kind = digest.split(' ').next().unwrap_or_default();
            let failed = theirs.starts_with("fails ");
            if digest == theirs || (kind == "fails" && failed) {
                *counts.entry(kind.to_owned()).or_default() += 1;
            } else if kind == "ok" && failed && LENIENT.contains(&name.as_str()) {
                *counts.entry("lenient".to_owned()).or_default() += 1;
            } else {
                let folder = path.parent().unwrap().display();
                wrong.push(format!(
                    "{name}: {title}\n  ours   {ours:?}\n  theirs {theirs}; for the text: expected.py show {folder} {name} '{title}'"
                ));
            }
        }
    }
    eprintln!("{counts:?}");
    assert!(
        wrong.is_empty(),
        "{} differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Where Python fails, the server may have found a form in which the template takes the chat.
#[test]
fn messages_of_requests_render_as_python_renders_them() {
    let expected = read("expected.json");
    let templates = templates();
    let (mut same, mut wrong) = (0, Vec::new());
    for (title, chat) in chats() {
        if !REQUESTS.contains(&title.as_str()) {
            continue;
        }
        let (messages, options) = taken_apart(chat);
        let messages: Vec<Message> = serde_json::from_value(Value::Array(messages)).unwrap();
        for (name, (_, template)) in &templates {
            let theirs = expected[name][&title].as_str().unwrap();
            let as_text = TEXT_ARGUMENTS.contains(&name.as_str()) && title.contains("called");
            if as_text || theirs.starts_with("fails ") {
                continue;
            }
            let ours = template.render(&messages, &options);
            let ours = ours.map(|rendered| rendered.text());
            if digest(&ours) == theirs {
                same += 1;
            } else {
                wrong.push(format!("{name}: {title}\n  ours   {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(same >= 500, "only {same} chats were compared");
}

/// Clients send `"content": null` with every tool call, and many templates take every content for a text.
#[test]
fn a_tool_call_without_content_renders_wherever_an_empty_text_does() {
    let (_, chat) = chats()
        .into_iter()
        .find(|(title, _)| title == "tool called")
        .unwrap();
    let (messages, options) = taken_apart(chat);
    let mut messages: Vec<Message> = serde_json::from_value(Value::Array(messages)).unwrap();
    let mut checked = 0;
    for (name, (_, template)) in templates() {
        messages[1].content = Some(Content::Text(String::new()));
        let Ok(with_empty) = template.render(&messages, &options) else {
            continue;
        };
        messages[1].content = None;
        let prompt = template.render(&messages, &options);
        let prompt = prompt.unwrap_or_else(|error| panic!("{name}: {error}"));
        let nones = |prompt: &Rendered| prompt.text().matches("None").count();
        assert_eq!(nones(&prompt), nones(&with_empty), "{name}: {prompt:?}");
        checked += 1;
    }
    assert!(checked >= 60, "only {checked} templates were checked");
}

/// Some templates go through the tools without asking whether there are any.
#[test]
fn a_chat_without_tools_renders_wherever_one_with_an_empty_list_does() {
    let messages = [Message::new("user", "Hi")];
    let none = RenderOptions::new(SystemTime::UNIX_EPOCH);
    let empty = RenderOptions {
        tools: Some(json!([])),
        ..none.clone()
    };
    for (name, (_, template)) in templates() {
        if template.render(&messages, &empty).is_ok() {
            let rendered = template.render(&messages, &none);
            assert!(rendered.is_ok(), "{name}: {rendered:?}");
        }
    }
}

/// Templates whose models' calls are read, with the marks in front of them, as far as they write any.
const READ_CALLS: &[(&str, &str)] = &[
    ("Bielik-11B-v3.0-Instruct", "<tool_call>"),
    ("MiMo-VL", "<tool_call>"),
    ("Mistral-Small-3.2-24B-Instruct-2506", "[TOOL_CALLS]"),
    ("NVIDIA-Nemotron-Nano-v2", "<TOOLCALL>"),
    (
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        "<tool_call>",
    ),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "<tool_call>"),
    ("Qwen-QwQ-32B", "<tool_call>"),
    ("Qwen-Qwen2.5-7B-Instruct", "<tool_call>"),
    ("Qwen-Qwen3-0.6B", "<tool_call>"),
    ("Reka-Edge", "<tool_call>"),
    ("ibm-granite-granite-4.0", "<tool_call>"),
    ("ibm-granite-granite-4.1", "<tool_call>"),
    ("meta-llama-Llama-3.1-8B-Instruct", "<|python_tag|>"),
    ("meta-llama-Llama-3.2-3B-Instruct", ""),
    ("meta-llama-Llama-3.3-70B-Instruct", "<|python_tag|>"),
    ("mistralai-Ministral-3-14B-Reasoning-2512", "[TOOL_CALLS]"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "[TOOL_CALLS]"),
    ("unsloth-mistral-Devstral-Small-2507", "[TOOL_CALLS]"),
];

/// What a template writes behind the prompt when the assistant calls a tool is what its model learned to write.
#[test]
fn calls_are_read_as_real_templates_write_them() {
    let templates = templates();
    let read: Vec<(&str, &str)> = templates
        .iter()
        .filter(|(_, (_, template))| reads_its_own_call(template))
        .map(|(name, (_, template))| {
            let marks = template.reply_form().calls.map(|marks| marks.opens);
            (name.as_str(), marks.unwrap_or_default())
        })
        .collect();
    assert_eq!(read, READ_CALLS);
}

#[test]
fn templates_tell_which_ids_and_thoughts_their_models_know() {
    let templates = templates();
    let form = |name: &str| templates[name].1.reply_form();
    let strict = templates
        .iter()
        .filter(|(_, (_, t))| t.reply_form().ids == CallIds::Nine);
    let strict: Vec<&str> = strict.map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        strict,
        [
            "Mistral-Small-3.2-24B-Instruct-2506",
            "mistralai-Mistral-Nemo-Instruct-2407"
        ]
    );
    for (name, opens) in [
        ("Qwen-Qwen3-0.6B", "<think>"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "[THINK]"),
        ("ByteDance-Seed-OSS", "<seed:think>"),
        (
            "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
            "<|START_THINKING|>",
        ),
    ] {
        assert_eq!(form(name).thoughts.opens, opens, "{name}");
    }
    let messages = [Message::new("user", "What does <think> mean? <think>")];
    for (name, begun) in [
        ("Qwen-QwQ-32B", true),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", true),
        ("Qwen-Qwen3-0.6B", false),
        ("Qwen-Qwen2.5-7B-Instruct", false),
        ("meta-llama-Llama-3.2-3B-Instruct", false),
    ] {
        let mut options = RenderOptions::new(SystemTime::UNIX_EPOCH);
        options
            .arguments
            .insert("enable_thinking".into(), json!(true));
        let layout = templates[name].1.lay_out(&messages, options).unwrap();
        assert_eq!(layout.thought_begun, begun, "{name}");
    }
}

fn reads_its_own_call(template: &ChatTemplate) -> bool {
    let (name, arguments) = ("get_weather", json!({"city": "Bonn", "days": [1, 2]}));
    let question = Message::new("user", "How is the weather?");
    let function = FunctionCall {
        name: name.to_owned(),
        arguments: arguments.clone(),
    };
    let call = Message {
        role: "assistant".to_owned(),
        tool_calls: Some(vec![ToolCall {
            id: Some("call00001".to_owned()),
            function,
        }]),
        ..Message::default()
    };
    let mut options = RenderOptions::new(SystemTime::UNIX_EPOCH);
    options.tools = Some(
        json!([{"type": "function", "function": {"name": name, "description": "a tool",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "a city"}}}}}]),
    );
    options
        .arguments
        .insert("enable_thinking".into(), json!(true));
    let prompt = template.render(std::slice::from_ref(&question), &options);
    options.add_generation_prompt = false;
    let called = template.render(&[question, call], &options);
    let (Ok(prompt), Ok(called)) = (prompt, called) else {
        return false;
    };
    let (prompt, called) = (prompt.text(), called.text());
    // Templates that open a thought for the answer leave it out of earlier answers.
    let opens = template.reply_form().thoughts.opens;
    let prompt = prompt.trim_end().trim_end_matches(opens).trim_end();
    let Some(answer) = called.strip_prefix(prompt) else {
        return false;
    };
    let mut parser = ReplyParser::new(Reading {
        form: template.reply_form(),
        thoughts: Thoughts::Apart,
        tools: [name.to_owned()].into(),
        ..Reading::default()
    });
    let mut pieces = parser.push(answer);
    pieces.extend(parser.finish());
    let calls: Vec<Value> = pieces
        .iter()
        .filter_map(|piece| match piece {
            ReplyPiece::Call(call) if call.name == name => {
                serde_json::from_str(&call.arguments).ok()
            }
            _ => None,
        })
        .collect();
    calls == [arguments]
}

#[test]
fn small_templates_as_python_renders_them() {
    let file = read("expressions.json");
    let tokenizer = tiny::tokenizer();
    let mut chat = file["variables"].as_object().unwrap().clone();
    chat.insert("messages".into(), json!([]));
    let (messages, options) = taken_apart(chat);
    let cases = file["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let ours = ChatTemplate::new(source, &tokenizer)
            .and_then(|template| template.render_json(messages.clone(), &options))
            .map(|rendered| rendered.text());
        let same = match &ours {
            Ok(text) => case["text"] == **text,
            Err(TemplateError::Refused(message)) => case["refusal"] == **message,
            Err(TemplateError::Failed(_) | TemplateError::Syntax(_)) => case["error"].is_string(),
            Err(_) => false,
        };
        let different = DIFFERENT.iter().find(|(template, _)| *template == source);
        let same = match (different, &ours) {
            (Some((_, text)), Ok(ours)) => !same && text == ours,
            (Some(_), Err(_)) => false,
            (None, _) => same,
        };
        if !same {
            wrong.push(format!("{case}\n  ours {ours:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
