//! Chat templates of real models, rendered here and by Python's Jinja, compared byte for byte.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use potluck_coordinator::text::{ChatTemplate, Message, RenderOptions, Tokenizer};
use potluck_gguf::{Gguf, Mapped};
use serde_json::{Value, json};

/// Templates whose output Python escapes for HTML, because they mix `safe` with plain strings. Nobody wants that.
const ESCAPED_BY_PYTHON: &[&str] = &["meetkai-functionary-medium-v3.1"];

/// Templates that print the arguments of a tool call as they are, and so get JSON text.
const TEXT_ARGUMENTS: &[&str] = &["meetkai-functionary-medium-v3.2"];

/// 2026-07-05, a Sunday, at noon or near it in every time zone.
const NOW: u64 = 1_783_252_800;

fn chats() -> Vec<(&'static str, Value)> {
    let weather = json!([{"type": "function", "function": {
        "name": "get_weather",
        "description": "Weather at a place, \"today\" & <now>.",
        "parameters": {"type": "object", "properties": {
            "place": {"type": "string", "description": "Größe & name"},
            "days": {"type": "integer", "default": 1, "enum": [1, 2, 3]},
        }, "required": ["place"]},
    }}]);
    let user = |text: &str| json!({"role": "user", "content": text});
    let system = json!({"role": "system", "content": "Be brief."});
    let call = |content: Value| {
        json!({"role": "assistant", "content": content, "tool_calls": [{"id": "call00001", "type": "function", "function":
        {"name": "get_weather", "arguments": {"place": "Zürich \"West\"", "days": 2, "exact": true, "ratio": 0.5}}}]})
    };
    let result = json!({"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "{\"sky\": \"clear\"}"});
    vec![
        (
            "one question",
            json!({"messages": [user("Hello <there>, how are you?")]}),
        ),
        (
            "system and turns",
            json!({"messages": [system, user("Hi\n"),
            {"role": "assistant", "content": "  Hello! "}, user("And now?")]}),
        ),
        (
            "no answer begun",
            json!({"messages": [user("Hi"), {"role": "assistant", "content": "Hello."}],
            "add_generation_prompt": false}),
        ),
        (
            "tools offered",
            json!({"messages": [system, user("Weather?")], "tools": weather}),
        ),
        (
            "tool called",
            json!({"messages": [user("Weather?"), call(json!("I look.")), result], "tools": weather}),
        ),
        (
            "tool called without a word",
            json!({"messages": [user("Weather?"), call(json!("")), result], "tools": weather}),
        ),
        (
            "thinking",
            json!({"messages": [user("Hi"),
            {"role": "assistant", "content": "Hello.", "reasoning_content": "They greet."}, user("2+2?")],
            "enable_thinking": true}),
        ),
        (
            "not thinking",
            json!({"messages": [user("2+2?")], "enable_thinking": false}),
        ),
    ]
}

fn tokenizer(models: &Path) -> Tokenizer {
    let mapped = Mapped::open(&models.join("ggml-vocab-llama-bpe.gguf")).unwrap();
    Tokenizer::from_gguf(Gguf::parse(mapped.bytes()).unwrap().metadata()).unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn ours(template: &ChatTemplate, chat: &Value) -> Result<String, String> {
    let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
    let mut options = RenderOptions::new(now());
    options.tools = chat.get("tools").cloned();
    options.add_generation_prompt = chat["add_generation_prompt"] != json!(false);
    let thinking = chat.get("enable_thinking").cloned();
    options
        .arguments
        .extend(thinking.map(|value| ("enable_thinking".to_owned(), value)));
    template
        .render(&messages, &options)
        .map(|rendered| rendered.text())
        .map_err(|error| error.to_string())
}

fn case_for_python(path: &Path, name: &str, tokenizer: &Tokenizer, chat: &Value) -> Value {
    let mut variables = chat.clone();
    let map = variables.as_object_mut().unwrap();
    map.entry("add_generation_prompt").or_insert(json!(true));
    map.entry("tools").or_insert(Value::Null);
    map.insert("bos_token".into(), json!(tokenizer.bos_text()));
    map.insert("eos_token".into(), json!(tokenizer.eos_text()));
    if TEXT_ARGUMENTS.contains(&name) {
        for call in variables["messages"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .filter_map(|message| message.get_mut("tool_calls"))
        {
            let arguments = &mut call[0]["function"]["arguments"];
            *arguments = Value::String(arguments.to_string());
        }
    }
    json!({"template": path, "variables": variables, "now": NOW})
}

fn python(cases: &[Value]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text/jinja.py");
    let python = common::python_with("jinja", &["jinja2==3.1.6"]);
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&serde_json::to_vec(cases).unwrap())
        .unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// Name, file and compiled template of every template in llama.cpp's sources.
fn templates(models: &Path, tokenizer: &Tokenizer) -> Vec<(String, PathBuf, ChatTemplate)> {
    let files = std::fs::read_dir(models.join("templates"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "jinja"))
        .collect();
    files.sort();
    let load = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let template = ChatTemplate::new(&std::fs::read_to_string(&path).unwrap(), tokenizer);
        let template = template.unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, path, template)
    };
    files.into_iter().map(load).collect()
}

#[test]
fn same_as_python() {
    let models = common::llama_cpp_models();
    let tokenizer = tokenizer(&models);
    let templates = templates(&models, &tokenizer);
    let pairs: Vec<_> = templates
        .iter()
        .flat_map(|template| chats().into_iter().map(move |chat| (template, chat)))
        .collect();
    let cases = pairs
        .iter()
        .map(|((name, path, _), (_, chat))| case_for_python(path, name, &tokenizer, chat));
    let expected = python(&cases.collect::<Vec<_>>());
    assert_eq!(expected.len(), pairs.len());

    let (mut same, mut refused, mut lenient, mut wrong) = (0, 0, 0, Vec::new());
    for (((name, _, template), (title, chat)), theirs) in pairs.iter().zip(expected) {
        if ESCAPED_BY_PYTHON.contains(&name.as_str()) && chat.get("tools").is_some() {
            continue;
        }
        let ours = ours(template, chat);
        match (&ours, theirs["text"].as_str(), theirs["error"].as_str()) {
            (Ok(ours), Some(theirs), _) if ours == theirs => same += 1,
            (Err(_), None, _) => refused += 1,
            // Where Python stumbles over a type, this engine goes on; what a template refuses, both refuse.
            (Ok(_), None, Some(error)) if error.starts_with("TypeError") => lenient += 1,
            _ => wrong.push(format!(
                "{name}, {title}:\n  ours   {ours:?}\n  theirs {theirs}"
            )),
        }
    }
    eprintln!("{same} the same, {refused} refused by both, {lenient} refused by Python only");
    assert!(
        wrong.is_empty(),
        "{} of {} differ\n{}",
        wrong.len(),
        pairs.len(),
        wrong.join("\n")
    );
    assert!(same >= 500, "only {same} chats were compared");
}

/// Clients send `"content": null` with every tool call, and many templates take every content for a text.
#[test]
fn a_tool_call_without_content_renders_wherever_an_empty_text_does() {
    let models = common::llama_cpp_models();
    let tokenizer = tokenizer(&models);
    let mut checked = 0;
    for (name, _, template) in templates(&models, &tokenizer) {
        let (_, mut chat) = chats()
            .into_iter()
            .find(|(title, _)| title.ends_with("without a word"))
            .unwrap();
        if ours(&template, &chat).is_err() {
            continue;
        }
        chat["messages"][1]["content"] = Value::Null;
        let prompt = ours(&template, &chat).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!prompt.contains("None"), "{name}: {prompt}");
        checked += 1;
    }
    assert!(checked >= 60, "only {checked} templates were checked");
}
