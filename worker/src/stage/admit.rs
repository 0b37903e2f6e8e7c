//! Whether a run can be computed, was computed already, or breaks a rule.

use std::fmt;

use potluck_proto::{Run, Sampling, SeqId, Step};

use super::Stage;
use super::sequence::{LastOutput, Sequence};
use crate::kv::KvFull;

/// Why a run could not be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It begins beyond what the stage holds, or before it without a rollback.
    Gap,
    /// No room in the KV cache.
    KvFull,
    /// Hidden states or logits are not finite.
    NotFinite,
    /// It breaks a rule of the protocol.
    Invalid,
}

/// A run that could not be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFault {
    /// Its sequence.
    pub seq: SeqId,
    /// The kind of fault.
    pub fault: Fault,
    /// Positions the stage holds for the sequence.
    pub kv_len: u32,
    /// What happened, for people.
    pub why: String,
}

impl fmt::Display for RunFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What becomes of a run.
pub(super) enum Admission {
    Compute,
    /// It was the sequence's last one: its answer is still there.
    Repeat,
    Fault(RunFault),
}

impl Stage {
    /// Decides over every run, and reserves pages for those that will be computed.
    pub(super) fn admit(&mut self, step: &Step) -> Vec<Admission> {
        let limit = self.config.limits.max_step_tokens;
        let n_tokens = step.n_tokens();
        step.runs
            .iter()
            .map(|run| match n_tokens > limit {
                true => {
                    let why = format!("the step has {n_tokens} tokens, this stage takes {limit}");
                    Admission::Fault(self.fault(run, Fault::Invalid, why))
                }
                false => self.admit_run(run).unwrap_or_else(Admission::Fault),
            })
            .collect()
    }

    fn admit_run(&mut self, run: &Run) -> Result<Admission, RunFault> {
        self.check_values(run)?;
        let pos = run.pos as usize;
        if !self.sequences.contains_key(&run.seq) {
            self.open(run)?;
        }
        if run.rollback {
            self.roll_back(run)?;
        }
        let Some(sequence) = self.sequences.get_mut(&run.seq) else {
            return Err(self.fault(run, Fault::Invalid, "the sequence is not open".into()));
        };
        let held = sequence.tokens.len();
        if pos == held {
            return match self
                .kv
                .reserve(&mut sequence.table, held + run.tokens.len())
            {
                Ok(()) => Ok(Admission::Compute),
                Err(KvFull) => Err(self.fault(
                    run,
                    Fault::KvFull,
                    "the KV cache of this stage is full".into(),
                )),
            };
        }
        if is_repetition(sequence, run) {
            return Ok(Admission::Repeat);
        }
        let why = format!("the run begins at position {pos}, the stage holds {held}");
        Err(self.fault(run, Fault::Gap, why))
    }

    fn check_values(&self, run: &Run) -> Result<(), RunFault> {
        let shape = &self.config.shape;
        let context = self.config.limits.context_tokens;
        let biased = run.sampling.iter().flat_map(|s| s.logit_bias.iter());
        let biased = biased.map(|entry| entry.token);
        let mut ids = run.tokens.iter().copied().chain(biased);
        if let Some(id) = ids.find(|id| *id >= shape.n_vocab) {
            let why = format!("token {id} is outside the vocabulary of {}", shape.n_vocab);
            return Err(self.fault(run, Fault::Invalid, why));
        }
        let end = run.pos as usize + run.tokens.len();
        if end > context {
            let why = format!("the run ends at position {end}, the context holds {context}");
            return Err(self.fault(run, Fault::KvFull, why));
        }
        Ok(())
    }

    /// Makes room for a new sequence, which begins at position 0.
    fn open(&mut self, run: &Run) -> Result<(), RunFault> {
        let limit = self.config.limits.max_sequences;
        if run.pos != 0 {
            let why = format!(
                "the run begins at position {}, the stage holds nothing",
                run.pos
            );
            return Err(self.fault(run, Fault::Gap, why));
        }
        if self.sequences.len() >= limit {
            let why = format!("the stage holds {limit} sequences, its limit");
            return Err(self.fault(run, Fault::KvFull, why));
        }
        self.sequences.insert(run.seq, Sequence::default());
        Ok(())
    }

    fn roll_back(&mut self, run: &Run) -> Result<(), RunFault> {
        let Some(sequence) = self.sequences.get_mut(&run.seq) else {
            return Ok(());
        };
        let pos = run.pos as usize;
        if pos >= sequence.tokens.len() {
            return Ok(());
        }
        sequence.tokens.truncate(pos);
        sequence.last = Default::default();
        if self.kv.truncate(&mut sequence.table, pos) {
            return Ok(());
        }
        self.release(run.seq);
        let why =
            format!("the window before position {pos} is gone; the sequence must be sent again");
        Err(self.fault(run, Fault::Gap, why))
    }

    fn fault(&self, run: &Run, fault: Fault, why: String) -> RunFault {
        let kv_len = self
            .sequences
            .get(&run.seq)
            .map_or(0, |sequence| sequence.tokens.len() as u32);
        RunFault {
            seq: run.seq,
            fault,
            kv_len,
            why,
        }
    }
}

/// Whether a run is the sequence's last one over again. A run that asks for what was not drawn or not told is not.
fn is_repetition(sequence: &Sequence, run: &Run) -> bool {
    let pos = run.pos as usize;
    let last = &sequence.last;
    run.tokens.len() == last.n_tokens
        && pos + last.n_tokens == sequence.tokens.len()
        && sequence.tokens[pos..] == run.tokens
        && (!last.hidden.is_empty() || is_drawn(last, run.sampling.as_ref()))
}

fn is_drawn(last: &LastOutput, asked: Option<&Sampling>) -> bool {
    match (asked, &last.drawn) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(asked), Some(drawn)) => asked.top_logprobs.is_none() || drawn.logprobs.is_some(),
    }
}
