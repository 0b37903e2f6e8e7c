//! A step: what one pass round the ring computes, for many sequences at once.

use bytes::Bytes;

use crate::{Logprobs, Sampling, SeqId, StepId, WireError, limits, wire};

/// One pass round the ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Number within the plan, rising by one.
    pub id: StepId,
    /// What is computed. Empty in a probe or a pure release.
    pub runs: Vec<Run>,
    /// Sequences whose KV is freed after the step.
    pub release: Vec<SeqId>,
    /// Microseconds of compute of the stages passed so far.
    pub stage_us: Vec<u32>,
}

/// Consecutive positions of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The sequence.
    pub seq: SeqId,
    /// Position of the first token.
    pub pos: u32,
    /// Token ids at `pos`, `pos + 1`, ...
    pub tokens: Vec<u32>,
    /// Drop what the worker holds from `pos` on.
    pub rollback: bool,
    /// Sample a token after the last position.
    pub sampling: Option<Sampling>,
}

/// What the last stage returns for a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// The step.
    pub id: StepId,
    /// One for every run that was computed.
    pub runs: Vec<RunResult>,
    /// Microseconds of compute, stage by stage.
    pub stage_us: Vec<u32>,
}

/// What became of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// The sequence.
    pub seq: SeqId,
    /// Positions the last stage holds after the run.
    pub kv_len: u32,
    /// The sampled token, where one was asked for.
    pub token: Option<u32>,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
}

impl Step {
    /// A step of one run.
    pub fn of_run(run: Run) -> Step {
        Step {
            id: StepId(0),
            runs: vec![run],
            release: Vec::new(),
            stage_us: Vec::new(),
        }
    }

    /// Number of tokens over all runs.
    pub fn n_tokens(&self) -> usize {
        self.runs.iter().map(|run| run.tokens.len()).sum()
    }

    /// The header of the step's first frame.
    pub fn to_wire(&self) -> wire::StepHeader {
        wire::StepHeader {
            runs: self.runs.iter().map(Run::to_wire).collect(),
            release: self.release.iter().map(|seq| seq.0).collect(),
            stage_us: self.stage_us.clone(),
        }
    }

    /// The step that a header describes, checked against every limit.
    pub fn from_wire(id: u64, header: wire::StepHeader) -> Result<Step, WireError> {
        at_most(
            "runs",
            header.runs.len() as u64,
            limits::MAX_STEP_RUNS as u64,
        )?;
        at_most(
            "release",
            header.release.len() as u64,
            limits::MAX_STEP_RELEASES as u64,
        )?;
        at_most(
            "stage_us",
            header.stage_us.len() as u64,
            limits::MAX_STAGES as u64,
        )?;
        let runs = header
            .runs
            .into_iter()
            .map(Run::from_wire)
            .collect::<Result<Vec<_>, _>>()?;
        let step = Step {
            id: StepId(id),
            runs,
            release: header.release.into_iter().map(SeqId).collect(),
            stage_us: header.stage_us,
        };
        at_most(
            "tokens",
            step.n_tokens() as u64,
            limits::MAX_STEP_TOKENS as u64,
        )?;
        let mut seqs: Vec<_> = step.runs.iter().map(|run| run.seq).collect();
        seqs.sort_unstable();
        if seqs.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(WireError::Invalid {
                field: "runs",
                why: "a sequence occurs twice".into(),
            });
        }
        Ok(step)
    }
}

impl Run {
    fn to_wire(&self) -> wire::Run {
        wire::Run {
            seq: self.seq.0,
            pos: self.pos,
            tokens: self.tokens.iter().flat_map(|id| id.to_le_bytes()).collect(),
            rollback: self.rollback,
            sampling: self.sampling.as_ref().map(Sampling::to_wire),
        }
    }

    fn from_wire(run: wire::Run) -> Result<Run, WireError> {
        let tokens = token_ids(&run.tokens)?;
        if tokens.is_empty() {
            return Err(WireError::Missing("tokens"));
        }
        let end = u64::from(run.pos) + tokens.len() as u64;
        at_most("pos", end, limits::MAX_POSITIONS.into())?;
        Ok(Run {
            seq: SeqId(run.seq),
            pos: run.pos,
            tokens,
            rollback: run.rollback,
            sampling: run.sampling.map(Sampling::from_wire).transpose()?,
        })
    }
}

fn token_ids(bytes: &Bytes) -> Result<Vec<u32>, WireError> {
    let (ids, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(WireError::Invalid {
            field: "tokens",
            why: format!("{} bytes are no whole number of ids", bytes.len()),
        });
    }
    Ok(ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
}

impl StepResult {
    /// The result as a message.
    pub fn to_wire(&self, fence: wire::Fence) -> wire::StepResult {
        wire::StepResult {
            fence: Some(fence),
            step_id: self.id.0,
            runs: self.runs.iter().map(RunResult::to_wire).collect(),
            stage_us: self.stage_us.clone(),
        }
    }

    /// The result that a message describes.
    pub fn from_wire(result: wire::StepResult) -> Result<StepResult, WireError> {
        at_most(
            "runs",
            result.runs.len() as u64,
            limits::MAX_STEP_RUNS as u64,
        )?;
        Ok(StepResult {
            id: StepId(result.step_id),
            runs: result
                .runs
                .into_iter()
                .map(RunResult::from_wire)
                .collect::<Result<_, _>>()?,
            stage_us: result.stage_us,
        })
    }
}

impl RunResult {
    fn to_wire(&self) -> wire::RunResult {
        wire::RunResult {
            seq: self.seq.0,
            kv_len: self.kv_len,
            token: self.token,
            logprobs: self.logprobs.as_ref().map(Logprobs::to_wire),
        }
    }

    fn from_wire(run: wire::RunResult) -> Result<RunResult, WireError> {
        Ok(RunResult {
            seq: SeqId(run.seq),
            kv_len: run.kv_len,
            token: run.token,
            logprobs: run.logprobs.map(Logprobs::from_wire).transpose()?,
        })
    }
}

pub(crate) fn at_most(field: &'static str, got: u64, limit: u64) -> Result<(), WireError> {
    if got > limit {
        return Err(WireError::TooLarge { field, got, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        let run = |seq, tokens: &[u32]| Run {
            seq: SeqId(seq),
            pos: 7,
            tokens: tokens.to_vec(),
            rollback: false,
            sampling: Some(Sampling::greedy()),
        };
        Step {
            id: StepId(3),
            runs: vec![run(1, &[5, 6]), run(2, &[9])],
            release: vec![SeqId(8)],
            stage_us: vec![11],
        }
    }

    #[test]
    fn a_step_survives_the_wire() {
        let step = step();
        assert_eq!(Step::from_wire(3, step.to_wire()), Ok(step));
    }

    #[test]
    fn a_result_survives_the_wire() {
        let result = StepResult {
            id: StepId(3),
            runs: vec![RunResult {
                seq: SeqId(1),
                kv_len: 8,
                token: Some(4),
                logprobs: Some(Logprobs {
                    drawn: -1.5,
                    top: vec![],
                }),
            }],
            stage_us: vec![1, 2],
        };
        let wire = result.to_wire(wire::Fence::default());
        assert_eq!(StepResult::from_wire(wire.clone()), Ok(result));
        let mut lie = wire;
        lie.runs[0].logprobs.as_mut().unwrap().drawn = f32::NAN;
        assert!(StepResult::from_wire(lie).is_err());
    }

    #[test]
    fn bad_steps_are_refused() {
        type Damage = fn(&mut wire::StepHeader);
        let cases: [(&str, Damage); 7] = [
            ("odd token bytes", |h| {
                h.runs[0].tokens = Bytes::from_static(b"abc")
            }),
            ("no tokens", |h| h.runs[0].tokens = Bytes::new()),
            ("sequence twice", |h| h.runs[1].seq = 1),
            ("position overflow", |h| h.runs[0].pos = u32::MAX),
            ("temperature NaN", |h| {
                h.runs[0].sampling.as_mut().unwrap().temperature = f32::NAN;
            }),
            ("too many runs", |h| {
                h.runs = (0..300)
                    .map(|seq| wire::Run {
                        seq,
                        ..h.runs[0].clone()
                    })
                    .collect();
            }),
            ("too many tokens", |h| {
                h.runs[0].tokens = vec![0; 4 * 4096].into()
            }),
        ];
        for (what, damage) in cases {
            let mut header = step().to_wire();
            damage(&mut header);
            assert!(Step::from_wire(3, header).is_err(), "{what}");
        }
    }
}
