//! A SentencePiece tokenizer in which every byte is a token, and small templates.

use std::sync::Arc;

use potluck_coordinator::answer::ServedModel;
use potluck_coordinator::text::{ChatTemplate, Tokenizer};
use potluck_gguf::{Gguf, GgufWriter, OwnedValue};

pub const NAME: &str = "echo/tiny";
pub const END: u32 = 2;
pub const FIRST_BYTE: u32 = 3;
pub const SPACE: u32 = FIRST_BYTE + 256;
/// A control token, spelled `[TOOL_CALLS]`.
pub const CALLS: u32 = SPACE + 1;
pub const N_VOCAB: u32 = CALLS + 1;

pub const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'tool' %}\
    {{ raise_exception('no tools here') }}{% endif %}{{ message.role }}:{{ message.content }}</s>{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// Knows tools and thoughts, as Qwen's models write them.
pub const HERMES: &str = "{% if tools %}tools:{{ tools|tojson }}</s>{% endif %}\
    {% for message in messages %}{{ message.role }}:{{ message.content or '' }}\
    {% for call in message.tool_calls or [] %}<tool_call>{{ call.function|tojson }}</tool_call>{% endfor %}</s>{% endfor %}\
    {% if add_generation_prompt %}{{ reasoning_effort }}assistant:{% if enable_thinking %}<think>\n{% endif %}{% endif %}\
    {# </think> #}";

/// Knows tools as Mistral's models write them, and is as strict about ids.
pub const MISTRAL: &str = "{% for message in messages %}{{ message.role }}:{{ message.content or '' }}\
    {% for call in message.tool_calls or [] %}{% if call.id|length != 9 %}{{ raise_exception('nine letters') }}{% endif %}\
    [TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments|tojson }}{% endfor %}</s>{% endfor %}\
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

pub fn served(context_tokens: u32, template: Option<&str>) -> ServedModel {
    let file = file();
    let gguf = Gguf::parse(&file).unwrap();
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).unwrap();
    let template = template.map(|template| ChatTemplate::new(template, &tokenizer).unwrap());
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
    tokens.extend(["\u{2581}", "[TOOL_CALLS]"].map(str::to_owned));
    let mut types = vec![2, 3, 3];
    types.resize(SPACE as usize, 6);
    types.extend([1, 3]);
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
