//! A stand-in for the workers: it keeps what each sequence holds, as a ring does, and the token that it "samples" spells what
//! the prompt asks for. `say:hello` answers `hello`, in which U+0007 is said as the control token `[TOOL_CALLS]`; `forever`
//! answers `xxxx...` without end; `seed` and `options` answer with what the run asks for. A token that is forbidden becomes a dot,
//! and the log-probabilities are a function of the index.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use potluck_coordinator::engine::{FaultKind, RingEvent, RingLimits, RunFault};
use potluck_proto::{
    Logprobs, PROTOCOL, Run, RunResult, Sampling, SeqId, Step, StepResult, TokenLogprob,
};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::model;

/// What a test sees of the ring, and how it holds it.
#[derive(Clone)]
pub struct RingControl {
    /// Each step takes one permit.
    pub permits: Arc<Semaphore>,
    /// Sequences that the ring holds.
    pub held: watch::Receiver<usize>,
    /// The latest prompt, as text.
    pub prompt: watch::Receiver<String>,
    /// Rings news to the engine.
    pub events: mpsc::Sender<RingEvent>,
}

struct Ring {
    sequences: HashMap<SeqId, Vec<u32>>,
    permits: Arc<Semaphore>,
    held: watch::Sender<usize>,
    prompt: watch::Sender<String>,
}

/// Time of one step, so that an answer without end takes long enough to be cancelled.
const STEP: Duration = Duration::from_micros(200);

pub fn start(
    mut steps: mpsc::Receiver<Step>,
    events: mpsc::Sender<RingEvent>,
    permits: Arc<Semaphore>,
) -> RingControl {
    let (held_tx, held) = watch::channel(0);
    let (prompt_tx, prompt) = watch::channel(String::new());
    let mut ring = Ring {
        sequences: HashMap::new(),
        permits: Arc::clone(&permits),
        held: held_tx,
        prompt: prompt_tx,
    };
    let news = events.clone();
    tokio::spawn(async move {
        while let Some(step) = steps.recv().await {
            ring.permits.acquire().await.unwrap().forget();
            tokio::time::sleep(STEP).await;
            for event in ring.compute(step) {
                let _ = news.send(event).await;
            }
        }
    });
    RingControl {
        permits,
        held,
        prompt,
        events,
    }
}

pub fn limits(context_tokens: u32, max_sequences: u32) -> RingLimits {
    RingLimits {
        n_stages: 1,
        context_tokens,
        max_sequences,
        max_step_tokens: 64,
        n_vocab: model::N_VOCAB,
        protocol: PROTOCOL,
    }
}

impl Ring {
    fn compute(&mut self, step: Step) -> Vec<RingEvent> {
        let mut events = Vec::new();
        let mut results = Vec::new();
        for run in &step.runs {
            match self.run(run) {
                Ok(result) => results.push(result),
                Err(message) => events.push(RingEvent::Fault(RunFault {
                    seq: run.seq,
                    step: step.id,
                    kind: FaultKind::NotFinite,
                    kv_len: run.pos,
                    message,
                })),
            }
        }
        for seq in &step.release {
            self.sequences.remove(seq);
        }
        self.held.send_replace(self.sequences.len());
        let result = StepResult {
            id: step.id,
            runs: results,
            stage_us: vec![],
        };
        events.push(RingEvent::Result(result));
        events
    }

    fn run(&mut self, run: &Run) -> Result<RunResult, String> {
        let log = self.sequences.entry(run.seq).or_default();
        log.truncate(run.pos as usize);
        assert_eq!(log.len(), run.pos as usize, "positions without a gap");
        log.extend(&run.tokens);
        let (mut token, mut logprobs) = (None, None);
        if let Some(sampling) = &run.sampling {
            let prompt = &log[..log.len() - sampling.index as usize];
            let text = text(prompt);
            if sampling.index == 0 {
                self.prompt.send_replace(text.clone());
            }
            if text.contains("break") && sampling.index == 2 {
                return Err("layer 3 gave NaN".to_owned());
            }
            let drawn = next(prompt, sampling);
            token = Some(drawn);
            logprobs = sampling
                .top_logprobs
                .map(|n_top| told(drawn, sampling.index, n_top));
        }
        Ok(RunResult {
            seq: run.seq,
            kv_len: log.len() as u32,
            token,
            logprobs,
        })
    }
}

/// Token 0 of an answer has log-probability -0, the next -0.25 and so on; of the others each is less likely by 1.
fn told(drawn: u32, index: u32, n_top: u32) -> Logprobs {
    let logprob = |rank: u32| -0.25 * index as f32 - rank as f32;
    let others = (model::END..).filter(|id| *id != drawn);
    let top = (0..).zip([drawn].into_iter().chain(others));
    Logprobs {
        drawn: logprob(0),
        top: top
            .take(n_top as usize)
            .map(|(rank, token)| TokenLogprob {
                token,
                logprob: logprob(rank),
            })
            .collect(),
    }
}

/// The prompt as text, with `|` for control tokens.
fn text(tokens: &[u32]) -> String {
    let bytes = tokens.iter().flat_map(|token| match token {
        0..model::FIRST_BYTE => vec![b'|'],
        token => model::bytes_of(*token),
    });
    String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
}

/// The next token of the answer to a prompt.
fn next(prompt: &[u32], sampling: &Sampling) -> u32 {
    let token = spelled(&text(prompt), sampling);
    let mut biases = sampling.logit_bias.iter();
    match biases.any(|entry| entry.token == token && entry.bias == f32::NEG_INFINITY) {
        true => model::token_of(b'.'),
        false => token,
    }
}

fn spelled(asked: &str, sampling: &Sampling) -> u32 {
    let answer = match asked {
        _ if asked.contains("forever") => return model::token_of(b'x'),
        _ if asked.contains("seed") => sampling.seed.to_string(),
        _ if asked.contains("options") => options(sampling),
        _ => said(asked).to_owned(),
    };
    let byte = answer.as_bytes().get(sampling.index as usize);
    byte.map_or(model::END, |byte| match byte {
        7 => model::CALLS,
        byte => model::token_of(*byte),
    })
}

fn said(asked: &str) -> &str {
    asked
        .rsplit_once("say:")
        .map_or("?", |(_, rest)| rest.split('|').next().unwrap_or_default())
}

/// What a request's options have become.
fn options(sampling: &Sampling) -> String {
    let biases = sampling.logit_bias.iter();
    let biases: Vec<_> = biases
        .map(|entry| format!("{}{:+}", entry.token, entry.bias))
        .collect();
    format!(
        "window {}, typical {}, sigma {}, xtc {} {}, dynatemp {} {}, bias {}",
        sampling.penalty_window,
        sampling.typical_p,
        sampling.top_n_sigma,
        sampling.xtc_probability,
        sampling.xtc_threshold,
        sampling.dynatemp_range,
        sampling.dynatemp_exponent,
        biases.join(" ")
    )
}
