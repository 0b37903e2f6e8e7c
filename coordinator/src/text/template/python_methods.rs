//! Methods of Python's texts that the engine lacks, or has with Rust's notion of white space and lines.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::weigh;

/// The engine's way to methods of values.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => text_method(state, text, method, arguments)?,
        None if matches!(value.kind(), ValueKind::Map | ValueKind::Seq) && method == "copy" => {
            let () = from_args(arguments)?;
            Some(value.clone())
        }
        None => None,
    };
    own.map_or_else(
        || minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments),
        Ok,
    )
}

fn text_method(
    state: &State,
    text: &str,
    method: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    let result = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            Value::from(stripped(text, characters, Ends::of(method)))
        }
        "split" | "rsplit" => split(state, text, method == "rsplit", arguments)?,
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(arguments)?;
            list(state, lines(text, keep_ends.unwrap_or(false)))?
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            let parts = partition(text, check_separator(separator)?, method == "rpartition");
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "title" => {
            let () = from_args(arguments)?;
            Value::from(title(text))
        }
        "join" => {
            let (items,): (&Value,) = from_args(arguments)?;
            Value::from(join(state, text, items)?)
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Which ends of a text are stripped.
#[derive(Clone, Copy)]
struct Ends {
    left: bool,
    right: bool,
}

impl Ends {
    fn of(method: &str) -> Ends {
        Ends {
            left: method != "rstrip",
            right: method != "lstrip",
        }
    }
}

fn stripped<'a>(mut text: &'a str, characters: Option<&str>, ends: Ends) -> &'a str {
    let goes = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    };
    if ends.left {
        text = text.trim_start_matches(goes);
    }
    if ends.right {
        text = text.trim_end_matches(goes);
    }
    text
}

/// `value|trim`, with other characters than white space on request.
pub(super) fn trim(text: &str, characters: Option<&str>) -> String {
    stripped(text, characters, Ends::of("strip")).to_owned()
}

/// Python counts four control characters, which separate files, groups, records and units, as white space.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

fn split(state: &State, text: &str, from_right: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, limit, options): (Option<&str>, Option<i64>, Kwargs) = from_args(arguments)?;
    let separator = match separator {
        None => options.get::<Option<&str>>("sep")?,
        given => given,
    };
    let limit = match limit {
        None => options.get::<Option<i64>>("maxsplit")?,
        given => given,
    };
    options.assert_all_used()?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    match (separator, from_right) {
        (Some(separator), false) => {
            let limit = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            list(state, text.splitn(limit, check_separator(separator)?))
        }
        (Some(separator), true) => {
            let limit = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(limit, check_separator(separator)?).collect();
            parts.reverse();
            list(state, parts.into_iter())
        }
        (None, false) => list(state, words(text, limit)),
        (None, true) => Err(refuse("rsplit needs a separator")),
    }
}

/// What stands between white space; what is left after `limit` words in one piece.
fn words(text: &str, limit: Option<usize>) -> impl Iterator<Item = &str> {
    let mut rest = text.trim_start_matches(is_space);
    let mut left = limit.unwrap_or(usize::MAX);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(is_space).filter(|_| left > 0);
        left = left.saturating_sub(1);
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.trim_start_matches(is_space);
        Some(word)
    })
}

pub(super) fn lines(text: &str, keep_ends: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (start, end) = match rest.char_indices().find(|&(_, c)| ends_line(c)) {
            Some((at, '\r')) if rest[at + 1..].starts_with('\n') => (at, at + 2),
            Some((at, character)) => (at, at + character.len_utf8()),
            None if rest.is_empty() => return None,
            None => (rest.len(), rest.len()),
        };
        let line = &rest[..if keep_ends { end } else { start }];
        rest = &rest[end..];
        Some(line)
    })
}

fn ends_line(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// What stands before a separator, the separator, what stands behind it; the whole text on its side if there is none.
fn partition<'a>(text: &'a str, separator: &'a str, from_right: bool) -> [&'a str; 3] {
    if from_right {
        let found = text.rsplit_once(separator);
        found.map_or(["", "", text], |(before, after)| [before, separator, after])
    } else {
        let found = text.split_once(separator);
        found.map_or([text, "", ""], |(before, after)| [before, separator, after])
    }
}

/// Every letter that follows no letter is a capital.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        if in_word {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
        in_word = character.is_lowercase() || character.is_uppercase();
    }
    out
}

fn join(state: &State, separator: &str, items: &Value) -> Result<String, Error> {
    if items.is_none() {
        return Err(refuse("none cannot be joined"));
    }
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let item = item.as_str();
        let item = item.ok_or_else(|| refuse("only texts can be joined"))?;
        state.consume_fuel(1 + (separator.len() + item.len()) as u64 / weigh::BYTES_PER_FUEL)?;
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(item);
    }
    Ok(out)
}

fn list<'a>(state: &State, parts: impl Iterator<Item = &'a str>) -> Result<Value, Error> {
    weigh::listed(state, parts.map(Value::from)).map(Value::from)
}

fn check_separator(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() {
        return Err(refuse("a separator has to be longer than nothing"));
    }
    Ok(separator)
}

fn refuse(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
