//! Reads an answer as it comes: what the model thinks, what it says, and which tools it calls.
//!
//! Wherever the text is cut into pieces, the same comes out. What was given out is never taken back, so text that may be the
//! beginning of a mark is held, and a call is given when it is whole: until then it may still turn out to be text. Nothing of an
//! answer is lost but marks, and white space around thoughts and calls. What is held is bounded.

mod body;
mod form;
mod written;

#[cfg(test)]
mod tests;

pub use form::{
    CALL_MARKS, CallIds, CallMarks, Calls, Reading, ReplyForm, THOUGHT_MARKS, ThoughtMarks,
    Thoughts,
};
pub use written::Call;

use body::{Body, Progress};
use form::FENCES;

/// Bytes of white space that are left out around thoughts and calls. More of it is text.
const MAX_SPACE: usize = 64;

/// A part of an answer. Thoughts and texts that follow one another are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyPiece {
    Thought(String),
    Text(String),
    Call(Call),
}

/// Reads one answer.
#[derive(Clone, Debug)]
pub struct ReplyParser {
    reading: Reading,
    state: State,
    /// What has come and is not decided.
    held: String,
    pieces: Vec<ReplyPiece>,
}

#[derive(Clone, Debug)]
enum State {
    /// The beginning of the answer.
    Lead,
    /// Behind the opening mark of a thought.
    ThoughtLead,
    Thought,
    AfterThought,
    Text,
    Call(Body),
    /// With the marks of the call, if it had any and they are not closed.
    AfterCall(Option<&'static CallMarks>),
    /// Nothing further is wanted.
    Over,
}

/// Whether the answer goes on behind what is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Unknown,
    Nothing,
}

impl ReplyParser {
    pub fn new(reading: Reading) -> ReplyParser {
        let state = match reading.thoughts {
            Thoughts::Begun => State::ThoughtLead,
            Thoughts::InText | Thoughts::Apart => State::Lead,
        };
        ReplyParser {
            reading,
            state,
            held: String::new(),
            pieces: Vec::new(),
        }
    }

    /// Takes the next text and gives what is decided.
    pub fn push(&mut self, text: &str) -> Vec<ReplyPiece> {
        self.held.push_str(text);
        self.run(Rest::Unknown)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Vec<ReplyPiece> {
        self.run(Rest::Nothing)
    }

    /// Which ids the calls may have.
    pub fn call_ids(&self) -> CallIds {
        self.reading.form.ids
    }

    fn run(&mut self, rest: Rest) -> Vec<ReplyPiece> {
        while let Some(next) = self.step(rest) {
            self.state = next;
        }
        std::mem::take(&mut self.pieces)
    }

    /// Takes what can be decided from the front of what is held; `None` when that was all.
    fn step(&mut self, rest: Rest) -> Option<State> {
        match self.state {
            State::Lead => self.lead(rest),
            State::ThoughtLead => self.thought_lead(),
            State::Thought => self.thought(rest),
            State::AfterThought => self.after_thought(rest),
            State::Text => self.text(rest),
            State::Call(_) => self.call(rest),
            State::AfterCall(marks) => self.after_call(marks, rest),
            State::Over => {
                self.held.clear();
                None
            }
        }
    }

    /// White space, and then a thought, a call or text.
    fn lead(&mut self, rest: Rest) -> Option<State> {
        let start = spaces(&self.held, char::is_whitespace);
        if self.reading.thoughts == Thoughts::Apart {
            let opens = self.reading.form.thoughts.opens;
            match begins(self.held.get(start..)?, opens, rest) {
                Begins::Yes => {
                    self.held.drain(..start + opens.len());
                    return Some(State::ThoughtLead);
                }
                Begins::Maybe => return None,
                Begins::No => {}
            }
        }
        self.call_or_text(start, None, rest)
    }

    fn thought_lead(&mut self) -> Option<State> {
        self.drop_spaces();
        (!self.held.is_empty()).then_some(State::Thought)
    }

    fn thought(&mut self, rest: Rest) -> Option<State> {
        let closes = self.reading.form.thoughts.closes;
        if let Some(at) = self.held.find(closes) {
            let end = before_spaces(self.held.get(..at)?);
            let thought = self.held.get(..end)?.to_owned();
            self.held.drain(..at + closes.len());
            self.give_thought(thought);
            return Some(State::AfterThought);
        }
        let end = match rest {
            Rest::Unknown => before_spaces(self.held.get(..before_beginning(&self.held, closes))?),
            Rest::Nothing => self.held.len(),
        };
        let thought = self.held.drain(..end).collect();
        self.give_thought(thought);
        None
    }

    fn after_thought(&mut self, rest: Rest) -> Option<State> {
        self.drop_spaces();
        match self.held.is_empty() {
            true => None,
            false => self.call_or_text(0, None, rest),
        }
    }

    fn text(&mut self, rest: Rest) -> Option<State> {
        let mut end = self.held.len();
        if let Some(marks) = self.call_marks() {
            if let Some(at) = self.held.find(marks.opens) {
                let text = self.held.drain(..at).collect();
                self.give_text(text);
                return Some(self.open_call(marks.opens.len(), Some(marks)));
            }
            if rest == Rest::Unknown {
                end = before_beginning(&self.held, marks.opens);
            }
        }
        let text = self.held.drain(..end).collect();
        self.give_text(text);
        None
    }

    fn call(&mut self, rest: Rest) -> Option<State> {
        let State::Call(body) = &mut self.state else {
            return None;
        };
        for (at, character) in self.held.char_indices() {
            match body.push(character) {
                Progress::More => {}
                Progress::Broken => {
                    self.held.drain(..at);
                    return self.no_call();
                }
                Progress::Complete => {
                    self.held.drain(..at + character.len_utf8());
                    return self.complete_call();
                }
            }
        }
        self.held.clear();
        match rest {
            Rest::Unknown => None,
            Rest::Nothing => self.no_call(),
        }
    }

    fn complete_call(&mut self) -> Option<State> {
        let State::Call(body) = &self.state else {
            return None;
        };
        let Some(calls) = body.calls(&self.reading.tools) else {
            return self.no_call();
        };
        let after = State::AfterCall(body.marks());
        let mut calls = calls.into_iter().map(ReplyPiece::Call);
        match self.reading.calls {
            Calls::Many => {
                self.pieces.extend(calls);
                Some(after)
            }
            Calls::One => {
                self.pieces.extend(calls.next());
                Some(State::Over)
            }
        }
    }

    /// What seemed to be a call is text.
    fn no_call(&mut self) -> Option<State> {
        if let State::Call(body) = std::mem::replace(&mut self.state, State::Text) {
            self.give_text(body.into_text());
        }
        Some(State::Text)
    }

    /// The closing mark, another call, or text.
    fn after_call(&mut self, marks: Option<&'static CallMarks>, rest: Rest) -> Option<State> {
        let between = |character: char| character.is_whitespace() || matches!(character, ',' | ';');
        let start = spaces(&self.held, between);
        if start == self.held.len() && rest == Rest::Nothing {
            return Some(State::Over);
        }
        if let Some(closes) = marks.and_then(|marks| marks.closes) {
            match begins(self.held.get(start..)?, closes, rest) {
                Begins::Yes => {
                    self.held.drain(..start + closes.len());
                    return Some(State::AfterCall(None));
                }
                Begins::Maybe => return None,
                Begins::No => {}
            }
        }
        self.call_or_text(start, marks, rest)
    }

    /// A call that begins at `start`, with its mark or with JSON; or else text.
    fn call_or_text(
        &mut self,
        start: usize,
        marks: Option<&'static CallMarks>,
        rest: Rest,
    ) -> Option<State> {
        let ahead = self.held.get(start..)?;
        if self.reading.tools.is_empty() {
            let undecided = ahead.is_empty() && rest == Rest::Unknown;
            return (!undecided).then_some(State::Text);
        }
        for marks in self.call_marks().into_iter().chain(FENCES) {
            match begins(ahead, marks.opens, rest) {
                Begins::Yes => return Some(self.open_call(start + marks.opens.len(), Some(marks))),
                Begins::Maybe => return None,
                Begins::No => {}
            }
        }
        match ahead.chars().next() {
            None if rest == Rest::Unknown => None,
            Some('{' | '[') => Some(self.open_call(start, marks)),
            _ => Some(State::Text),
        }
    }

    /// Begins a call behind the first `length` bytes of what is held.
    fn open_call(&mut self, length: usize, marks: Option<&'static CallMarks>) -> State {
        State::Call(Body::new(marks, self.held.drain(..length).collect()))
    }

    /// The marks of calls, if calls are looked for.
    fn call_marks(&self) -> Option<&'static CallMarks> {
        let calls = self.reading.form.calls;
        calls.filter(|_| !self.reading.tools.is_empty())
    }

    fn drop_spaces(&mut self) {
        let start = self.held.len() - self.held.trim_start().len();
        self.held.drain(..start);
    }

    fn give_text(&mut self, text: String) {
        match self.pieces.last_mut() {
            Some(ReplyPiece::Text(before)) => before.push_str(&text),
            _ if text.is_empty() => {}
            _ => self.pieces.push(ReplyPiece::Text(text)),
        }
    }

    fn give_thought(&mut self, thought: String) {
        match self.pieces.last_mut() {
            Some(ReplyPiece::Thought(before)) => before.push_str(&thought),
            _ if thought.is_empty() => {}
            _ => self.pieces.push(ReplyPiece::Thought(thought)),
        }
    }
}

enum Begins {
    Yes,
    /// As far as it has come.
    Maybe,
    No,
}

fn begins(text: &str, mark: &str, rest: Rest) -> Begins {
    match text.starts_with(mark) {
        true => Begins::Yes,
        false if rest == Rest::Unknown && mark.starts_with(text) => Begins::Maybe,
        false => Begins::No,
    }
}

/// Bytes of white space in front; 0, so that it is text, if it is more than may be left out.
fn spaces(text: &str, is_space: impl Fn(char) -> bool) -> usize {
    let bytes = text.len() - text.trim_start_matches(is_space).len();
    if bytes > MAX_SPACE { 0 } else { bytes }
}

/// The end of a text without white space behind it, of which at most `MAX_SPACE` bytes are left out.
fn before_spaces(text: &str) -> usize {
    let mut end = text.len();
    for (at, character) in text.char_indices().rev() {
        if !character.is_whitespace() || text.len() - at > MAX_SPACE {
            break;
        }
        end = at;
    }
    end
}

/// The end of a text without what may be the beginning of a mark.
fn before_beginning(text: &str, mark: &str) -> usize {
    let lengths = (1..mark.len()).rev();
    let beginnings = lengths.filter_map(|length| mark.get(..length));
    let held = beginnings.into_iter().find(|part| text.ends_with(part));
    text.len() - held.map_or(0, str::len)
}
