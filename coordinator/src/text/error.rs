//! What can go wrong between text and tokens: defects of a model file, and text that is too long.

use super::vocabulary::TokenId;

/// A tokenizer that cannot be built or a text that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("the model's tokenizer metadata cannot be read: {0}")]
    Metadata(#[from] potluck_gguf::GgufError),
    #[error("tokenizer model '{model}' is not supported; the supported ones are {known}")]
    UnknownModel { model: String, known: &'static str },
    #[error(
        "pre-tokenizer '{pre}' is not supported, and guessing would change what the model reads; the supported ones are {known}"
    )]
    UnknownPreTokenizer { pre: String, known: String },
    #[error("the pre-tokenizer pattern does not compile: {0}")]
    Pattern(#[from] Box<regex::Error>),
    #[error("the special tokens cannot be indexed: {0}")]
    SpecialTokens(#[from] aho_corasick::BuildError),
    #[error("special tokens take {bytes} bytes together, more than the {max} that are accepted")]
    SpecialTokensTooLarge { bytes: usize, max: usize },
    #[error("the vocabulary has no tokens")]
    EmptyVocabulary,
    #[error("the vocabulary has more than {max} tokens")]
    TooManyTokens { max: usize },
    #[error("the vocabulary's texts take more than {max} bytes")]
    TableTooLarge { max: usize },
    #[error("token {id} is {bytes} bytes long, more than the {max} that are accepted")]
    TokenTooLong {
        id: TokenId,
        bytes: usize,
        max: usize,
    },
    #[error("the text of token {id} is not UTF-8")]
    NonUtf8Token { id: TokenId },
    #[error("tokens {first} and {second} have the same text")]
    DuplicateToken { first: TokenId, second: TokenId },
    #[error(
        "tokenizer.ggml.{array} has {length} entries where the vocabulary has at least {tokens} tokens"
    )]
    ColumnLength {
        array: &'static str,
        length: usize,
        tokens: usize,
    },
    #[error("token {id} has type {value}; types are 0 to 6")]
    BadTokenType { id: TokenId, value: i32 },
    #[error("the score of token {id} is not a number")]
    BadScore { id: TokenId },
    #[error("byte token {id} is spelled '{text}' instead of <0x00> to <0xFF>")]
    BadByteToken { id: TokenId, text: String },
    #[error("the vocabulary has more than {max} merges")]
    TooManyMerges { max: usize },
    #[error("merge {index} is not two texts with a space between them")]
    BadMerge { index: usize },
    #[error("{key} is {id}, but the vocabulary has {tokens} tokens")]
    SpecialIdOutOfRange {
        key: &'static str,
        id: TokenId,
        tokens: usize,
    },
    #[error(
        "the model asks for a {token} token around every text but does not say which one that is"
    )]
    MissingSpecialToken { token: &'static str },
    #[error("the text has {bytes} bytes, more than the {max} that are accepted")]
    TextTooLong { bytes: usize, max: usize },
}
