//! A SentencePiece tokenizer in which every byte is a token, and a template of one line.

use std::sync::Arc;

use potluck_coordinator::answer::ServedModel;
use potluck_coordinator::text::{ChatTemplate, Tokenizer};
use potluck_gguf::{Gguf, GgufWriter, OwnedValue};

pub const NAME: &str = "echo/tiny";
pub const END: u32 = 2;
pub const FIRST_BYTE: u32 = 3;
pub const SPACE: u32 = FIRST_BYTE + 256;
pub const N_VOCAB: u32 = SPACE + 1;

const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'tool' %}\
    {{ raise_exception('no tools here') }}{% endif %}{{ message.role }}:{{ message.content }}</s>{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// The bytes that a token stands for.
pub fn bytes_of(token: u32) -> Vec<u8> {
    match token {
        SPACE => vec![b' '],
        token => u8::try_from(token.wrapping_sub(FIRST_BYTE))
            .into_iter()
            .collect(),
    }
}

pub fn token_of(byte: u8) -> u32 {
    FIRST_BYTE + u32::from(byte)
}

pub fn served(context_tokens: u32, chats: bool) -> ServedModel {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    let template = chats.then(|| ChatTemplate::new(TEMPLATE, &tokenizer).unwrap());
    ServedModel {
        name: NAME.to_owned(),
        tokenizer: Arc::new(tokenizer),
        template,
        context_tokens,
        created: 1_700_000_000,
    }
}

fn file() -> Vec<u8> {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.push("\u{2581}".to_owned());
    let mut types = vec![2, 3, 3];
    types.resize(SPACE as usize, 6);
    types.push(1);
    GgufWriter::new()
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", OwnedValue::strings(&tokens))
        .with(
            "tokenizer.ggml.scores",
            OwnedValue::f32s(&vec![0.0; tokens.len()]),
        )
        .with("tokenizer.ggml.token_type", OwnedValue::i32s(&types))
        .with("tokenizer.ggml.add_space_prefix", false)
        .to_bytes()
}
