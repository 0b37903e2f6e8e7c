//! Operators as Python has them, where the engine's are more lenient or give something else.
//!
//! They are filters that `armour` puts in the place of the engine's instructions. No template can spell their names.

use std::cmp::Ordering;

use minijinja::value::{Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::{python_filters, python_str, weigh};

pub(super) const SUM: &str = "\0+";
pub(super) const IN: &str = "\0in";
pub(super) const LESS: &str = "\0<";
pub(super) const LESS_OR_EQUAL: &str = "\0<=";
pub(super) const GREATER: &str = "\0>";
pub(super) const GREATER_OR_EQUAL: &str = "\0>=";
/// An operand of `~`.
pub(super) const TEXT: &str = "\0text";
/// What a loop runs over.
pub(super) const ITERABLE: &str = "\0iterable";

/// Attributes that every mapping has, its methods, whatever its keys; and the filter that looks each of them up.
const METHODS: &[(&str, &str)] = &[
    ("copy", "\0.copy"),
    ("fromkeys", "\0.fromkeys"),
    ("get", "\0.get"),
    ("items", "\0.items"),
    ("keys", "\0.keys"),
    ("values", "\0.values"),
];

pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter(SUM, sum);
    environment.add_filter(IN, is_in);
    environment.add_filter(TEXT, plain_text);
    environment.add_filter(ITERABLE, iterable);
    type Holds = fn(Ordering) -> bool;
    let comparisons: [(&str, Holds); 4] = [
        (LESS, Ordering::is_lt),
        (LESS_OR_EQUAL, Ordering::is_le),
        (GREATER, Ordering::is_gt),
        (GREATER_OR_EQUAL, Ordering::is_ge),
    ];
    for (name, holds) in comparisons {
        environment.add_filter(name, move |state: &State, left: Value, right: Value| {
            compare(state, &left, &right).map(|order| order.is_some_and(holds))
        });
    }
    for &(name, filter) in METHODS {
        environment.add_filter(filter, move |value: Value| attribute(&value, name));
    }
}

/// The filter that looks up an attribute which is a method of mappings.
pub(super) fn method_lookup(attribute: &str) -> Option<&'static str> {
    let found = METHODS.iter().find(|(name, _)| *name == attribute);
    found.map(|(_, filter)| *filter)
}

/// `left + right`: numbers, texts, lists or tuples.
fn sum(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    use ValueKind::{Bool, Number, Seq, String};
    match (left.kind(), right.kind()) {
        (String, String) => Ok(text_sum(&left, &right)),
        (Number | Bool, Number | Bool) => number_sum(&left, &right),
        (Seq, Seq) if left.is_tuple() == right.is_tuple() => {
            weigh::pay(state, &right)?;
            let items = weigh::listed(state, left.try_iter()?.chain(right.try_iter()?))?;
            Ok(if left.is_tuple() {
                Value::from(Tuple::from(items))
            } else {
                Value::from(items)
            })
        }
        (left, right) => Err(refuse(format!("cannot add {right} to {left}"))),
    }
}

/// A text that is marked safe escapes what is added to it.
fn text_sum(left: &Value, right: &Value) -> Value {
    let is_safe = left.is_safe() || right.is_safe();
    let part = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        if is_safe && !value.is_safe() {
            python_filters::escaped(text)
        } else {
            text.to_owned()
        }
    };
    let text = part(left) + &part(right);
    if is_safe {
        Value::from_safe_string(text)
    } else {
        Value::from(text)
    }
}

fn number_sum(left: &Value, right: &Value) -> Result<Value, Error> {
    let integer = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        let sum = left.checked_add(right);
        let sum = sum.ok_or_else(|| refuse("a sum is too large".to_owned()))?;
        return Ok(i64::try_from(sum).map_or_else(|_| Value::from(sum), Value::from));
    }
    let float = |value: &Value| match integer(value) {
        Some(integer) => Ok(integer as f64),
        None => f64::try_from(value.clone()),
    };
    Ok(Value::from(float(left)? + float(right)?))
}

/// Values of a kind, in their order; `None` where there is none.
fn compare(state: &State, left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    use ValueKind::{Bool, Number, Seq, String};
    match (left.kind(), right.kind()) {
        (Number | Bool, Number | Bool) | (String, String) => {}
        (Seq, Seq) if left.is_tuple() == right.is_tuple() => weigh::pay(state, right)?,
        (left, right) => return Err(refuse(format!("cannot compare {left} with {right}"))),
    }
    Ok(left.partial_cmp(right))
}

fn is_in(state: &State, item: &Value, container: &Value) -> Result<bool, Error> {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    match (item.kind(), container.kind()) {
        (String, String) | (_, Iterable | Map | Seq | Undefined) => {}
        (item, container) => return Err(refuse(format!("no {item} can be in a {container}"))),
    }
    weigh::pay(state, container)?;
    minijinja::tests::is_in(state, item, container)
}

/// A value as text, not marked safe any more.
pub(super) fn plain_text(state: &State, value: Value) -> Result<Value, Error> {
    weigh::pay(state, &value)?;
    python_str::text(&value).map(Value::from)
}

/// The engine takes none for an empty list.
pub(super) fn iterable(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(refuse("none is not iterable".to_owned()));
    }
    Ok(value)
}

/// A method that is looked at and not called.
#[derive(Debug)]
struct Method;

impl Object for Method {
    fn repr(self: &std::sync::Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(ErrorKind::UndefinedError.into());
    }
    if value.kind() == ValueKind::Map && !weigh::is_namespace(value) {
        return Ok(Value::from_object(Method));
    }
    value.get_attr(name)
}

fn refuse(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
