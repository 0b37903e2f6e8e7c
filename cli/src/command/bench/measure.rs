//! The measurements themselves: a loaded model, and steps of made-up tokens.

use std::time::Instant;

use anyhow::bail;
use potluck_proto::{Run, Sampling, SeqId, Step};
use potluck_worker::Stage;
use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A prompt.
    Prefill,
    /// Answers, one token of each at a time.
    Decode,
}

/// One line of the report.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Test {
    #[serde(rename = "test")]
    pub kind: Kind,
    /// Of the prompt, or of each answer.
    pub tokens: usize,
    /// Answers at once.
    pub batch: usize,
    /// Tokens in the context before.
    pub depth: usize,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prefill => "prefill",
            Kind::Decode => "decode",
        }
    }
}

/// A loaded model and the sequences that measurements run on.
pub(super) struct Bench {
    stage: Stage,
    next_seq: u64,
}

impl Bench {
    pub fn new(stage: Stage) -> Bench {
        Bench { stage, next_seq: 0 }
    }

    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Tokens a second of one run of a test.
    pub fn run(&mut self, test: &Test) -> anyhow::Result<f64> {
        let Test {
            kind,
            tokens,
            batch,
            depth,
        } = *test;
        match kind {
            Kind::Prefill => self.prefill(tokens, depth),
            Kind::Decode => self.decode(tokens, batch, depth),
        }
    }

    /// Tokens a second of a prompt of `n_tokens` after `depth` tokens.
    fn prefill(&mut self, n_tokens: usize, depth: usize) -> anyhow::Result<f64> {
        let seq = self.open(depth)?;
        let start = Instant::now();
        self.extend(seq, depth, n_tokens)?;
        let seconds = start.elapsed().as_secs_f64();
        self.stage.release(seq);
        Ok(n_tokens as f64 / seconds)
    }

    /// Tokens a second, over all of `batch` answers, after `depth` tokens each.
    fn decode(&mut self, n_tokens: usize, batch: usize, depth: usize) -> anyhow::Result<f64> {
        let seqs = (0..batch)
            .map(|_| self.open(depth))
            .collect::<anyhow::Result<Vec<_>>>()?;
        self.decode_step(&seqs, depth)?;
        let start = Instant::now();
        for pos in depth + 1..=depth + n_tokens {
            self.decode_step(&seqs, pos)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        seqs.iter().for_each(|seq| self.stage.release(*seq));
        Ok((n_tokens * batch) as f64 / seconds)
    }

    /// A sequence that holds `depth` tokens.
    fn open(&mut self, depth: usize) -> anyhow::Result<SeqId> {
        let seq = SeqId(self.next_seq);
        self.next_seq += 1;
        self.extend(seq, 0, depth)?;
        Ok(seq)
    }

    fn extend(&mut self, seq: SeqId, pos: usize, n_tokens: usize) -> anyhow::Result<()> {
        let max_step = self.stage.config().limits.max_step_tokens;
        for from in (0..n_tokens).step_by(max_step) {
            let n_chunk = max_step.min(n_tokens - from);
            let tokens = (0..n_chunk).map(|i| self.token(pos + from + i)).collect();
            // The prompt's last position is sampled, as it would be.
            let sampling = (from + n_chunk == n_tokens).then(Sampling::greedy);
            let run = Run {
                seq,
                pos: (pos + from) as u32,
                tokens,
                rollback: false,
                sampling,
            };
            self.step(Step::of_run(run))?;
        }
        Ok(())
    }

    fn decode_step(&mut self, seqs: &[SeqId], pos: usize) -> anyhow::Result<()> {
        let run = |seq: &SeqId| Run {
            seq: *seq,
            pos: pos as u32,
            tokens: vec![self.token(pos + seq.0 as usize)],
            rollback: false,
            sampling: Some(Sampling::greedy()),
        };
        let mut step = Step::of_run(run(&seqs[0]));
        step.runs.extend(seqs[1..].iter().map(run));
        self.step(step)
    }

    fn step(&mut self, step: Step) -> anyhow::Result<()> {
        match self.stage.step(&step, &[]).faults.first() {
            Some(fault) => bail!("a step could not be computed: {fault}"),
            None => Ok(()),
        }
    }

    /// Token ids that spread over the vocabulary; what they mean does not matter to the time they take.
    fn token(&self, index: usize) -> u32 {
        (index as u32).wrapping_mul(2_654_435_761) % self.stage.config().shape.n_vocab
    }
}
