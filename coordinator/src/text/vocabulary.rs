//! The token table of a model: spelling, bytes, kind and score of every token, and the way back from a spelling to its id.
//!
//! It checks everything that a model file can get wrong about its tokens. It knows neither how text is cut into tokens
//! (`bpe`, `spm`) nor where the table came from (`load`).

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

use super::byte_map;
use super::error::TokenizerError;

/// Index of a token in the vocabulary.
pub type TokenId = u32;

/// The largest vocabularies in use have 262 144 tokens; eight times that still indexes comfortably.
pub const MAX_TOKENS: usize = 1 << 21;

/// The longest tokens in use are 1 024 bytes (runs of spaces in byte-level spelling). Longer ones would only serve to make
/// every look-up slow.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// All spellings together: 262 144 tokens take under 3 MiB, so 128 MiB is far above any real table and keeps offsets in u32.
pub const MAX_TABLE_BYTES: usize = 128 << 20;

/// The space of SentencePiece vocabularies.
pub const METASPACE: &str = "\u{2581}";

/// What a token is for, as the model file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for text that the vocabulary cannot express.
    Unknown,
    /// Steers the model (`<|im_end|>`); never the meaning of a user's text.
    Control,
    /// A piece of text that is matched before the tokenizer proper runs.
    UserDefined,
    /// Padding of the table.
    Unused,
    /// One raw byte, spelled `<0xNN>`.
    Byte,
}

impl TokenKind {
    fn from_gguf(id: TokenId, value: i32) -> Result<TokenKind, TokenizerError> {
        match value {
            1 => Ok(TokenKind::Normal),
            2 => Ok(TokenKind::Unknown),
            3 => Ok(TokenKind::Control),
            4 => Ok(TokenKind::UserDefined),
            0 | 5 => Ok(TokenKind::Unused),
            6 => Ok(TokenKind::Byte),
            _ => Err(TokenizerError::BadTokenType { id, value }),
        }
    }

    /// Whether ordinary text may become this token.
    fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined)
    }
}

/// How the spellings of normal tokens stand for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Each character is one byte, by GPT-2's table.
    ByteLevel,
    /// Plain text, in which U+2581 is a space.
    Metaspace,
}

/// Token types and scores beside the spellings; either may be absent from a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenColumns<'a> {
    pub types: Option<&'a [i32]>,
    pub scores: Option<&'a [f32]>,
}

/// The checked token table.
pub struct Vocabulary {
    texts: StringTable,
    bytes: StringTable,
    kinds: Vec<TokenKind>,
    scores: Vec<f32>,
    index: HashTable<TokenId>,
    hasher: RandomState,
    longest_text: usize,
}

impl Vocabulary {
    /// Builds the table from the spellings in id order.
    pub fn new<'a>(
        texts: impl Iterator<Item = &'a [u8]>,
        columns: TokenColumns<'_>,
        spelling: Spelling,
    ) -> Result<Vocabulary, TokenizerError> {
        let mut vocabulary = Vocabulary::empty();
        for text in texts {
            vocabulary.push(text, columns, spelling)?;
        }
        vocabulary.check_columns(columns)?;
        Ok(vocabulary)
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The spelling in the vocabulary.
    pub fn text(&self, id: TokenId) -> Option<&str> {
        self.texts
            .get(id)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The bytes of text that the token stands for; empty for tokens that stand for none.
    pub fn bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    pub fn kind(&self, id: TokenId) -> Option<TokenKind> {
        self.kinds.get(id as usize).copied()
    }

    /// Log probability of a SentencePiece token; 0 where the file has none.
    pub fn score(&self, id: TokenId) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    /// Bytes of the longest spelling.
    pub fn longest_text(&self) -> usize {
        self.longest_text
    }

    /// The token with this spelling, whatever its kind.
    pub fn find(&self, text: &[u8]) -> Option<TokenId> {
        let hash = self.hasher.hash_one(text);
        self.index
            .find(hash, |&id| self.texts.get(id) == Some(text))
            .copied()
    }

    /// The token with this spelling if ordinary text may become it: typing `<|im_end|>` never yields a control token.
    pub fn find_text(&self, text: &[u8]) -> Option<TokenId> {
        self.find(text)
            .filter(|&id| self.kind(id).is_some_and(TokenKind::is_text))
    }

    fn empty() -> Vocabulary {
        Vocabulary {
            texts: StringTable::default(),
            bytes: StringTable::default(),
            kinds: Vec::new(),
            scores: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            longest_text: 0,
        }
    }

    fn push(
        &mut self,
        text: &[u8],
        columns: TokenColumns<'_>,
        spelling: Spelling,
    ) -> Result<(), TokenizerError> {
        let position = self.kinds.len();
        if position >= MAX_TOKENS {
            return Err(TokenizerError::TooManyTokens { max: MAX_TOKENS });
        }
        let id = position as TokenId; // Fits: MAX_TOKENS is below 2^32.
        let word = self.check_text(id, text)?;
        let kind = match columns.types {
            Some(types) => TokenKind::from_gguf(
                id,
                *types
                    .get(position)
                    .ok_or_else(|| short("token_type", types.len()))?,
            )?,
            None => TokenKind::Normal,
        };
        if let Some(scores) = columns.scores {
            let score = *scores
                .get(position)
                .ok_or_else(|| short("scores", scores.len()))?;
            if score.is_nan() {
                return Err(TokenizerError::BadScore { id });
            }
            self.scores.push(score);
        }
        self.index_text(id, text)?;
        self.bytes.push(&bytes_of(id, word, kind, spelling)?);
        self.texts.push(text);
        self.kinds.push(kind);
        self.longest_text = self.longest_text.max(text.len());
        Ok(())
    }

    fn check_text<'a>(&self, id: TokenId, text: &'a [u8]) -> Result<&'a str, TokenizerError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(TokenizerError::TokenTooLong {
                id,
                bytes: text.len(),
                max: MAX_TOKEN_BYTES,
            });
        }
        if self.texts.data.len() + text.len() > MAX_TABLE_BYTES {
            return Err(TokenizerError::TableTooLarge {
                max: MAX_TABLE_BYTES,
            });
        }
        std::str::from_utf8(text).map_err(|_| TokenizerError::NonUtf8Token { id })
    }

    /// Tokens without a spelling are padding: they exist but no text leads to them.
    fn index_text(&mut self, id: TokenId, text: &[u8]) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        if let Some(first) = self.find(text) {
            return Err(TokenizerError::DuplicateToken { first, second: id });
        }
        let hash = self.hasher.hash_one(text);
        let (texts, hasher) = (&self.texts, &self.hasher);
        // The new text is not in the table yet, but only ids that are already there are ever rehashed.
        self.index.insert_unique(hash, id, |&old| {
            hasher.hash_one(texts.get(old).unwrap_or_default())
        });
        Ok(())
    }

    fn check_columns(&self, columns: TokenColumns<'_>) -> Result<(), TokenizerError> {
        let tokens = self.len();
        if tokens == 0 {
            return Err(TokenizerError::EmptyVocabulary);
        }
        let lengths = [
            ("token_type", columns.types.map(<[i32]>::len)),
            ("scores", columns.scores.map(<[f32]>::len)),
        ];
        for (array, length) in lengths {
            if let Some(length) = length.filter(|&length| length != tokens) {
                return Err(TokenizerError::ColumnLength {
                    array,
                    length,
                    tokens,
                });
            }
        }
        Ok(())
    }
}

fn short(array: &'static str, length: usize) -> TokenizerError {
    TokenizerError::ColumnLength {
        array,
        length,
        tokens: length + 1,
    }
}

/// The text that a token stands for.
fn bytes_of(
    id: TokenId,
    word: &str,
    kind: TokenKind,
    spelling: Spelling,
) -> Result<Vec<u8>, TokenizerError> {
    match kind {
        TokenKind::Control | TokenKind::Unknown | TokenKind::Unused => Ok(Vec::new()),
        TokenKind::UserDefined => Ok(word.as_bytes().to_vec()),
        TokenKind::Byte => {
            let byte = parse_byte_token(word).ok_or_else(|| TokenizerError::BadByteToken {
                id,
                text: word.to_owned(),
            })?;
            Ok(vec![byte])
        }
        TokenKind::Normal => Ok(match spelling {
            Spelling::ByteLevel => byte_map::to_bytes(word),
            Spelling::Metaspace => word.replace(METASPACE, " ").into_bytes(),
        }),
    }
}

/// `<0x0A>` is 10; anything but two hexadecimal digits is refused.
fn parse_byte_token(word: &str) -> Option<u8> {
    let digits = word.strip_prefix("<0x")?.strip_suffix('>')?;
    let exact = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    exact.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Many short byte strings in one allocation.
#[derive(Default)]
struct StringTable {
    data: Vec<u8>,
    ends: Vec<u32>,
}

impl StringTable {
    fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.ends.push(self.data.len() as u32); // Fits: MAX_TABLE_BYTES is below 2^32.
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.ends.get(at)? as usize;
        let start = at
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .map_or(0, |&end| end as usize);
        self.data.get(start..end)
    }
}

const _: () = assert!(MAX_TABLE_BYTES < u32::MAX as usize);
const _: () = assert!(MAX_TOKENS < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn build(
        texts: &[&str],
        types: Option<&[i32]>,
        scores: Option<&[f32]>,
    ) -> Result<Vocabulary, TokenizerError> {
        let texts = texts.iter().map(|text| text.as_bytes());
        Vocabulary::new(texts, TokenColumns { types, scores }, Spelling::Metaspace)
    }

    #[test]
    fn finds_every_token_and_gives_its_bytes() {
        let vocabulary = build(
            &["<unk>", "<s>", "<0x0A>", "▁a", "b"],
            Some(&[2, 3, 6, 1, 4]),
            None,
        )
        .unwrap();
        assert_eq!(vocabulary.find("▁a".as_bytes()), Some(3));
        assert_eq!(vocabulary.bytes(3), Some(&b" a"[..]));
        assert_eq!(vocabulary.bytes(2), Some(&b"\n"[..]));
        assert_eq!(vocabulary.bytes(1), Some(&b""[..]));
        assert_eq!(vocabulary.text(1), Some("<s>"));
        assert_eq!(vocabulary.find(b"<s>"), Some(1));
        assert_eq!(
            vocabulary.find_text(b"<s>"),
            None,
            "a control token is not text"
        );
        assert_eq!(vocabulary.find_text(b"<0x0A>"), None, "nor is a byte token");
        assert_eq!(
            (vocabulary.bytes(5), vocabulary.text(u32::MAX)),
            (None, None)
        );
    }

    #[test]
    fn refuses_bad_tables() {
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        let cases: Vec<(Result<Vocabulary, TokenizerError>, &str)> = vec![
            (build(&[], None, None), "no tokens"),
            (build(&["a", "b"], Some(&[1]), None), "token_type"),
            (build(&["a"], Some(&[1, 1]), None), "token_type"),
            (build(&["a", "b"], None, Some(&[0.0])), "scores"),
            (build(&["a"], None, Some(&[0.0, 1.0])), "scores"),
            (build(&["a"], None, Some(&[f32::NAN])), "score"),
            (build(&["a"], Some(&[7]), None), "type 7"),
            (build(&["a"], Some(&[-1]), None), "type -1"),
            (build(&["a", "b", "a"], None, None), "0 and 2"),
            (build(&[&long], None, None), "4096"),
            (build(&["<0x-1>"], Some(&[6]), None), "<0x-1>"),
            (build(&["<0x+1>"], Some(&[6]), None), "<0x+1>"),
            (build(&["<0xZZ>"], Some(&[6]), None), "<0xZZ>"),
            (build(&["<0x100>"], Some(&[6]), None), "<0x100>"),
        ];
        for (number, (result, part)) in cases.into_iter().enumerate() {
            let message = result
                .err()
                .unwrap_or_else(|| panic!("case {number} was accepted"))
                .to_string();
            assert!(message.contains(part), "case {number}: {message}");
        }
    }

    #[test]
    fn refuses_tokens_that_are_not_utf8_and_keeps_empty_ones() {
        let bad = Vocabulary::new(
            [&b"\xff"[..]].into_iter(),
            TokenColumns::default(),
            Spelling::ByteLevel,
        );
        assert!(matches!(bad, Err(TokenizerError::NonUtf8Token { id: 0 })));
        let padded = build(&["", "", "a"], None, None).unwrap();
        assert_eq!(
            (padded.len(), padded.find(b""), padded.find(b"a")),
            (3, None, Some(2))
        );
    }
}
