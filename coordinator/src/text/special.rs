//! Special tokens: cutting a text at them, and knowing which of them end an answer.
//!
//! At each position the longest special token wins, so one pass over the text finds them all. (llama.cpp searches the whole
//! text for the longest token first; the two differ only where different special tokens overlap.) Tokens that the file calls
//! user-defined are always recognised; control tokens only on request, since a user's text must stay text.

use aho_corasick::{AhoCorasick, MatchKind};

use super::error::TokenizerError;
use super::vocabulary::{TokenId, TokenKind, Vocabulary};

/// All spellings of special tokens together. 6 400 of them take 70 KiB; the search tables are some ten times as large.
pub const MAX_SPECIAL_BYTES: usize = 4 << 20;

/// Whether the spelling of a control token in a text means that token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Yes: the text is a rendered prompt.
    Parse,
    /// No: the text is a user's.
    Text,
}

/// A stretch of a text: either nothing special, or one special token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// Spellings that end an answer in the model families in use, where the file lists them as control tokens.
const END_TEXTS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<eos>",
    "</s>",
    "<EOT>",
    "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    // Completions of code go on into the next file with these.
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Spellings that end a turn of a chat, the likeliest first.
const END_OF_TURN_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
];

/// Finds special tokens in texts.
pub struct SpecialTokens {
    /// User-defined, control and unknown tokens.
    all: Matcher,
    /// User-defined tokens only.
    user_defined: Matcher,
    /// Control tokens, every overlapping occurrence.
    control: AhoCorasick,
}

impl SpecialTokens {
    pub fn new(vocabulary: &Vocabulary) -> Result<SpecialTokens, TokenizerError> {
        let of = |kinds: &[TokenKind]| -> Vec<TokenId> {
            let ids = 0..vocabulary.len() as TokenId;
            let wanted = ids.filter(|&id| {
                vocabulary
                    .kind(id)
                    .is_some_and(|kind| kinds.contains(&kind))
            });
            wanted
                .filter(|&id| vocabulary.text(id).is_some_and(|text| !text.is_empty()))
                .collect()
        };
        let all = of(&[
            TokenKind::UserDefined,
            TokenKind::Control,
            TokenKind::Unknown,
        ]);
        let bytes = all
            .iter()
            .filter_map(|&id| vocabulary.text(id))
            .map(str::len)
            .sum();
        if bytes > MAX_SPECIAL_BYTES {
            return Err(TokenizerError::SpecialTokensTooLarge {
                bytes,
                max: MAX_SPECIAL_BYTES,
            });
        }
        let control = of(&[TokenKind::Control, TokenKind::Unknown]);
        Ok(SpecialTokens {
            all: Matcher::new(vocabulary, all)?,
            user_defined: Matcher::new(vocabulary, of(&[TokenKind::UserDefined]))?,
            control: AhoCorasick::new(control.iter().filter_map(|&id| vocabulary.text(id)))?,
        })
    }

    /// Cuts a text at its special tokens.
    pub fn split<'t>(&self, text: &'t str, special: Special) -> Vec<Fragment<'t>> {
        match special {
            Special::Parse => self.all.split(text),
            Special::Text => self.user_defined.split(text),
        }
    }

    /// A search for every occurrence of a control token, cheap to clone.
    pub fn control_search(&self) -> AhoCorasick {
        self.control.clone()
    }
}

struct Matcher {
    search: AhoCorasick,
    ids: Vec<TokenId>,
}

impl Matcher {
    fn new(vocabulary: &Vocabulary, ids: Vec<TokenId>) -> Result<Matcher, TokenizerError> {
        let texts = ids.iter().filter_map(|&id| vocabulary.text(id));
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)?;
        Ok(Matcher { search, ids })
    }

    fn split<'t>(&self, text: &'t str) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let mut at = 0;
        for found in self.search.find_iter(text) {
            let Some(&id) = self.ids.get(found.pattern().as_usize()) else {
                continue;
            };
            fragments.extend(
                text.get(at..found.start())
                    .filter(|before| !before.is_empty())
                    .map(Fragment::Text),
            );
            fragments.push(Fragment::Token(id));
            at = found.end();
        }
        fragments.extend(
            text.get(at..)
                .filter(|rest| !rest.is_empty())
                .map(Fragment::Text),
        );
        fragments
    }
}

/// The special tokens after which an answer is over: those the file names, and those known by their spelling. Sorted.
pub fn end_tokens(vocabulary: &Vocabulary, named: &[TokenId]) -> Vec<TokenId> {
    let mut ends: Vec<TokenId> = END_TEXTS
        .iter()
        .filter_map(|text| find_special(vocabulary, text))
        .collect();
    ends.extend_from_slice(named);
    ends.sort_unstable();
    ends.dedup();
    // In the harmony format <|end|> closes a message, not the answer.
    if let [Some(_), Some(_), Some(end)] =
        ["<|return|>", "<|call|>", "<|end|>"].map(|text| find_special(vocabulary, text))
    {
        ends.retain(|&id| id != end);
    }
    ends
}

/// The token that ends a turn, by its spelling.
pub fn end_of_turn(vocabulary: &Vocabulary) -> Option<TokenId> {
    END_OF_TURN_TEXTS
        .iter()
        .find_map(|text| find_special(vocabulary, text))
}

/// Control tokens only: in some vocabularies `</s>` is an HTML tag that a model may well write.
fn find_special(vocabulary: &Vocabulary, text: &str) -> Option<TokenId> {
    let id = vocabulary.find(text.as_bytes())?;
    (vocabulary.kind(id) == Some(TokenKind::Control)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::{Spelling, TokenColumns};
    use super::*;

    fn vocabulary(tokens: &[(&str, i32)]) -> Vocabulary {
        let types: Vec<i32> = tokens.iter().map(|token| token.1).collect();
        let columns = TokenColumns {
            types: Some(&types),
            scores: None,
        };
        Vocabulary::new(
            tokens.iter().map(|token| token.0.as_bytes()),
            columns,
            Spelling::ByteLevel,
        )
        .unwrap()
    }

    #[test]
    fn cuts_at_the_longest_token_and_keeps_the_rest() {
        let vocabulary = vocabulary(&[("<s>", 3), ("  ", 4), ("    ", 4), ("x", 1)]);
        let special = SpecialTokens::new(&vocabulary).unwrap();
        use Fragment::{Text, Token};
        assert_eq!(
            special.split("<s>a       b", Special::Parse),
            [Token(0), Text("a"), Token(2), Token(1), Text(" b")]
        );
        assert_eq!(
            special.split("<s>  ", Special::Text),
            [Text("<s>"), Token(1)]
        );
        assert_eq!(special.split("", Special::Parse), []);
    }

    #[test]
    fn ends_are_known_by_name_and_by_spelling() {
        let chat = vocabulary(&[
            ("<|im_end|>", 3),
            ("</s>", 1),
            ("x", 1),
            ("<|end|>", 3),
            ("<|endoftext|>", 4),
        ]);
        assert_eq!(
            end_tokens(&chat, &[2]),
            [0, 2, 3],
            "a token of text that looks like an end is text"
        );
        assert_eq!(end_of_turn(&chat), Some(0));
        let harmony = vocabulary(&[("<|return|>", 3), ("<|call|>", 3), ("<|end|>", 3)]);
        assert_eq!(end_tokens(&harmony, &[]), [0, 1]);
    }
}
