//! What chat templates expect beyond Jinja: the functions, filters, methods and tags that the Python side offers them.

use std::error::Error as _;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use regex::Regex;

use super::python_json::{self, Layout};
use super::{python_filters, python_methods, python_ops, weigh};

/// The name of the template in error messages.
pub(super) const NAME: &str = "chat";

/// Nesting of calls, macros and includes. Real templates stay under 20; the engine's own limit of 500 would need more stack
/// than a runtime's worker thread has in an unoptimised build.
const RECURSION_LIMIT: usize = 120;

/// The widest indentation, so that a template cannot multiply its output by it.
pub(super) const MAX_INDENT: usize = 64;

/// Everything that a template may use.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_unknown_method_callback(python_methods::call);
    environment.add_filter("tojson", tojson);
    environment.add_filter("from_json", from_json);
    environment.add_function("raise_exception", raise_exception);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    weigh::install(&mut environment);
    python_ops::install(&mut environment);
    python_filters::install(&mut environment);
    environment
}

/// White space around tags as the Python side sets it.
pub(super) fn syntax() -> Result<SyntaxConfig, Error> {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
}

/// `{% generation %}` marks what a trainer learns from; in a prompt it means nothing, but its white space control does, and
/// that what is set inside stays inside.
pub(super) fn without_generation_tags(source: &str) -> String {
    let Ok(tag) = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}") else {
        return source.to_owned(); // The pattern is ours and compiles; a test sees to it.
    };
    let replaced = tag.replace_all(source, |tag: &regex::Captures<'_>| {
        let word = if tag.get(2).is_some() {
            "endwith"
        } else {
            "with"
        };
        format!("{{%{} {word} {}%}}", &tag[1], &tag[3])
    });
    replaced.into_owned()
}

/// As in Python, where `None` cannot be iterated over: templates ask before they measure the length of `tools`.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// What has a length and items, which texts and mappings have too.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Map | Seq | String | Undefined)
}

/// The marker by which `refusal` knows an error that the template raised on purpose.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The message of an error that the template raised, wherever in its macros it did.
pub(super) fn refusal(error: &Error) -> Option<String> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return Some(message.clone());
        }
        source = cause.source();
    }
    None
}

/// The function that shows the date in local time. An impossible format is the template's error.
pub(super) fn strftime(now: SystemTime) -> Value {
    Value::from_function(move |format: &str| -> Result<String, Error> {
        let timestamp = jiff::Timestamp::try_from(now);
        let local = timestamp.map(|timestamp| timestamp.to_zoned(jiff::tz::TimeZone::system()));
        let text = local.and_then(|local| jiff::fmt::strtime::format(format, &local));
        text.map_err(|error| {
            Error::new(
                ErrorKind::InvalidOperation,
                format!("strftime_now: {error}"),
            )
        })
    })
}

/// `json.dumps` as templates know it: its separators, nothing escaped for HTML.
fn tojson(
    state: &State,
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let layout = Layout {
        ensure_ascii: ensure_ascii
            .or(options.get("ensure_ascii")?)
            .unwrap_or(false),
        indent: indent(options.get("indent")?)?,
        separators: separators(options.get("separators")?)?,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let charge = |bytes: usize| state.consume_fuel(1 + bytes as u64 / weigh::BYTES_PER_FUEL);
    python_json::write(value, &layout, &charge).map(Value::from)
}

fn indent(value: Option<Value>) -> Result<Option<usize>, Error> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    let width = value
        .as_usize()
        .filter(|&width| width <= MAX_INDENT && value.kind() == ValueKind::Number);
    width.map(Some).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidOperation,
            format!("tojson: indent must be a number from 0 to {MAX_INDENT}"),
        )
    })
}

/// The pair that `json.dumps` takes: between items, and between a key and its value.
fn separators(value: Option<Value>) -> Result<Option<(String, String)>, Error> {
    let Some(value) = value.filter(|value| !value.is_none()) else {
        return Ok(None);
    };
    let texts: Vec<String> = value
        .try_iter()?
        .take(3)
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect();
    match <[String; 2]>::try_from(texts) {
        Ok([item, key]) => Ok(Some((item, key))),
        Err(_) => Err(Error::new(
            ErrorKind::InvalidOperation,
            "tojson: separators must be two texts",
        )),
    }
}

fn from_json(text: &str) -> Result<Value, Error> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("from_json: {error}")))?;
    Ok(Value::from(minijinja::value::Serde(&value)))
}
