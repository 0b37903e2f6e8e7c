//! One sequence: its token log, and how much of the log the ring holds.
//!
//! The log is the truth and outlives every plan. A run is always the next unsent part of the log, whoever wrote that
//! part, so computing a prompt, continuing an answer and rebuilding both in a new ring are the same act: set `AtRing`
//! to its default and the whole log is sent again.

use std::{sync::Arc, time::Duration};

use potluck_proto::{Logprobs, Run, RunResult, Sampling, SeqId, StepId};

use super::{
    FinishReason, Finished, GenerateError, GenerateEvent, GenerateRequest, RingLimits,
    flight::FlightRun,
};

/// A request from its prompt to the end of its answer.
#[derive(Debug)]
pub(super) struct Sequence {
    pub id: SeqId,
    /// The prompt, then the answer so far.
    log: Vec<u32>,
    n_prompt: u32,
    max_tokens: u32,
    sampling: Sampling,
    end_tokens: Arc<[u32]>,
    at_ring: AtRing,
    /// Nothing more is computed or told; it stays until the ring may release it.
    ended: bool,
    admitted_at: Duration,
    first_token_at: Option<Duration>,
}

/// What the ring holds of a sequence under the plan in force.
#[derive(Debug, Default)]
struct AtRing {
    /// Positions sent.
    sent: u32,
    /// Positions that came back computed.
    computed: u32,
    runs_in_flight: u32,
    last_step: Option<StepId>,
    lost: Option<LostRun>,
}

/// A run that was missing from its step's result. A worker says why on another connection, a little later.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostRun {
    /// The step that came back without the run.
    pub step: StepId,
    /// Until when the explanation is awaited.
    pub deadline: Duration,
}

impl Sequence {
    /// A sequence of which nothing is computed. The prompt is shorter than the context.
    pub fn new(id: SeqId, request: GenerateRequest) -> Self {
        Sequence {
            id,
            n_prompt: request.prompt.len() as u32,
            log: request.prompt,
            max_tokens: request.max_tokens,
            sampling: request.sampling,
            end_tokens: request.end_tokens,
            at_ring: AtRing::default(),
            ended: false,
            admitted_at: Duration::ZERO,
            first_token_at: None,
        }
    }

    /// Notes that the sequence has its place in the ring.
    pub fn admit(&mut self, now: Duration) {
        self.admitted_at = now;
    }

    /// Tokens of the log that the ring has not been sent.
    pub fn n_unsent(&self) -> u32 {
        self.log.len() as u32 - self.at_ring.sent
    }

    /// Whether the ring lacks nothing but the newest token of the answer.
    pub fn is_decoding(&self) -> bool {
        let all_but_newest = self.at_ring.computed + 1 == self.log.len() as u32;
        !self.ended && self.n_generated() > 0 && all_but_newest
    }

    /// Whether the newest token of the answer waits to be sent.
    pub fn can_decode(&self) -> bool {
        self.is_decoding() && self.n_unsent() == 1 && self.at_ring.lost.is_none()
    }

    /// Whether a chunk of the log waits to be sent.
    pub fn can_prefill(&self) -> bool {
        let open = !self.ended && self.at_ring.lost.is_none();
        open && !self.is_decoding() && self.n_unsent() > 0
    }

    /// The step that last carried a part of it.
    pub fn last_step(&self) -> Option<StepId> {
        self.at_ring.last_step
    }

    /// Sends the next `n_tokens` of the log with `step`. The run that reaches the end of the log asks for a token.
    pub fn send(&mut self, step: StepId, n_tokens: u32) -> Run {
        let pos = self.at_ring.sent;
        let end = pos + n_tokens;
        self.at_ring.sent = end;
        self.at_ring.runs_in_flight += 1;
        self.at_ring.last_step = Some(step);
        let reaches_end = end as usize == self.log.len();
        Run {
            seq: self.id,
            pos,
            tokens: self.log[pos as usize..end as usize].to_vec(),
            rollback: false,
            sampling: reaches_end.then(|| Sampling {
                index: self.n_generated(),
                ..self.sampling.clone()
            }),
        }
    }

    /// Notes that the step of one of its runs came back, with or without the run.
    pub fn run_landed(&mut self) {
        self.at_ring.runs_in_flight = self.at_ring.runs_in_flight.saturating_sub(1);
    }

    /// Takes what the ring computed; returns what the client is told.
    pub fn run_computed(
        &mut self,
        now: Duration,
        run: FlightRun,
        result: RunResult,
        limits: &RingLimits,
    ) -> Result<Vec<GenerateEvent>, GenerateError> {
        if result.kv_len != run.end {
            return Err(GenerateError::OutOfStep {
                kv_len: result.kv_len,
                expected: run.end,
            });
        }
        let was_prompt = self.at_ring.computed < self.n_prompt;
        self.at_ring.computed = run.end;
        let progress = GenerateEvent::Progress {
            done: run.end.min(self.n_prompt),
            total: self.n_prompt,
        };
        // A log that is sent again after its answer began tells no progress a second time.
        let tell = was_prompt && self.n_generated() == 0;
        let mut events: Vec<_> = tell.then_some(progress).into_iter().collect();
        if run.samples {
            let index = self.n_generated();
            let token = result.token.ok_or(GenerateError::TokenMissing { index })?;
            check_ids(token, result.logprobs.as_ref(), limits)?;
            let logprobs = self.told(result.logprobs)?;
            self.sampled(now, token, logprobs, limits, &mut events);
        }
        Ok(events)
    }

    /// The log-probabilities that the client is told: those that it asked for.
    fn told(&self, logprobs: Option<Logprobs>) -> Result<Option<Logprobs>, GenerateError> {
        let index = self.n_generated();
        match self.sampling.top_logprobs {
            None => Ok(None),
            Some(_) if logprobs.is_none() => Err(GenerateError::LogprobsMissing { index }),
            Some(_) => Ok(logprobs),
        }
    }

    /// The log first, then the client.
    fn sampled(
        &mut self,
        now: Duration,
        token: u32,
        logprobs: Option<Logprobs>,
        limits: &RingLimits,
        events: &mut Vec<GenerateEvent>,
    ) {
        self.first_token_at.get_or_insert(now);
        if self.end_tokens.contains(&token) {
            events.push(self.finish(now, FinishReason::Stop));
            return;
        }
        let index = self.n_generated();
        self.log.push(token);
        events.push(GenerateEvent::Token {
            id: token,
            index,
            logprobs,
        });
        let context_is_full = self.log.len() as u32 >= limits.context_tokens;
        if self.n_generated() >= self.max_tokens || context_is_full {
            events.push(self.finish(now, FinishReason::Length));
        }
    }

    fn finish(&mut self, now: Duration, reason: FinishReason) -> GenerateEvent {
        self.ended = true;
        let first_token_at = self.first_token_at.unwrap_or(now);
        GenerateEvent::Finished(Finished {
            reason,
            n_prompt: self.n_prompt,
            n_generated: self.n_generated(),
            prompt_ms: millis(first_token_at.saturating_sub(self.admitted_at)),
            generate_ms: millis(now.saturating_sub(first_token_at)),
        })
    }

    /// Ends it without a word: its client is gone, or has been told.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing more is computed for it.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the ring has heard of it and must be told to let it go.
    pub fn is_at_ring(&self) -> bool {
        self.at_ring.sent > 0
    }

    /// Whether the ring may let it go: it ended, and no run of it is under way that would open it again.
    pub fn can_release(&self) -> bool {
        self.ended && self.is_at_ring() && self.at_ring.runs_in_flight == 0
    }

    /// Notes that `step` came back without its run. The first such step is the one that went wrong.
    pub fn run_lost(&mut self, step: StepId, deadline: Duration) {
        self.at_ring.lost.get_or_insert(LostRun { step, deadline });
    }

    /// The run whose explanation is awaited.
    pub fn lost_run(&self) -> Option<LostRun> {
        self.at_ring.lost.filter(|_| !self.ended)
    }

    /// Tokens of the answer so far.
    fn n_generated(&self) -> u32 {
        self.log.len() as u32 - self.n_prompt
    }
}

/// Every id that the ring names is one of the model's.
fn check_ids(
    token: u32,
    logprobs: Option<&Logprobs>,
    limits: &RingLimits,
) -> Result<(), GenerateError> {
    let named = logprobs.iter().flat_map(|logprobs| &logprobs.top);
    let mut ids = named.map(|entry| entry.token).chain([token]);
    match ids.find(|id| *id >= limits.n_vocab) {
        Some(id) => Err(GenerateError::TokenOutOfVocabulary {
            id,
            n_vocab: limits.n_vocab,
        }),
        None => Ok(()),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
