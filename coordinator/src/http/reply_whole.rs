//! A reply that is sent whole: the answers are collected to their ends.

use super::chat_logprobs::ChoiceLogprobs;
use super::error::ApiError;
use super::request_log::RequestLog;
use crate::answer::{AnswerError, AnswerEvent, Choices, Delta, Finish, Timings};
use crate::text::Tokenizer;

/// One answer.
#[derive(Debug, Clone, Default)]
pub(super) struct WholeAnswer {
    pub text: String,
    /// If they were asked for.
    pub logprobs: Option<ChoiceLogprobs>,
    /// Set at its end.
    pub finish: Option<Finish>,
}

impl WholeAnswer {
    fn append(&mut self, delta: &Delta, tokenizer: &Tokenizer) {
        self.text.push_str(&delta.text);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.append(ChoiceLogprobs::of(delta, tokenizer));
        }
    }
}

/// All answers to their ends, and their accounts in one.
pub(super) async fn collect(
    choices: &mut Choices,
    asks_logprobs: bool,
    tokenizer: &Tokenizer,
    log: &mut RequestLog,
) -> Result<(Vec<WholeAnswer>, Timings), ApiError> {
    let blank = WholeAnswer {
        logprobs: asks_logprobs.then(ChoiceLogprobs::default),
        ..Default::default()
    };
    let mut answers = vec![blank; choices.n() as usize];
    let mut timings = Vec::new();
    while timings.len() < answers.len() {
        let (index, event) = next(choices).await?;
        let answer = &mut answers[index as usize];
        match event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                answer.append(&delta, tokenizer);
                log.predicted(choices.n_predicted());
            }
            AnswerEvent::Done(done) => {
                answer.finish = Some(done.finish);
                timings.push(done.timings);
            }
            AnswerEvent::Failed(error) => return Err(error.into()),
        }
    }
    let timings = choices.timings(&timings);
    log.done(&timings);
    Ok((answers, timings))
}

/// The next event of answers that are not at their end.
pub(super) async fn next(choices: &mut Choices) -> Result<(u32, AnswerEvent), ApiError> {
    choices
        .next()
        .await
        .ok_or_else(|| AnswerError::EndedEarly.into())
}
