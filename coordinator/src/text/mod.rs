//! Text in and out of tokens: tokenizers, chat templates, the streaming decoder and stop strings.
//!
//! A request's way in is [`ChatTemplate::render`], then [`Tokenizer::encode_chat`] (or [`Tokenizer::encode`] for plain text);
//! an answer's way out is [`Tokenizer::token_bytes`], [`StreamDecoder`], [`StopMatcher`], [`ReplyParser`]. Everything here is plain functions
//! on strings: no clock, no IO, nothing of HTTP or of workers.

mod bpe;
mod byte_map;
mod decoder;
mod error;
mod load;
mod pre_tokenizer;
mod reply;
mod special;
mod spm;
mod stop;
mod template;
mod tokenizer;
mod vocabulary;

pub use decoder::StreamDecoder;
pub use error::TokenizerError;
pub use reply::{Call, CallIds, Calls, Reading, ReplyForm, ReplyParser, ReplyPiece, Thoughts};
pub use special::Special;
pub use stop::{Emitted, MAX_STOP_BYTES, MAX_STOPS, StopError, StopMatcher};
pub use template::{
    ChatTemplate, Content, FunctionCall, Layout, MAX_MESSAGES, Message, Part, RenderOptions,
    Rendered, TemplateCaps, TemplateError, ToolCall,
};
pub use tokenizer::{AddBos, ControlTokens, MAX_TEXT_BYTES, Tokenizer};
pub use vocabulary::TokenId;
