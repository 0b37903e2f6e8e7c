//! Writes a template's value as JSON the way Python's `json.dumps` does, which is what models were trained on.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use super::python_str;

/// Values nested deeper than this are refused; requests are limited to 128 already, but a template can nest further.
const MAX_DEPTH: usize = 128;

/// The options of `json.dumps` that templates use.
pub(super) struct Layout {
    pub ensure_ascii: bool,
    pub indent: Option<usize>,
    /// Between items, and between a key and its value.
    pub separators: Option<(String, String)>,
    pub sort_keys: bool,
}

/// Pays for the bytes that were written since the last call.
pub(super) type Charge<'a> = &'a dyn Fn(usize) -> Result<(), Error>;

pub(super) fn write(value: &Value, layout: &Layout, charge: Charge<'_>) -> Result<String, Error> {
    let (item, key) = match (&layout.separators, layout.indent) {
        (Some((item, key)), _) => (item.as_str(), key.as_str()),
        (None, Some(_)) => (",", ": "),
        (None, None) => (", ", ": "),
    };
    let mut writer = Writer {
        out: String::new(),
        paid: 0,
        layout,
        item,
        key,
        charge,
    };
    writer.value(value, 0)?;
    writer.pay()?;
    Ok(writer.out)
}

struct Writer<'a> {
    out: String,
    paid: usize,
    layout: &'a Layout,
    item: &'a str,
    key: &'a str,
    charge: Charge<'a>,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refuse(format!("values nested deeper than {MAX_DEPTH}")));
        }
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            kind => return Err(refuse(format!("a value of type {kind}"))),
        }
        Ok(())
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut first = true;
        for item in value.try_iter()? {
            self.separate(&mut first, depth);
            self.value(&item, depth + 1)?;
        }
        self.close(']', first, depth);
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.layout.sort_keys {
            keys.sort();
        }
        self.out.push('{');
        let mut first = true;
        for key in keys {
            self.separate(&mut first, depth);
            self.map_key(&key)?;
            self.out.push_str(self.key);
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.close('}', first, depth);
        Ok(())
    }

    /// Keys that are no strings are written as strings of their JSON.
    fn map_key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None => self.out.push_str("\"null\""),
            ValueKind::Bool => self.out.push_str(if key.is_true() {
                "\"true\""
            } else {
                "\"false\""
            }),
            ValueKind::Number => {
                let number = number(key)?;
                self.string(&number);
            }
            kind => return Err(refuse(format!("a key of type {kind}"))),
        }
        Ok(())
    }

    fn separate(&mut self, first: &mut bool, depth: usize) {
        if !std::mem::replace(first, false) {
            self.out.push_str(self.item);
        }
        self.new_line(depth + 1);
    }

    fn close(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(width) = self.layout.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                // The guard must stay recognisable, and no text of a request holds it.
                super::GUARD => self.out.push(character),
                _ if character < ' ' || (self.layout.ensure_ascii && character > '~') => {
                    self.escape(character)
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            self.out.push_str(&format!("\\u{unit:04x}"));
        }
    }

    fn pay(&mut self) -> Result<(), Error> {
        (self.charge)(self.out.len() - self.paid)?;
        self.paid = self.out.len();
        Ok(())
    }
}

/// As Python prints it, but for what JSON has no notation for.
fn number(value: &Value) -> Result<String, Error> {
    let float = f64::try_from(value.clone()).ok();
    Ok(match float.filter(|float| !float.is_finite()) {
        Some(float) if float.is_nan() => "NaN".to_owned(),
        Some(float) => format!("{}Infinity", if float < 0.0 { "-" } else { "" }),
        None => python_str::number(value)?,
    })
}

fn refuse(what: String) -> Error {
    Error::new(
        ErrorKind::BadSerialization,
        format!("tojson cannot write {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dumps(value: serde_json::Value, layout: Layout) -> String {
        write(
            &Value::from(minijinja::value::Serde(value)),
            &layout,
            &|_| Ok(()),
        )
        .unwrap()
    }

    fn plain() -> Layout {
        Layout {
            ensure_ascii: false,
            indent: None,
            separators: None,
            sort_keys: false,
        }
    }

    #[test]
    fn writes_what_python_writes() {
        let value = json!({"b": [1, -2.5, 1.0, true, null, {}, []], "a": "<é>\n\"\u{1}\u{7f}"});
        assert_eq!(
            dumps(value.clone(), plain()),
            "{\"b\": [1, -2.5, 1.0, true, null, {}, []], \"a\": \"<é>\\n\\\"\\u0001\u{7f}\"}"
        );
        let ascii = Layout {
            ensure_ascii: true,
            sort_keys: true,
            separators: Some((",".into(), ":".into())),
            ..plain()
        };
        assert_eq!(
            dumps(json!({"b": "é😀", "a": 1}), ascii),
            r#"{"a":1,"b":"\u00e9\ud83d\ude00"}"#
        );
        let indented = Layout {
            indent: Some(2),
            ..plain()
        };
        assert_eq!(
            dumps(json!({"a": [1, 2], "b": {}}), indented),
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {}\n}"
        );
    }

    #[test]
    fn numbers_that_json_does_not_have() {
        let cases = [
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
            (1e16, "1e+16"),
        ];
        for (float, expected) in cases {
            assert_eq!(number(&Value::from(float)).unwrap(), expected);
        }
    }

    #[test]
    fn too_deep_is_an_error() {
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        let error = write(
            &Value::from(minijinja::value::Serde(deep)),
            &plain(),
            &|_| Ok(()),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("128"), "{error}");
    }
}
