//! Writes a template's value as text the way Python's `str` does.

use std::fmt::Write;
use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use regex::Regex;

/// A value as it is printed. Whoever calls this has paid for the value, so it is not nested too deep.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            repr(value, &mut out)?
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(out)
}

/// The notation of a value in a list or a mapping.
fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => out.push_str(&number(value)?),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => sequence(value, out)?,
        ValueKind::Map => mapping(value, out)?,
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn sequence(value: &Value, out: &mut String) -> Result<(), Error> {
    let is_tuple = value.is_tuple();
    out.push(if is_tuple { '(' } else { '[' });
    let mut n_items = 0;
    for item in value.try_iter()? {
        if n_items > 0 {
            out.push_str(", ");
        }
        repr(&item, out)?;
        n_items += 1;
    }
    out.push_str(match (is_tuple, n_items) {
        (true, 1) => ",)",
        (true, _) => ")",
        (false, _) => "]",
    });
    Ok(())
}

fn mapping(value: &Value, out: &mut String) -> Result<(), Error> {
    out.push('{');
    for (index, key) in value.try_iter()?.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        repr(&key, out)?;
        out.push_str(": ");
        repr(&value.get_item(&key)?, out)?;
    }
    out.push('}');
    Ok(())
}

fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => escaped(character, out),
        }
    }
    out.push(quote);
}

fn escaped(character: char, out: &mut String) {
    let code = u32::from(character);
    let written = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("a String takes everything");
}

/// Everything but control and format characters, separators other than the space, and what no character was given to.
fn is_printable(character: char) -> bool {
    static OTHERS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}]$").expect("the pattern is ours"));
    match character {
        ' '..='~' => true,
        // The guard must stay recognisable, and no text of a request holds it.
        super::GUARD => true,
        _ => !OTHERS.is_match(character.encode_utf8(&mut [0; 4])),
    }
}

/// Integers as they are, floats as Python writes them.
pub(super) fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(float(f64::try_from(value.clone())?))
}

/// The shortest digits that read back as the same number; an exponent below 1e-4 and from 1e16 upwards.
fn float(number: f64) -> String {
    if !number.is_finite() {
        let name = if number.is_nan() { "nan" } else { "inf" };
        return format!("{}{name}", if number < 0.0 { "-" } else { "" });
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let short = format!("{number:e}");
        let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
        let (sign, exponent) = exponent
            .strip_prefix('-')
            .map_or(('+', exponent), |rest| ('-', rest));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let plain = number.to_string();
    if plain.contains('.') {
        plain
    } else {
        format!("{plain}.0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (number, expected) in cases {
            assert_eq!(float(number), expected);
        }
    }
}
