//! Takes the body of a call character by character until its JSON is complete, or cannot become a call any more.
//!
//! It looks at brackets, strings and the characters between them. Whether the whole is JSON is asked once, at its end.

use super::form::{ARGS, CALL_ID, CallMarks};
use super::written::{self, Call, Names};

/// Bytes of a call. Calls that write a file carry it whole; this is as much text as 64 Ki tokens.
const MAX_CALL_BYTES: usize = 256 << 10;

/// Bytes in front of the JSON where a call begins with its name. OpenAI's names have up to 64.
const MAX_HEAD_BYTES: usize = 256;

/// Containers in containers, as many as the JSON reader takes.
const MAX_DEPTH: usize = 127;

/// The keys with which models begin a bare call.
const FIRST_KEYS: &[&str] = &[
    "name",
    "type",
    "id",
    "function",
    "arguments",
    "parameters",
    "tool_call",
    "tool_calls",
];

/// What one more character leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    /// The character is the last of the JSON.
    Complete,
    /// The character does not belong to a call, so nothing before it does.
    Broken,
}

/// The body of a call that has begun.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// `None` for bare JSON.
    marks: Option<&'static CallMarks>,
    /// All that was read, from the white space before the opening mark.
    raw: String,
    head_at: usize,
    json: Option<Json>,
}

#[derive(Clone, Copy, Debug)]
struct Json {
    at: usize,
    depth: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Outside,
    InString,
    Escaped,
}

impl Body {
    /// A body whose opening mark, if it has one, is the end of `raw`.
    pub(super) fn new(marks: Option<&'static CallMarks>, raw: String) -> Body {
        Body {
            marks,
            head_at: raw.len(),
            raw,
            json: None,
        }
    }

    pub(super) fn marks(&self) -> Option<&'static CallMarks> {
        self.marks
    }

    /// What was read, for a body that turned out to be no call.
    pub(super) fn into_text(self) -> String {
        self.raw
    }

    pub(super) fn push(&mut self, character: char) -> Progress {
        if self.raw.len() - self.head_at >= MAX_CALL_BYTES {
            return Progress::Broken;
        }
        let is_other_json = self.is_other_json(character);
        let progress = match &mut self.json {
            _ if is_other_json => Progress::Broken,
            Some(json) => json.push(character),
            None => self.push_to_head(character),
        };
        if progress != Progress::Broken {
            self.raw.push(character);
        }
        progress
    }

    /// Whether this character ends the first key of bare JSON, and calls do not begin with it. An answer in JSON would
    /// otherwise be held to its end.
    fn is_other_json(&self, character: char) -> bool {
        let (false, Some(json), '"') = (self.is_certain(), self.json, character) else {
            return false;
        };
        let json = self.raw.get(json.at..).unwrap_or_default();
        let inside = json.trim_start_matches(|c: char| c.is_whitespace() || c == '{' || c == '[');
        let key = inside.strip_prefix('"').filter(|key| !key.contains('"'));
        key.is_some_and(|key| !FIRST_KEYS.contains(&key))
    }

    fn push_to_head(&mut self, character: char) -> Progress {
        let named = self.marks.is_some_and(|marks| marks.named);
        let head = self.head().trim_start();
        let starts_json = match character {
            '{' => head.is_empty() || name_in(head).is_some(),
            '[' => head.is_empty(),
            _ => false,
        };
        if starts_json {
            self.json = Some(Json::starting_at(self.raw.len()));
            return Progress::More;
        }
        let is_head = character.is_ascii_alphanumeric() || "_-.[]".contains(character);
        let fits = self.raw.len() - self.head_at < MAX_HEAD_BYTES;
        match fits && ((head.is_empty() && character.is_whitespace()) || (named && is_head)) {
            true => Progress::More,
            false => Progress::Broken,
        }
    }

    fn head(&self) -> &str {
        let end = self.json.map_or(self.raw.len(), |json| json.at);
        self.raw.get(self.head_at..end).unwrap_or_default()
    }

    fn is_certain(&self) -> bool {
        self.marks.is_some_and(CallMarks::are_certain)
    }

    /// The calls of a complete body. Bare JSON is a call only if it names one of the tools.
    pub(super) fn calls(&self, tools: &[String]) -> Option<Vec<Call>> {
        let json = self.raw.get(self.json?.at..)?;
        if let Some(name) = name_in(self.head().trim_start()) {
            return Some(vec![Call {
                name: name.to_owned(),
                arguments: written::arguments(json)?,
            }]);
        }
        let names = match self.is_certain() {
            true => Names::Any,
            false => Names::OneOf(tools),
        };
        written::calls(json, names)
    }
}

/// The name in `name[ARGS]` or `name[CALL_ID]id[ARGS]`.
fn name_in(head: &str) -> Option<&str> {
    let head = head.strip_suffix(ARGS)?;
    let name = head.split_once(CALL_ID).map_or(head, |(name, _)| name);
    (!name.is_empty() && !name.contains(['[', ']'])).then_some(name)
}

impl Json {
    fn starting_at(at: usize) -> Json {
        Json {
            at,
            depth: 1,
            place: Place::Outside,
        }
    }

    fn push(&mut self, character: char) -> Progress {
        match (self.place, character) {
            (Place::Escaped, _) => self.place = Place::InString,
            (Place::InString, '\\') => self.place = Place::Escaped,
            (Place::InString, '"') => self.place = Place::Outside,
            (Place::InString, _) => {}
            (Place::Outside, _) => return self.push_outside(character),
        }
        Progress::More
    }

    fn push_outside(&mut self, character: char) -> Progress {
        match character {
            '"' => self.place = Place::InString,
            '{' | '[' if self.depth < MAX_DEPTH => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            ':' | ',' | '+' | '-' | '.' | ' ' | '\t' | '\n' | '\r' => {}
            character if character.is_ascii_alphanumeric() => {}
            _ => return Progress::Broken,
        }
        match self.depth {
            0 => Progress::Complete,
            _ => Progress::More,
        }
    }
}
