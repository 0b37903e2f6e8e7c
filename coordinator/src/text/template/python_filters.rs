//! Filters where the engine's give something else than Python's.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::glue::MAX_INDENT;
use super::python_ops::{iterable, plain_text};
use super::{python_methods, python_str, weigh};

pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter("indent", indent);
    environment.add_filter("join", join);
    environment.add_filter("list", list);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    for name in ["escape", "e"] {
        environment.add_filter(name, escape);
    }
}

fn string(state: &State, value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::String {
        return Ok(value);
    }
    plain_text(state, value)
}

fn trim(state: &State, value: Value, characters: Option<&str>) -> Result<Value, Error> {
    let text = string(state, value)?;
    let text = text.as_str().unwrap_or_default();
    Ok(Value::from(python_methods::trim(text, characters)))
}

/// The lines of a text moved to the right: not the first and no empty ones, unless asked for.
fn indent(
    state: &State,
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let margin = margin(width.or(options.get("width")?))?;
    let first = first.or(options.get("first")?).unwrap_or(false);
    let blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    let text = format!("{text}\n");
    let mut out = String::new();
    for (index, line) in python_methods::lines(&text, false).enumerate() {
        let bytes = (margin.len() + line.len()) as u64;
        state.consume_fuel(1 + bytes / weigh::BYTES_PER_FUEL)?;
        if index > 0 {
            out.push('\n');
        }
        let moved = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if moved {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// A number of spaces, four unless given, or a text.
fn margin(width: Option<Value>) -> Result<String, Error> {
    let Some(width) = width else {
        return Ok(" ".repeat(4));
    };
    let margin = match width.as_str() {
        Some(text) => Some(text.to_owned()),
        None => width
            .as_usize()
            .map(|width| " ".repeat(width.min(MAX_INDENT + 1))),
    };
    margin
        .filter(|margin| margin.len() <= MAX_INDENT)
        .ok_or_else(|| refuse(format!("indent takes at most {MAX_INDENT} characters")))
}

fn join(
    state: &mut State,
    value: Value,
    separator: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let mut value = iterable(value)?;
    if let Some(attribute) = options.get::<Option<Value>>("attribute")? {
        let attribute = Value::from(Kwargs::from_iter([("attribute", attribute)]));
        value = state.apply_filter("map", &[value, attribute])?;
    }
    options.assert_all_used()?;
    let separator = match separator {
        Some(separator) => plain_text(state, separator)?,
        None => Value::from(""),
    };
    let separator = separator.as_str().unwrap_or_default();
    let mut out = String::new();
    for (index, item) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        weigh::pay(state, &item)?;
        let text = python_str::text(&item)?;
        state.consume_fuel(1 + (separator.len() + text.len()) as u64 / weigh::BYTES_PER_FUEL)?;
        out.push_str(&text);
    }
    Ok(Value::from(out))
}

fn list(state: &State, value: Value) -> Result<Value, Error> {
    weigh::listed(state, iterable(value)?.try_iter()?).map(Value::from)
}

/// A whole number, or the default, which is 0, for what is none.
fn int(value: Value, default: Option<Value>, base: Option<u32>) -> Result<Value, Error> {
    let number = match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::Number if value.is_integer() => return Ok(value),
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number => whole(f64::try_from(value)?),
        ValueKind::String => int_in(value.as_str().unwrap_or_default(), base.unwrap_or(10)),
        _ => None,
    };
    Ok(match number {
        Some(number) => i64::try_from(number).map_or_else(|_| Value::from(number), Value::from),
        None => default.unwrap_or_else(|| Value::from(0)),
    })
}

fn int_in(text: &str, base: u32) -> Option<i128> {
    let text = python_methods::trim(text, None);
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = text.strip_prefix(prefix).unwrap_or(&text);
    let number = (2..=36)
        .contains(&base)
        .then(|| i128::from_str_radix(digits, base).ok());
    number.flatten().or_else(|| whole(text.parse().ok()?))
}

fn whole(number: f64) -> Option<i128> {
    (number.abs() < 1e38).then_some(number as i128)
}

/// A number with a fraction, or the default, which is 0, for what is none.
fn float(value: Value, default: Option<Value>) -> Result<Value, Error> {
    let number = match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value).ok(),
        ValueKind::String => python_methods::trim(value.as_str().unwrap_or_default(), None)
            .parse()
            .ok(),
        _ => None,
    };
    Ok(match number {
        Some(number) => Value::from(number),
        None => default.unwrap_or_else(|| Value::from(0.0)),
    })
}

fn default(
    value: Value,
    otherwise: Option<Value>,
    boolean: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let boolean = boolean.or(options.get("boolean")?).unwrap_or(false);
    let otherwise = match otherwise {
        None => options.get::<Option<Value>>("default_value")?,
        given => given,
    };
    options.assert_all_used()?;
    if value.is_undefined() || (boolean && !value.is_true()) {
        return Ok(otherwise.unwrap_or_else(|| Value::from("")));
    }
    Ok(value)
}

fn escape(state: &State, value: Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value);
    }
    let text = plain_text(state, value)?;
    Ok(Value::from_safe_string(escaped(
        text.as_str().unwrap_or_default(),
    )))
}

/// A text as HTML shows it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(character),
        }
    }
    out
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
