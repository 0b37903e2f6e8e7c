//! Text-level answers: a chat or a text goes in, pieces of text come out.
//!
//! Joins what knows text (`text`: template, tokenizer, decoder, stop strings) with what knows sequences (`engine`: token ids
//! in, token ids out). The HTTP API and the command line both stand on this; nothing here knows either of them. Start at
//! [`Answerer::answer`], or [`Answerer::choices`] for several answers at once; `prompt` and `bias` are the way in, `writer` and
//! [`Answer`] the way out.

mod bias;
mod chat;
mod choices;
mod error;
mod prompt;
mod stream;
mod writer;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use potluck_proto::Sampling;
use tokio::sync::Semaphore;

use crate::engine::{EngineHandle, EngineStatus, GenerateRequest};
use crate::text::{AddBos, ChatTemplate, Reading, Special, StopMatcher, TokenId, Tokenizer};

use prompt::Prompt;

pub use bias::{Bias, BiasError, Biased};
pub use chat::Chat;
pub use choices::Choices;
pub use error::AnswerError;
pub use stream::Answer;
pub use writer::Delta;

/// Prompts that are rendered and encoded at the same time. It takes microseconds for usual prompts; more threads would only
/// let a crowd of very long ones hold more memory at once.
const MAX_PREPARING: usize = 4;

/// A model as those who ask see it.
pub struct ServedModel {
    /// The name that requests use.
    pub name: String,
    pub tokenizer: Arc<Tokenizer>,
    /// `None` for a base model, which continues text but does not chat.
    pub template: Option<ChatTemplate>,
    /// Positions that a prompt and its answer may take together.
    pub context_tokens: u32,
    /// Unix time in seconds at which the model was put up.
    pub created: u64,
}

/// What an answer continues.
#[derive(Debug, Clone)]
pub enum Input {
    /// A chat, laid out by the model's template.
    Chat(Chat),
    /// Text as it stands. Control tokens that are spelled out in it stay text.
    Raw(String),
    /// A prompt that somebody has laid out: what spells a control token is that token.
    Spelled(String),
    /// A prompt of token ids.
    Tokens(Vec<TokenId>),
}

/// One question.
#[derive(Debug, Clone)]
pub struct AnswerRequest {
    pub input: Input,
    /// `None` lets the answer go on until the model ends it or the context is full.
    pub max_tokens: Option<u32>,
    /// `seed`, `index` and `logit_bias` in it are ignored.
    pub sampling: Sampling,
    /// Tokens and texts that are made more or less likely.
    pub biases: Vec<Bias>,
    /// The model never ends the answer by itself.
    pub ignore_end: bool,
    /// The same seed gives the same answer; `None` draws one.
    pub seed: Option<u64>,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
}

/// What happens on the way to the end of an answer.
#[derive(Debug)]
pub enum AnswerEvent {
    /// Tokens of the prompt that have been computed, of how many.
    Progress { done: u32, total: u32 },
    /// The next piece of text.
    Delta(Delta),
    /// The end. All text came before.
    Done(Done),
    /// The end of an answer that could not be completed.
    Failed(AnswerError),
}

/// The end of a complete answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    pub finish: Finish,
    pub timings: Timings,
}

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// A stop string came: its index in the request's `stop`.
    StopString(usize),
    /// `max_tokens` or the context is used up.
    Length,
}

/// Token counts and how long they took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timings {
    pub prompt_tokens: u32,
    pub prompt_ms: f64,
    pub predicted_tokens: u32,
    /// From the first token of the answer to its last.
    pub predicted_ms: f64,
}

impl Timings {
    pub fn prompt_per_second(&self) -> f64 {
        per_second(self.prompt_tokens, self.prompt_ms)
    }

    /// Those of several answers to one prompt, which grew at the same time.
    pub fn together(all: &[Timings]) -> Timings {
        let longest = |ms: fn(&Timings) -> f64| all.iter().map(ms).fold(0.0, f64::max);
        let predicted = all.iter().map(|timings| timings.predicted_tokens);
        Timings {
            prompt_tokens: all.first().map_or(0, |timings| timings.prompt_tokens),
            prompt_ms: longest(|timings| timings.prompt_ms),
            predicted_tokens: predicted.fold(0, u32::saturating_add),
            predicted_ms: longest(|timings| timings.predicted_ms),
        }
    }

    /// The first token comes out of the prompt's computation and costs no time of its own.
    pub fn predicted_per_second(&self) -> f64 {
        per_second(self.predicted_tokens.saturating_sub(1), self.predicted_ms)
    }
}

fn per_second(tokens: u32, ms: f64) -> f64 {
    if ms > 0.0 {
        f64::from(tokens) / ms * 1000.0
    } else {
        0.0
    }
}

/// Answers questions with one model on one engine. Cheap to clone.
#[derive(Clone)]
pub struct Answerer {
    model: Arc<ServedModel>,
    engine: EngineHandle,
    end_tokens: Arc<[u32]>,
    preparing: Arc<Semaphore>,
}

/// A request as the engine is asked.
struct Question {
    prompt: Prompt,
    max_tokens: u32,
    sampling: Sampling,
    stops: StopMatcher,
}

impl Question {
    fn n_prompt(&self) -> u32 {
        u32::try_from(self.prompt.tokens.len()).unwrap_or(u32::MAX)
    }
}

impl Answerer {
    pub fn new(model: ServedModel, engine: EngineHandle) -> Answerer {
        Answerer {
            end_tokens: model.tokenizer.end_tokens().into(),
            model: Arc::new(model),
            engine,
            preparing: Arc::new(Semaphore::new(MAX_PREPARING)),
        }
    }

    pub fn model(&self) -> &ServedModel {
        &self.model
    }

    /// Asks. What is wrong with the request itself shows here; dropping the future or the [`Answer`] cancels.
    pub async fn answer(&self, request: AnswerRequest) -> Result<Answer, AnswerError> {
        let question = self.question(request).await?;
        self.begin(&question, 0).await
    }

    /// Asks for `n` answers. The first is what [`Answerer::answer`] would give.
    pub async fn choices(&self, request: AnswerRequest, n: u32) -> Result<Choices, AnswerError> {
        self.choices_of(vec![request], n).await
    }

    /// Asks for `n` answers to each of several questions, which differ in their input alone.
    pub async fn choices_of(
        &self,
        requests: Vec<AnswerRequest>,
        n: u32,
    ) -> Result<Choices, AnswerError> {
        let (mut answers, mut n_prompt, mut reading) = (Vec::new(), 0u32, Reading::default());
        for request in requests {
            let question = self.question(request).await?;
            for index in 0..n {
                answers.push(self.begin(&question, index).await?);
            }
            n_prompt = n_prompt.saturating_add(question.n_prompt());
            reading = question.prompt.reading;
        }
        Ok(Choices::new(answers, n_prompt, reading))
    }

    async fn question(&self, request: AnswerRequest) -> Result<Question, AnswerError> {
        let stops = StopMatcher::new(&request.stop)?;
        let sampling = Sampling {
            seed: request.seed.unwrap_or_else(random_u64),
            index: 0,
            logit_bias: [].into(),
            ..request.sampling
        };
        sampling.validate().map_err(AnswerError::Sampling)?;
        let (input, biases) = (request.input, request.biases);
        let never = match request.ignore_end {
            true => Arc::clone(&self.end_tokens),
            false => [].into(),
        };
        let prepared = self.prepare(move |model| {
            let biases = bias::resolve(&model.tokenizer, &biases, &never)?;
            Ok((prompt::prompt(model, input)?, biases))
        });
        let (prompt, biases) = prepared.await?;
        Ok(Question {
            prompt,
            max_tokens: request.max_tokens.unwrap_or(self.model.context_tokens),
            sampling: Sampling {
                logit_bias: biases.into(),
                ..sampling
            },
            stops,
        })
    }

    /// Begins answer `index` to a question.
    async fn begin(&self, question: &Question, index: u32) -> Result<Answer, AnswerError> {
        let sampling = Sampling {
            seed: choices::seed_of(question.sampling.seed, index),
            ..question.sampling.clone()
        };
        let generation = self.engine.generate(GenerateRequest {
            prompt: question.prompt.tokens.clone(),
            max_tokens: question.max_tokens,
            sampling,
            end_tokens: Arc::clone(&self.end_tokens),
        });
        let generation = generation.await?;
        let (tokenizer, stops) = (Arc::clone(&self.model.tokenizer), question.stops.clone());
        let marks = question.prompt.reading.marks();
        let writer = writer::AnswerWriter::new(tokenizer, stops, &marks);
        Ok(Answer::new(generation, writer, question.n_prompt()))
    }

    /// The prompt of a question as text.
    pub async fn render(&self, input: Input) -> Result<String, AnswerError> {
        self.prepare(move |model| prompt::text(model, input)).await
    }

    /// How many tokens the prompt of a question has.
    pub async fn n_prompt(&self, input: Input) -> Result<usize, AnswerError> {
        self.prepare(move |model| Ok(prompt::prompt(model, input)?.tokens.len()))
            .await
    }

    /// What the engine is doing.
    pub fn engine_status(&self) -> EngineStatus {
        self.engine.status()
    }

    /// The tokens of a text, as [`Tokenizer::encode`] gives them.
    pub async fn encode(
        &self,
        text: String,
        special: Special,
        add_bos: AddBos,
    ) -> Result<Vec<TokenId>, AnswerError> {
        self.prepare(move |model| Ok(model.tokenizer.encode(&text, special, add_bos)?))
            .await
    }

    /// Renders and encodes on a thread that may compute for long.
    async fn prepare<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ServedModel) -> Result<T, AnswerError> + Send + 'static,
    ) -> Result<T, AnswerError> {
        let _permit = self.preparing.acquire().await.ok();
        let model = Arc::clone(&self.model);
        let prepared = tokio::task::spawn_blocking(move || work(&model));
        prepared.await.map_err(|_| AnswerError::PreparationFailed)?
    }
}

/// A number that differs from call to call. The keys of the standard library's hash maps come from the system's randomness;
/// that is enough for seeds and ids, which are no secrets.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().hash_one(0u8)
}
