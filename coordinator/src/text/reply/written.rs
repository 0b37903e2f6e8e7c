//! The JSON in which models write calls. Names of the fields differ from model to model; the arguments stay as they are written.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Calls in one list; more are no sensible answer.
const MAX_CALLS: usize = 128;

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// A JSON object as the model wrote it.
    pub arguments: String,
}

/// Which names a call may have.
#[derive(Clone, Copy)]
pub(super) enum Names<'a> {
    Any,
    /// And only with arguments: JSON that happens to have a name is no call.
    OneOf(&'a [String]),
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// What some models put around a call, or around all of them.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow, alias = "function")]
    tool_call: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
}

/// The calls in a JSON text; `None` if it is anything else.
pub(super) fn calls(json: &str, names: Names<'_>) -> Option<Vec<Call>> {
    let calls = written(json)?.into_iter().map(|call| call.checked(names));
    let calls: Vec<Call> = calls.collect::<Option<_>>()?;
    (!calls.is_empty() && calls.len() <= MAX_CALLS).then_some(calls)
}

fn written(json: &str) -> Option<Vec<Written<'_>>> {
    // Some Qwen templates show a call in doubled braces by mistake, and their models learn it.
    if json.starts_with("{{") && json.ends_with("}}") {
        let call = one(json.get(1..json.len() - 1)?)?;
        return Some(vec![call]);
    }
    if json.starts_with('[') {
        return list(json);
    }
    match one(json) {
        Some(call) => Some(vec![call]),
        None => list(object::<Wrapped<'_>>(json)?.tool_calls?.get()),
    }
}

fn list(json: &str) -> Option<Vec<Written<'_>>> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    items.into_iter().map(|item| one(item.get())).collect()
}

/// A call, plain or wrapped.
fn one(json: &str) -> Option<Written<'_>> {
    object(json).or_else(|| object(object::<Wrapped<'_>>(json)?.tool_call?.get()))
}

/// A list of a struct's fields would be read as well.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    json.starts_with('{').then_some(())?;
    serde_json::from_str(json).ok()
}

impl Written<'_> {
    fn checked(self, names: Names<'_>) -> Option<Call> {
        let given = self.arguments.or(self.parameters).map(RawValue::get);
        let named = match names {
            Names::Any => !self.name.is_empty(),
            Names::OneOf(tools) => given.is_some() && tools.iter().any(|tool| *tool == self.name),
        };
        named.then_some(())?;
        Some(Call {
            name: self.name.into_owned(),
            arguments: arguments(given.unwrap_or("{}"))?,
        })
    }
}

/// Arguments as an object. Some models write the object into a string, and none as null or nothing.
pub(super) fn arguments(json: &str) -> Option<String> {
    let json: Cow<'_, str> = match json.trim_start().starts_with('"') {
        true => Cow::Owned(serde_json::from_str(json).ok()?),
        false => Cow::Borrowed(json),
    };
    match json.trim() {
        "" | "null" => Some("{}".to_owned()),
        object if object.starts_with('{') => {
            serde_json::from_str::<IgnoredAny>(object).ok()?;
            Some(object.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Vec<(String, String)>> {
        let tools = ["f".to_owned(), "g".to_owned()];
        let calls = calls(json, Names::OneOf(&tools))?;
        Some(calls.into_iter().map(|c| (c.name, c.arguments)).collect())
    }

    #[test]
    fn calls_are_known_in_every_dress() {
        let f = |arguments: &str| Some(vec![("f".to_owned(), arguments.to_owned())]);
        let cases = [
            (r#"{"name":"f","arguments":{"x":1}}"#, r#"{"x":1}"#),
            (
                r#"{"name":"f","parameters":{"x": 1.0e9}}"#,
                r#"{"x": 1.0e9}"#,
            ),
            (r#"{"type":"function","name":"f","parameters":{}}"#, "{}"),
            (
                r#"{"type":"function","function":{"name":"f","arguments":{}}}"#,
                "{}",
            ),
            (
                r#"{"name":"f","arguments":"{\"x\":\"\\n\"}"}"#,
                r#"{"x":"\n"}"#,
            ),
            (r#"{"name":"f","arguments":""}"#, "{}"),
            (r#"{{"name":"f","arguments":{}}}"#, "{}"),
            (r#"[{"name":"f","arguments":{},"id":"abc"}]"#, "{}"),
            (r#"{"tool_call":{"name":"f","arguments":{}}}"#, "{}"),
            (r#"{"tool_calls":[{"name":"f","arguments":{}}]}"#, "{}"),
            (r#"{"name":"\u0066","arguments":{}}"#, "{}"),
        ];
        for (json, arguments) in cases {
            assert_eq!(read(json), f(arguments), "{json}");
        }
        let both =
            read(r#"[{"name":"f","arguments":{}},{"function":{"name":"g","arguments":{}}}]"#);
        assert_eq!(both.unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_call_is_none() {
        let cases = [
            "[]",
            "{}",
            "{{}}",
            "[1]",
            r#"{"name":"f"}"#,
            r#"{"name":"h","arguments":{}}"#,
            r#"{"name":"","arguments":{}}"#,
            r#"{"name":5,"arguments":{}}"#,
            r#"{"name":"f","arguments":[1]}"#,
            r#"{"name":"f","arguments":"no JSON"}"#,
            r#"{"name":"f","arguments":"{\"x\":}"}"#,
            r#"{"name":"f","name":"g","arguments":{}}"#,
            r#"["f",{}]"#,
            r#"[["f",{},{}]]"#,
        ];
        for json in cases {
            assert_eq!(read(json), None, "{json}");
        }
        let many = format!(
            "[{}]",
            vec![r#"{"name":"f","arguments":{}}"#; 129].join(",")
        );
        assert_eq!(read(&many), None);
    }

    #[test]
    fn behind_a_mark_any_name_and_no_arguments_will_do() {
        let calls = calls(r#"{"name":"unheard of"}"#, Names::Any).unwrap();
        assert_eq!(
            (&*calls[0].name, &*calls[0].arguments),
            ("unheard of", "{}")
        );
        assert!(super::calls(r#"{"name":""}"#, Names::Any).is_none());
    }
}
