//! Turns the tokens of one answer into text that may be sent: nothing that is given out is ever taken back.

use std::sync::Arc;

use potluck_proto::Logprobs;

use crate::text::{StopMatcher, StreamDecoder, Tokenizer};

/// A piece of an answer: text, and the tokens that it took since the piece before. A token whose text is held back (half a
/// character, what may become a stop string) is counted with the piece that brings it out.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    pub text: String,
    pub tokens: Vec<u32>,
    /// One for each of `tokens`, if the question asks for them.
    pub logprobs: Vec<Logprobs>,
}

/// What one token led to.
#[derive(Debug, PartialEq)]
pub(super) enum Written {
    /// Its text is held back, or it has none.
    Nothing,
    Text(Delta),
    /// A stop string is complete: the answer ends with this. And which stop string.
    Stopped(Option<Delta>, usize),
}

/// The text side of one answer.
pub(super) struct AnswerWriter {
    tokenizer: Arc<Tokenizer>,
    decoder: StreamDecoder,
    stops: StopMatcher,
    /// Control tokens that are written as they are spelled.
    marks: Vec<u32>,
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
}

impl AnswerWriter {
    /// `marks` are written even where they are control tokens, which otherwise stand for no text.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        stops: StopMatcher,
        marks: &[&str],
    ) -> AnswerWriter {
        let marks = marks.iter().filter_map(|mark| tokenizer.find_token(mark));
        AnswerWriter {
            marks: marks.collect(),
            tokenizer,
            decoder: StreamDecoder::new(),
            stops,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Takes the next token. Ids outside the vocabulary stand for no text.
    pub(super) fn push(&mut self, id: u32, logprobs: Option<Logprobs>) -> Written {
        self.tokens.push(id);
        self.logprobs.extend(logprobs);
        let bytes = match self.marks.contains(&id) {
            true => self.tokenizer.token_text(id).map(str::as_bytes),
            false => self.tokenizer.token_bytes(id),
        };
        let decoded = self.decoder.push(bytes.unwrap_or_default());
        let emitted = self.stops.push(&decoded);
        if let Some(index) = emitted.stop {
            return Written::Stopped(self.delta(emitted.text), index);
        }
        if emitted.text.is_empty() {
            return Written::Nothing;
        }
        self.delta(emitted.text)
            .map_or(Written::Nothing, Written::Text)
    }

    /// Ends the answer: what was held back is text after all, unless it completes a stop string.
    pub(super) fn finish(&mut self) -> Option<Delta> {
        let tail = self.decoder.finish();
        let mut text = self.stops.push(&tail).text;
        text.push_str(&self.stops.finish());
        self.delta(text)
    }

    fn delta(&mut self, text: String) -> Option<Delta> {
        let tokens = std::mem::take(&mut self.tokens);
        let logprobs = std::mem::take(&mut self.logprobs);
        let something = !text.is_empty() || !tokens.is_empty();
        something.then_some(Delta {
            text,
            tokens,
            logprobs,
        })
    }
}
