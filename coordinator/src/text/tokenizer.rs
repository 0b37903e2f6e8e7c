//! Text to tokens and back, for one model.
//!
//! Ties the parts together: special tokens are cut out first (`special`), what lies between goes to the model's own scheme
//! (`bpe` or `spm`), BOS and EOS are added by the model's rule. Reading the model file is in `load`.

use super::bpe::Bpe;
use super::error::TokenizerError;
use super::special::{Fragment, Special, SpecialTokens};
use super::spm::Spm;
use super::template::Rendered;
use super::vocabulary::{TokenId, Vocabulary};

/// The longest text that is encoded. A megabyte is some 250 000 tokens, more than any context here; the rest is headroom.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// Whether the tokens that the model expects around a text are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddBos {
    /// BOS in front and EOS behind, as far as the model file asks for them.
    ModelRule,
    Never,
}

/// Whether decoding shows tokens that stand for no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlTokens {
    Hide,
    /// As their spelling in the vocabulary.
    Show,
}

/// The scheme by which text between special tokens is encoded.
pub(super) enum Scheme {
    Bpe(Box<Bpe>),
    Spm { spm: Box<Spm>, space_prefix: bool },
}

/// The special ids and rules of a model file.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub eot: Option<TokenId>,
    pub add_bos: bool,
    pub add_eos: bool,
    /// Sorted.
    pub ends: Vec<TokenId>,
}

/// The tokenizer of one model.
pub struct Tokenizer {
    pub(super) vocabulary: Vocabulary,
    pub(super) special: SpecialTokens,
    pub(super) scheme: Scheme,
    pub(super) rules: Rules,
}

impl Tokenizer {
    /// The tokens of a text. With `Special::Text` the spelling of a control token stays text.
    pub fn encode(
        &self,
        text: &str,
        special: Special,
        add_bos: AddBos,
    ) -> Result<Vec<TokenId>, TokenizerError> {
        let mut out = self.start(text, add_bos)?;
        self.encode_fragments(text, special, |text| text, &mut out);
        if add_bos == AddBos::ModelRule && self.rules.add_eos {
            out.push(
                self.rules
                    .eos
                    .ok_or(TokenizerError::MissingSpecialToken { token: "EOS" })?,
            );
        }
        Ok(out)
    }

    /// The tokens of a rendered chat: the template's control tokens are parsed, those in the messages stay text, and BOS
    /// is not doubled where the template already writes it.
    pub fn encode_chat(&self, prompt: &Rendered) -> Result<Vec<TokenId>, TokenizerError> {
        let text = prompt.guarded();
        let has_bos = self
            .bos_text()
            .is_some_and(|bos| !bos.is_empty() && text.starts_with(bos));
        let mut out = self.start(
            text,
            if has_bos {
                AddBos::Never
            } else {
                AddBos::ModelRule
            },
        )?;
        self.encode_fragments(text, Special::Parse, Rendered::unguard, &mut out);
        Ok(out)
    }

    /// The bytes of text that a token stands for: none for control tokens; `None` for ids outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The token's spelling in the vocabulary.
    pub fn token_text(&self, id: TokenId) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The token with this spelling, whatever its kind.
    pub fn find_token(&self, text: &str) -> Option<TokenId> {
        self.vocabulary.find(text.as_bytes())
    }

    /// The bytes of a sequence of tokens, without the space that SentencePiece models put in front of a text. Ids outside
    /// the vocabulary stand for nothing.
    pub fn decode_bytes(&self, ids: &[TokenId], control: ControlTokens) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut strip_space = matches!(
            self.scheme,
            Scheme::Spm {
                space_prefix: true,
                ..
            }
        );
        for &id in ids {
            let text = self.token_bytes(id).unwrap_or_default();
            match (text.strip_prefix(b" "), control) {
                (Some(rest), _) if strip_space => bytes.extend_from_slice(rest),
                (None, ControlTokens::Show) if text.is_empty() => {
                    bytes.extend_from_slice(self.token_text(id).unwrap_or_default().as_bytes());
                }
                _ => bytes.extend_from_slice(text),
            }
            strip_space &= text.is_empty();
        }
        bytes
    }

    /// The text of a sequence of tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[TokenId], control: ControlTokens) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, control)).into_owned()
    }

    pub fn n_vocab(&self) -> usize {
        self.vocabulary.len()
    }

    pub fn bos(&self) -> Option<TokenId> {
        self.rules.bos
    }

    pub fn eos(&self) -> Option<TokenId> {
        self.rules.eos
    }

    /// The token that ends a turn of a chat, where the model has one.
    pub fn eot(&self) -> Option<TokenId> {
        self.rules.eot
    }

    pub fn bos_text(&self) -> Option<&str> {
        self.token_text(self.bos()?)
    }

    pub fn eos_text(&self) -> Option<&str> {
        self.token_text(self.eos()?)
    }

    /// Whether the model is done when it gives this token.
    pub fn is_end_of_generation(&self, id: TokenId) -> bool {
        self.rules.ends.binary_search(&id).is_ok()
    }

    /// All tokens that end an answer, in ascending order.
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.rules.ends
    }

    /// The search for control tokens with which a template guards the messages.
    pub(super) fn control_search(&self) -> aho_corasick::AhoCorasick {
        self.special.control_search()
    }

    fn start(&self, text: &str, add_bos: AddBos) -> Result<Vec<TokenId>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong {
                bytes: text.len(),
                max: MAX_TEXT_BYTES,
            });
        }
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if add_bos == AddBos::ModelRule && self.rules.add_bos {
            out.push(
                self.rules
                    .bos
                    .ok_or(TokenizerError::MissingSpecialToken { token: "BOS" })?,
            );
        }
        Ok(out)
    }

    fn encode_fragments<'t, S: AsRef<str>>(
        &self,
        text: &'t str,
        special: Special,
        prepare: impl Fn(&'t str) -> S,
        out: &mut Vec<TokenId>,
    ) {
        let mut after_special = true;
        for fragment in self.special.split(text, special) {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => {
                    self.encode_text(prepare(text).as_ref(), after_special, out)
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
    }

    fn encode_text(&self, text: &str, after_special: bool, out: &mut Vec<TokenId>) {
        match &self.scheme {
            Scheme::Bpe(bpe) => bpe.encode(&self.vocabulary, text, out),
            Scheme::Spm { spm, space_prefix } => {
                spm.encode(&self.vocabulary, text, *space_prefix && after_special, out)
            }
        }
    }
}

const _: () = assert!(
    MAX_TEXT_BYTES * 3 < u32::MAX as usize,
    "a text of spaces triples, and offsets are u32"
);
