//! What a template's values cost: a walk through a value that pays for every part of it, however often it is shared.
//!
//! Every container is weighed when it is made, so no value in a template is nested deeper than `MAX_DEPTH` or weighs more
//! than the fuel that was paid for it; see `armour` for where the checks stand.

use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

use super::python_str;

/// Names of the checks as filters. No template can spell them.
pub(super) const PAY: &str = "\0pay";
pub(super) const SOLID: &str = "\0solid";
pub(super) const STORABLE: &str = "\0storable";

/// Containers in containers. Requests nest no deeper than 128 and tool schemas rarely beyond 10; values from a request are
/// not made by the template, so only what it wraps around them counts here.
const MAX_DEPTH: usize = 160;

/// Bytes for one unit of fuel, as the engine itself counts.
pub(super) const BYTES_PER_FUEL: u64 = 64;

/// Real templates have constants of a few dozen items; the engine's own limit for folded texts is 1 024 bytes.
const MAX_CONSTANT: u64 = 10_000;

/// Slots of a list for one unit of fuel: 24 bytes each.
const SLOTS_PER_FUEL: usize = 2;

/// Filters that give back parts of their input, no deeper and no heavier than it: they need not be weighed again.
pub(super) const FLAT_FILTERS: &[&str] = &[
    "count",
    "d",
    "default",
    "first",
    "last",
    "length",
    "list",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "select",
    "selectattr",
    "sort",
    "unique",
];

/// Makes the checks known to an environment, and puts prices on what the engine offers free of charge.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter(PAY, |state: &State, value: Value| {
        pay(state, &value).map(|()| value)
    });
    environment.add_filter(SOLID, solid);
    environment.add_filter(STORABLE, storable);
    // Lazily chained containers, and a function that prints everything there is.
    environment.remove_filter("chain");
    environment.remove_global("debug");
    environment.set_formatter(|out, state, value| {
        pay(state, value)?;
        match value.kind() {
            ValueKind::Number | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map
                if *state.auto_escape() == AutoEscape::None =>
            {
                out.write_str(&python_str::text(value)?)
                    .map_err(Error::from)
            }
            _ => minijinja::escape_formatter(out, state, value),
        }
    });
    comparisons(environment);
}

/// The comparing tests, which `selectattr` and its kin reach by name, with the price of what they compare.
fn comparisons(environment: &mut Environment<'_>) {
    type Compare = fn(&Value, &Value) -> bool;
    let tests: [(&[&'static str], Compare); 6] = [
        (&["eq", "equalto", "=="], |a, b| a == b),
        (&["ne", "!="], |a, b| a != b),
        (&["lt", "lessthan", "<"], |a, b| a < b),
        (&["le", "<="], |a, b| a <= b),
        (&["gt", "greaterthan", ">"], |a, b| a > b),
        (&["ge", ">="], |a, b| a >= b),
    ];
    for (names, compare) in tests {
        for &name in names {
            environment.add_test(name, move |state: &State, left: &Value, right: &Value| {
                pay(state, right).map(|()| compare(left, right))
            });
        }
    }
    environment.add_test("in", |state: &State, item: &Value, container: &Value| {
        pay(state, container)?;
        minijinja::tests::is_in(state, item, container)
    });
}

/// Pays for a value and everything in it.
pub(super) fn pay(state: &State, value: &Value) -> Result<(), Error> {
    weigh(&mut |fuel| state.consume_fuel(fuel), value, 0)
}

/// A constant of the template may weigh `MAX_CONSTANT`; it is used without paying again.
pub(super) fn check_constant(value: &Value) -> Result<(), Error> {
    let mut left = MAX_CONSTANT;
    let mut charge = |fuel| {
        left = left
            .checked_sub(fuel)
            .ok_or_else(|| refuse("a constant is too large"))?;
        Ok(())
    };
    weigh(&mut charge, value, 0)
}

fn weigh(
    charge: &mut dyn FnMut(u64) -> Result<(), Error>,
    value: &Value,
    depth: usize,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Bytes if depth > 0 => {
            let bytes = value.as_bytes().map_or(0, <[u8]>::len) as u64;
            return charge(1 + bytes / BYTES_PER_FUEL);
        }
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {}
        _ => return Ok(()),
    }
    if depth > MAX_DEPTH {
        return Err(refuse("values are nested too deep"));
    }
    if depth > 0 {
        check_storable(value)?;
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        charge(1)?;
        weigh(charge, &item, depth + 1)?;
        if is_map {
            weigh(charge, &value.get_item(&item)?, depth + 1)?;
        }
    }
    Ok(())
}

/// Turns what is computed on demand into a list, so that laziness cannot be piled up.
fn solid(state: &State, value: Value) -> Result<Value, Error> {
    let lazy = value.kind() == ValueKind::Iterable;
    let sum = value.kind() == ValueKind::Seq
        && !value.is_tuple()
        && value.downcast_object_ref::<Vec<Value>>().is_none();
    if !lazy && !sum {
        return Ok(value);
    }
    listed(state, value.try_iter()?).map(Value::from)
}

/// All these items, paid for by their number.
pub(super) fn listed(
    state: &State,
    items: impl Iterator<Item = Value>,
) -> Result<Vec<Value>, Error> {
    let mut list = Vec::new();
    for item in items {
        if list.len() % SLOTS_PER_FUEL == 0 {
            state.consume_fuel(1)?;
        }
        list.push(item);
    }
    Ok(list)
}

fn storable(value: Value) -> Result<Value, Error> {
    check_storable(&value).map(|()| value)
}

/// A namespace that holds itself would never be freed, and printing it would never end.
fn check_storable(value: &Value) -> Result<(), Error> {
    if is_namespace(value) {
        Err(refuse("a namespace cannot be put into another value"))
    } else {
        Ok(())
    }
}

pub(super) fn is_namespace(value: &Value) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn refuse(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
