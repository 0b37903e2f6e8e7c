//! What a request for a text completion means.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use super::body;
use super::chat_body::{Body, LogprobsField};
use super::chat_request::Reply;
use super::error::ApiError;
use super::field::Bounded;
use crate::answer::{AnswerRequest, Input};
use crate::text::TokenId;

/// What OpenAI takes where a request does not say.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// Prompts of one request; each takes a place in the queue.
const MAX_PROMPTS: usize = 16;

/// Ids of one prompt: more than any context has.
const MAX_IDS: usize = 1 << 20;

/// A checked request.
#[derive(Debug)]
pub(super) struct CompletionRequest {
    /// `None` takes whatever is served.
    pub model: Option<String>,
    pub reply: Reply,
    /// Answers to each prompt.
    pub n: u32,
    pub asks_logprobs: bool,
    /// One for each prompt.
    pub questions: Vec<AnswerRequest>,
}

impl CompletionRequest {
    pub(super) fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        let mut body: Body = body::parse(body)?;
        body.refuse_what_is_not_offered()?;
        refuse_more_than_text(&body)?;
        let prompts = body.prompt.take();
        let prompts = prompts.ok_or_else(|| ApiError::invalid("`prompt` is missing"))?;
        let inputs = prompts.inputs()?;
        let (model, reply, n) = (body.model.take(), body.reply(), body.n()?);
        let mut question = body.into_question(Input::Tokens(Vec::new()))?;
        question.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        let questions = inputs.into_iter().map(|input| AnswerRequest {
            input,
            ..question.clone()
        });
        Ok(CompletionRequest {
            model,
            reply,
            n,
            asks_logprobs: question.sampling.top_logprobs.is_some(),
            questions: questions.collect(),
        })
    }
}

fn refuse_more_than_text(body: &Body) -> Result<(), ApiError> {
    if body.echo == Some(true) {
        return Err(ApiError::invalid(
            "`echo` is not supported: the answer begins after the prompt; leave it out",
        ));
    }
    if body
        .suffix
        .as_deref()
        .is_some_and(|suffix| !suffix.is_empty())
    {
        return Err(ApiError::invalid(
            "`suffix` is not supported; write the model's own tokens for filling in into `prompt`",
        ));
    }
    match body.logprobs {
        Some(LogprobsField::Wanted(true)) => Err(ApiError::invalid(
            "`logprobs` is true; here it is the number of likely tokens to tell",
        )),
        _ => Ok(()),
    }
}

/// `prompt`: a text, token ids, or a list of either.
pub(super) enum Prompts {
    Text(String),
    List(Vec<Prompt>),
}

/// What a list of prompts may hold.
pub(super) enum Prompt {
    Text(String),
    Id(TokenId),
    Ids(Vec<TokenId>),
}

impl Prompts {
    fn inputs(self) -> Result<Vec<Input>, ApiError> {
        let list = match self {
            Prompts::Text(text) => return Ok(vec![Input::Spelled(text)]),
            Prompts::List(list) => list,
        };
        if list.is_empty() {
            return Err(ApiError::invalid("`prompt` is an empty list"));
        }
        if let Some(ids) = all_ids(&list) {
            return Ok(vec![Input::Tokens(ids)]);
        }
        if list.len() > MAX_PROMPTS {
            let n = list.len();
            return Err(ApiError::invalid(format!(
                "`prompt` has {n} prompts; at most {MAX_PROMPTS} are accepted in one request"
            )));
        }
        let input = |(at, prompt)| match prompt {
            Prompt::Text(text) => Ok(Input::Spelled(text)),
            Prompt::Ids(ids) => Ok(Input::Tokens(ids)),
            Prompt::Id(_) => Err(ApiError::invalid(format!(
                "`prompt[{at}]` is a token id beside whole prompts; put it into a list of its own"
            ))),
        };
        list.into_iter().enumerate().map(input).collect()
    }
}

/// The ids, if there is nothing else.
fn all_ids(list: &[Prompt]) -> Option<Vec<TokenId>> {
    let id = |prompt: &Prompt| match prompt {
        Prompt::Id(id) => Some(*id),
        _ => None,
    };
    list.iter().map(id).collect()
}

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptsVisitor)
    }
}

struct PromptsVisitor;

impl<'de> Visitor<'de> for PromptsVisitor {
    type Value = Prompts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of token ids, or a list of texts or lists of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompts, E> {
        Ok(Prompts::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<Prompts, A::Error> {
        let list = SeqAccessDeserializer::new(entries);
        Bounded::<Prompt, MAX_IDS>::deserialize(list).map(|list| Prompts::List(list.0))
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Prompt, E> {
        let id = TokenId::try_from(id);
        id.map(Prompt::Id)
            .map_err(|_| E::custom("a token id is a number of 32 bits"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, ids: A) -> Result<Prompt, A::Error> {
        let list = SeqAccessDeserializer::new(ids);
        Bounded::<TokenId, MAX_IDS>::deserialize(list).map(|list| Prompt::Ids(list.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prompts, with `~` before a text and `#` before ids.
    fn inputs(prompt: &str) -> Result<Vec<String>, String> {
        let body = format!(r#"{{"prompt": {prompt}}}"#);
        let request =
            CompletionRequest::parse(body.as_bytes()).map_err(|error| format!("{error:?}"))?;
        let shown = request
            .questions
            .into_iter()
            .map(|question| match question.input {
                Input::Spelled(text) => format!("~{text}"),
                Input::Tokens(ids) => format!("#{ids:?}"),
                other => format!("{other:?}"),
            });
        Ok(shown.collect())
    }

    #[test]
    fn prompts_are_texts_or_ids_or_lists_of_them() {
        let cases: [(&str, &[&str]); 4] = [
            (r#""a""#, &["~a"]),
            (r#"["a", "b"]"#, &["~a", "~b"]),
            ("[1, 2]", &["#[1, 2]"]),
            (r#"[[1], "a"]"#, &["#[1]", "~a"]),
        ];
        for (prompt, want) in cases {
            assert_eq!(inputs(prompt).unwrap(), want, "{prompt}");
        }
        let bad = [
            "[]",
            "5",
            "null",
            r#"[1, "a"]"#,
            "[-1]",
            r#"[["a"]]"#,
            "[5000000000]",
        ];
        for prompt in bad {
            assert!(inputs(prompt).is_err(), "{prompt}");
        }
        let many = serde_json::to_string(&vec!["x"; MAX_PROMPTS + 1]).unwrap();
        assert!(inputs(&many).is_err());
    }
}
