//! `logit_bias` as it is written: OpenAI's `{"1734": -100}`, or llama.cpp's `[[1734, -100], ["Hello", 0.5], [9, false]]`.

use std::fmt;

use potluck_proto::limits;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::field::Bounded;
use crate::answer::{Bias, Biased};

/// Entries of one request; OpenAI takes 300.
const MAX_BIASES: usize = 1024;

/// At and below this a token is forbidden: what OpenAI promises for its lowest value.
const FORBIDDEN: f64 = -100.0;

/// Every entry, in order.
pub(super) struct LogitBias(pub Vec<Bias>);

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LogitBiasVisitor)
    }
}

struct LogitBiasVisitor;

impl<'de> Visitor<'de> for LogitBiasVisitor {
    type Value = LogitBias;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with token ids for keys, or a list of pairs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<LogitBias, A::Error> {
        let mut biases = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            if biases.len() == MAX_BIASES {
                return Err(A::Error::custom(format!("more than {MAX_BIASES} entries")));
            }
            let Change(bias) = entries.next_value()?;
            let of = Biased::Token(id_of(&key)?);
            biases.push(Bias { of, bias });
        }
        Ok(LogitBias(biases))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<LogitBias, A::Error> {
        let list = SeqAccessDeserializer::new(entries);
        let Bounded(pairs) = Bounded::<(Target, Change), MAX_BIASES>::deserialize(list)?;
        let biases = pairs
            .into_iter()
            .map(|(Target(of), Change(bias))| Bias { of, bias });
        Ok(LogitBias(biases.collect()))
    }
}

fn id_of<E: Error>(key: &str) -> Result<u64, E> {
    let is_id = key.bytes().all(|byte| byte.is_ascii_digit());
    let id = key.parse().ok().filter(|_| is_id);
    id.ok_or_else(|| E::invalid_value(Unexpected::Str(key), &"a token id for a key"))
}

/// A token's id, or a text.
struct Target(Biased);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetVisitor;

impl Visitor<'_> for TargetVisitor {
    type Value = Target;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id or a text")
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Target, E> {
        Ok(Target(Biased::Token(id)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Target, E> {
        match text.is_empty() {
            true => Err(E::invalid_value(Unexpected::Str(text), &self)),
            false => Ok(Target(Biased::Text(text.to_owned()))),
        }
    }
}

/// What is added to a logit: a number, or `false` for minus infinity.
struct Change(f32);

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChangeVisitor)
    }
}

struct ChangeVisitor;

impl Visitor<'_> for ChangeVisitor {
    type Value = Change;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = limits::MAX_LOGIT_BIAS;
        write!(f, "a number between -{limit} and {limit}, or false")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Change, E> {
        match value {
            false => Ok(Change(f32::NEG_INFINITY)),
            true => Err(E::invalid_value(Unexpected::Bool(value), &self)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Change, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Change, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Change, E> {
        let limit = f64::from(limits::MAX_LOGIT_BIAS);
        if !(-limit..=limit).contains(&value) {
            return Err(E::invalid_value(Unexpected::Float(value), &self));
        }
        Ok(Change(match value <= FORBIDDEN {
            true => f32::NEG_INFINITY,
            false => value as f32,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Bias>, String> {
        let parsed = serde_json::from_str::<LogitBias>(json);
        parsed
            .map(|LogitBias(biases)| biases)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn both_notations_mean_the_same() {
        let token = |id, bias| Bias {
            of: Biased::Token(id),
            bias,
        };
        let text = Bias {
            of: Biased::Text("hi".into()),
            bias: -2.0,
        };
        let never = f32::NEG_INFINITY;
        let biases = vec![
            token(5, 1.5),
            token(7, -99.0),
            token(9, never),
            token(11, never),
        ];
        let map = r#"{"5": 1.5, "7": -99, "9": -100, "11": false}"#;
        assert_eq!(parse(map), Ok(biases.clone()));
        let list = r#"[[5, 1.5], [7, -99], [9, -100.5], [11, false], ["hi", -2]]"#;
        assert_eq!(parse(list), Ok([biases, vec![text]].concat()));
        assert_eq!(parse("{}"), Ok(vec![]));
        assert_eq!(parse("[]"), Ok(vec![]));
    }

    #[test]
    fn anything_else_is_refused() {
        let many: Vec<_> = (0..1025).map(|i| format!("[{i},1]")).collect();
        let many_keys: Vec<_> = (0..1025).map(|i| format!("\"{i}\":1")).collect();
        let cases = [
            r#""5""#.to_owned(),
            "5".into(),
            r#"{"five": 1}"#.into(),
            r#"{"-5": 1}"#.into(),
            r#"{"+5": 1}"#.into(),
            r#"{"": 1}"#.into(),
            r#"{"99999999999999999999": 1}"#.into(),
            r#"{"5": true}"#.into(),
            r#"{"5": null}"#.into(),
            r#"{"5": "1"}"#.into(),
            r#"{"5": 10001}"#.into(),
            r#"{"5": -1e300}"#.into(),
            "[5, 1]".into(),
            "[[5]]".into(),
            "[[5, 1, 2]]".into(),
            "[[-5, 1]]".into(),
            "[[5.5, 1]]".into(),
            r#"[["", 1]]"#.into(),
            "[[[5], 1]]".into(),
            format!("[{}]", many.join(",")),
            format!("{{{}}}", many_keys.join(",")),
        ];
        for json in cases {
            assert!(parse(&json).is_err(), "{json}");
        }
    }
}
