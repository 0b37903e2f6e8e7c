//! Text in and out of tokens: tokenizers, chat templates, streaming decoder.
