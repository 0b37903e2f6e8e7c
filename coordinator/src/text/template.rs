//! Chat templates: the messages of a chat become the prompt that a model was trained on.
//!
//! The template comes out of a model file, so it is a program by a stranger: it runs in minijinja without a loader, with
//! fuel that bounds its time and memory (`armour`), and with a bounded output. Messages are a user's, so control tokens in them are
//! guarded: they reach the tokenizer as text. What templates expect beyond Jinja itself is in `glue`; where the engine gives
//! something else than Python, the `python_` modules take its place.

mod armour;
mod glue;
mod layout;
mod message;
mod probe;
mod probe_reply;
mod python_filters;
mod python_json;
mod python_methods;
mod python_ops;
mod python_str;
mod weigh;

use std::time::SystemTime;

use aho_corasick::AhoCorasick;
use minijinja::machinery::{eval, make_string_output};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use potluck_gguf::Metadata;
use serde_json::{Map, Value as Json};

pub use layout::Layout;
pub use message::{Content, FunctionCall, Message, Part, ToolCall};
pub use probe_reply::TemplateCaps;

use super::reply::ReplyForm;
use super::tokenizer::{MAX_TEXT_BYTES, Tokenizer};
use message::Expectations;

const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The longest templates in use have 20 KiB.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;

/// What one rendering may use before its input is counted: some 400 000 instructions or 25 MB of strings. Real templates
/// need a few hundred.
const BASE_FUEL: u64 = 400_000;

/// Instructions for one more message: real templates use 20 to 200.
const FUEL_PER_MESSAGE: u64 = 400;

/// Engine and glue charge one unit for about 64 bytes; a text may pass through a dozen filters on its way.
const INPUT_BYTES_PER_FUEL: u64 = 4;

/// More messages than any context holds.
pub const MAX_MESSAGES: usize = 20_000;

/// Marks a control token's spelling in a message, behind its first character, so that it is not taken for the token.
/// A noncharacter: text has no use for it, and where it occurs all the same it is dropped.
const GUARD: char = '\u{FDD0}';

/// Names that the template gets from us; a request cannot replace them.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "strftime_now",
    "raise_exception",
];

/// A chat that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template cannot be read: {0}")]
    Metadata(#[from] potluck_gguf::GgufError),
    #[error("the model's chat template has {bytes} bytes; at most {max} are accepted")]
    TooLarge { bytes: usize, max: usize },
    #[error("the model's chat template is not valid: {0}")]
    Syntax(#[source] minijinja::Error),
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    #[error(
        "the chat template did not finish within its limit of {fuel} steps; shorten the chat or use another template"
    )]
    OutOfFuel { fuel: u64 },
    #[error("the rendered chat has more than {max} bytes")]
    OutputTooLong { max: usize },
    #[error("the chat template failed: {0}")]
    Failed(#[source] minijinja::Error),
    #[error("{count} messages are too many; at most {max} are accepted")]
    TooManyMessages { count: usize, max: usize },
    #[error("message {message} has a part of type '{kind}'; only text is supported")]
    UnsupportedPart { message: usize, kind: String },
    #[error(
        "the arguments of tool call {call} in message {message} are not a JSON object: {reason}"
    )]
    ToolArguments {
        message: usize,
        call: usize,
        reason: String,
    },
    #[error("'{name}' is set by the server and cannot be a template argument")]
    ReservedArgument { name: String },
}

/// What a request may set beside its messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Tool definitions as in the request; passed on as they are.
    pub tools: Option<Json>,
    /// Further variables, such as `enable_thinking` or `documents`.
    pub arguments: Map<String, Json>,
    /// The time that `strftime_now` shows.
    pub now: SystemTime,
}

impl RenderOptions {
    pub fn new(now: SystemTime) -> RenderOptions {
        RenderOptions {
            add_generation_prompt: true,
            tools: None,
            arguments: Map::new(),
            now,
        }
    }
}

/// A rendered chat. `Tokenizer::encode_chat` turns it into tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    guarded: String,
}

impl Rendered {
    /// The prompt as text. Encoding this text instead of the `Rendered` would let messages speak in control tokens.
    pub fn text(&self) -> String {
        Rendered::unguard(&self.guarded)
    }

    pub(super) fn guarded(&self) -> &str {
        &self.guarded
    }

    pub(super) fn unguard(text: &str) -> String {
        text.replace(GUARD, "")
    }
}

/// The chat template of a model, compiled.
pub struct ChatTemplate {
    /// As the model file has it.
    written: String,
    source: String,
    syntax: SyntaxConfig,
    environment: Environment<'static>,
    control: AhoCorasick,
    bos: String,
    eos: String,
    expects: Expectations,
    reply_form: ReplyForm,
    caps: TemplateCaps,
}

impl ChatTemplate {
    /// The template in the model file. `None` for base models, which have none.
    pub fn from_gguf(
        meta: &Metadata<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        match meta.str(TEMPLATE_KEY)? {
            Some(source) => ChatTemplate::new(source, tokenizer).map(Some),
            None => Ok(None),
        }
    }

    /// Compiles a template from elsewhere, such as a file that the operator names.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(TemplateError::TooLarge {
                bytes: source.len(),
                max: MAX_TEMPLATE_BYTES,
            });
        }
        let mut template = ChatTemplate {
            written: source.to_owned(),
            source: glue::without_generation_tags(source),
            syntax: glue::syntax().map_err(TemplateError::Syntax)?,
            environment: glue::environment(),
            control: tokenizer.control_search(),
            bos: tokenizer.bos_text().unwrap_or_default().to_owned(),
            eos: tokenizer.eos_text().unwrap_or_default().to_owned(),
            expects: Expectations::default(),
            reply_form: ReplyForm::default(),
            caps: TemplateCaps::default(),
        };
        armour::check_source(&template.source, &template.syntax).map_err(TemplateError::Syntax)?;
        armour::compile(glue::NAME, &template.source, &template.syntax)
            .map_err(TemplateError::Syntax)?;
        template.expects = probe::expectations(&template);
        (template.reply_form, template.caps) = probe_reply::learn(&template);
        Ok(template)
    }

    /// The template as it was given.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// How the model that the template belongs to writes thoughts and calls.
    pub fn reply_form(&self) -> ReplyForm {
        self.reply_form
    }

    pub fn caps(&self) -> TemplateCaps {
        self.caps
    }

    /// Renders a chat.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Rendered, TemplateError> {
        check_count(messages.len())?;
        let messages = message::to_json(messages, self.expects)?;
        let no_tools = || self.expects.no_tools.json();
        let tools = options.tools.clone().unwrap_or_else(no_tools);
        self.render_values(messages, tools, options)
    }

    /// Renders messages that the template gets as they are, in whatever form they have.
    pub fn render_json(
        &self,
        messages: Vec<Json>,
        options: &RenderOptions,
    ) -> Result<Rendered, TemplateError> {
        check_count(messages.len())?;
        let tools = options.tools.clone().unwrap_or(Json::Null);
        self.render_values(messages, tools, options)
    }

    fn render_values(
        &self,
        mut messages: Vec<Json>,
        mut tools: Json,
        options: &RenderOptions,
    ) -> Result<Rendered, TemplateError> {
        if let Some(name) = options
            .arguments
            .keys()
            .find(|name| RESERVED.contains(&name.as_str()))
        {
            return Err(TemplateError::ReservedArgument { name: name.clone() });
        }
        let mut input_bytes = 0;
        messages
            .iter_mut()
            .for_each(|message| self.guard(message, &mut input_bytes));
        self.guard(&mut tools, &mut input_bytes);
        let mut arguments = Json::Object(options.arguments.clone());
        self.guard(&mut arguments, &mut input_bytes);
        let fuel = BASE_FUEL
            + FUEL_PER_MESSAGE * messages.len() as u64
            + input_bytes / INPUT_BYTES_PER_FUEL;

        let mut variables = match arguments {
            Json::Object(map) => map,
            _ => Map::new(),
        };
        variables.entry("documents").or_insert(Json::Null);
        variables.insert("messages".into(), Json::Array(messages));
        variables.insert("tools".into(), tools);
        variables.insert(
            "add_generation_prompt".into(),
            Json::Bool(options.add_generation_prompt),
        );
        variables.insert("bos_token".into(), Json::String(self.bos.clone()));
        variables.insert("eos_token".into(), Json::String(self.eos.clone()));
        self.run(variables, options.now, fuel)
    }

    fn run(
        &self,
        variables: Map<String, Json>,
        now: SystemTime,
        fuel: u64,
    ) -> Result<Rendered, TemplateError> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        environment.add_global("strftime_now", glue::strftime(now));
        let compiled = armour::compile(glue::NAME, &self.source, &self.syntax)
            .map_err(TemplateError::Syntax)?;
        let context = Value::from(Serde(&variables));
        let mut guarded = String::new();
        let mut output = make_string_output(&mut guarded);
        let result = eval(
            &environment,
            &compiled.main,
            context,
            &compiled.blocks,
            &mut output,
            AutoEscape::None,
        );
        result.map(drop).map_err(|error| explain(error, fuel))?;
        if guarded.len() > MAX_TEXT_BYTES {
            return Err(TemplateError::OutputTooLong {
                max: MAX_TEXT_BYTES,
            });
        }
        Ok(Rendered { guarded })
    }

    /// Guards every string in a value that comes from a request, and counts its bytes.
    fn guard(&self, value: &mut Json, bytes: &mut u64) {
        *bytes += 16; // A number, a bracket or a key costs something too.
        match value {
            Json::String(text) => {
                *bytes += text.len() as u64;
                *text = self.guarded_text(text);
            }
            Json::Array(items) => items.iter_mut().for_each(|item| self.guard(item, bytes)),
            Json::Object(map) => {
                let entries = std::mem::take(map).into_iter();
                *map = entries
                    .map(|(key, mut value)| {
                        *bytes += key.len() as u64;
                        self.guard(&mut value, bytes);
                        (self.guarded_text(&key), value)
                    })
                    .collect();
            }
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }

    fn guarded_text(&self, text: &str) -> String {
        let text = text.replace(GUARD, "");
        let starts = self
            .control
            .find_overlapping_iter(&text)
            .map(|found| found.start());
        let mut cuts: Vec<usize> = starts
            .filter_map(|start| Some(start + text.get(start..)?.chars().next()?.len_utf8()))
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut out = String::with_capacity(text.len() + cuts.len() * GUARD.len_utf8());
        let mut at = 0;
        for cut in cuts {
            out.push_str(text.get(at..cut).unwrap_or_default());
            out.push(GUARD);
            at = cut;
        }
        out.push_str(text.get(at..).unwrap_or_default());
        out
    }
}

fn check_count(count: usize) -> Result<(), TemplateError> {
    let max = MAX_MESSAGES;
    if count > max {
        return Err(TemplateError::TooManyMessages { count, max });
    }
    Ok(())
}

fn explain(error: minijinja::Error, fuel: u64) -> TemplateError {
    if let Some(message) = glue::refusal(&error) {
        return TemplateError::Refused(message);
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::OutOfFuel { fuel },
        _ => TemplateError::Failed(error),
    }
}
