//! Which sequences a step serves, and with how many tokens each. Pure; nothing here changes a sequence.
//!
//! Decode rows come first, because someone is reading them. With n stages the decoding sequences are split into n
//! groups, one per step, so that every stage has a group to work on while each group stays as large as it can: a step
//! costs a stage one pass over its weights however few rows it carries. What room is left goes to prompts, oldest
//! first, so that the first of several waiting prompts is not slowed down by the others.

use std::collections::BTreeMap;

use potluck_proto::{SeqId, limits};

use super::{RingLimits, sequence::Sequence};

/// Prompt tokens in one step where a prompt must share the ring. Long enough that the time to read the weights is
/// hidden behind the arithmetic (a 1 GB span is read in 40 ms and multiplied with 128 tokens in about a second on two
/// cores); short enough that a prompt of 512 tokens keeps two stages busy at once, and that an answer beside it waits
/// for two chunks at most.
pub const PREFILL_CHUNK: u32 = 128;

/// A part of a step: the next `n_tokens` of the log of `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pick {
    pub seq: SeqId,
    pub n_tokens: u32,
}

/// What the next step carries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Picks {
    /// One token each.
    pub decode: Vec<SeqId>,
    /// Chunks of prompts.
    pub prefill: Vec<Pick>,
}

impl Picks {
    pub fn is_empty(&self) -> bool {
        self.decode.is_empty() && self.prefill.is_empty()
    }
}

/// Chooses the next step's runs among the admitted sequences, while `n_decode_steps` steps with decode rows are under
/// way.
pub(super) fn pick(
    ring: &RingLimits,
    sequences: &BTreeMap<SeqId, Sequence>,
    n_decode_steps: usize,
) -> Picks {
    let n_decoding = sequences.values().filter(|s| s.is_decoding()).count();
    let decode = if n_decode_steps < ring.n_stages as usize {
        pick_decode(ring, sequences, n_decoding)
    } else {
        // One more group would be a smaller group. It waits and leaves with the next that comes back.
        Vec::new()
    };
    let rows = decode.len();
    let prefill = pick_prefill(ring, sequences, n_decoding, rows);
    Picks { decode, prefill }
}

/// The sequences of one group that have waited longest.
fn pick_decode(
    ring: &RingLimits,
    sequences: &BTreeMap<SeqId, Sequence>,
    n_decoding: usize,
) -> Vec<SeqId> {
    let group = n_decoding.div_ceil(ring.n_stages as usize);
    let rows = group
        .min(ring.max_step_tokens as usize)
        .min(limits::MAX_STEP_RUNS);
    let mut ready: Vec<_> = sequences.values().filter(|s| s.can_decode()).collect();
    ready.sort_by_key(|s| s.last_step());
    ready.iter().take(rows).map(|s| s.id).collect()
}

/// Chunks of prompts, oldest request first, until the room beside `rows` decode rows is used up.
fn pick_prefill(
    ring: &RingLimits,
    sequences: &BTreeMap<SeqId, Sequence>,
    n_decoding: usize,
    rows: usize,
) -> Vec<Pick> {
    let mut room = prefill_room(ring, n_decoding).min(ring.max_step_tokens - rows as u32);
    let mut picks = Vec::new();
    for sequence in sequences.values().filter(|s| s.can_prefill()) {
        if room == 0 || rows + picks.len() == limits::MAX_STEP_RUNS {
            break;
        }
        let n_tokens = room.min(sequence.n_unsent());
        room -= n_tokens;
        picks.push(Pick {
            seq: sequence.id,
            n_tokens,
        });
    }
    picks
}

/// A prompt that has a single stage to itself delays nobody and overlaps with nothing: it takes the largest step.
fn prefill_room(ring: &RingLimits, n_decoding: usize) -> u32 {
    if ring.n_stages == 1 && n_decoding == 0 {
        ring.max_step_tokens
    } else {
        PREFILL_CHUNK
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use potluck_proto::{PROTOCOL, RunResult, Sampling, StepId};

    use super::*;
    use crate::engine::{GenerateRequest, flight::FlightRun};

    fn ring(n_stages: u32, max_step_tokens: u32) -> RingLimits {
        RingLimits {
            n_stages,
            context_tokens: 4096,
            max_sequences: 512,
            max_step_tokens,
            n_vocab: 100,
            protocol: PROTOCOL,
        }
    }

    fn with_prompt(seq: u64, n_prompt: usize) -> Sequence {
        let request = GenerateRequest {
            prompt: vec![1; n_prompt],
            max_tokens: 10,
            sampling: Sampling::greedy(),
            end_tokens: Arc::new([]),
        };
        Sequence::new(SeqId(seq), request)
    }

    /// A sequence with one token of its answer, which it got from `step`.
    fn decoding(seq: u64, step: u64) -> Sequence {
        let mut sequence = with_prompt(seq, 3);
        sequence.send(StepId(step), 3);
        sequence.run_landed();
        let run = FlightRun {
            seq: SeqId(seq),
            end: 3,
            samples: true,
        };
        let result = RunResult {
            seq: SeqId(seq),
            kv_len: 3,
            token: Some(7),
            logprobs: None,
        };
        let told = sequence.run_computed(Duration::ZERO, run, result, &ring(1, 8));
        assert_eq!(told.map(|events| events.len()), Ok(2));
        sequence
    }

    /// What is picked, as `decode rows | seq:n_tokens of the chunks`.
    fn picked(ring: RingLimits, sequences: Vec<Sequence>, n_decode_steps: usize) -> String {
        let sequences = sequences.into_iter().map(|s| (s.id, s)).collect();
        let picks = pick(&ring, &sequences, n_decode_steps);
        let decode: Vec<_> = picks.decode.iter().map(|seq| seq.0.to_string()).collect();
        let prefill: Vec<_> = picks
            .prefill
            .iter()
            .map(|pick| format!("{}:{}", pick.seq.0, pick.n_tokens))
            .collect();
        format!("{} | {}", decode.join(" "), prefill.join(" "))
    }

    #[test]
    fn steps_are_filled_by_these_rules() {
        let five = || (0..5).map(|seq| decoding(seq, 9 - seq)).collect::<Vec<_>>();
        let mixed = || vec![decoding(0, 1), with_prompt(1, 100), with_prompt(2, 500)];
        let prompts = || vec![with_prompt(1, 100), with_prompt(2, 500)];
        let cases = [
            ("nothing to do", ring(1, 512), vec![], 0, " | "),
            (
                "one stage takes all rows, longest wait first",
                ring(1, 512),
                five(),
                0,
                "4 3 2 1 0 | ",
            ),
            (
                "two stages, two groups",
                ring(2, 512),
                five(),
                0,
                "4 3 2 | ",
            ),
            ("five stages, five groups", ring(5, 512), five(), 4, "4 | "),
            ("every stage has a group", ring(2, 512), five(), 2, " | "),
            ("rows fill a narrow step", ring(1, 2), five(), 0, "4 3 | "),
            (
                "prompts share a chunk, oldest first",
                ring(2, 512),
                prompts(),
                0,
                " | 1:100 2:28",
            ),
            (
                "one stage without decoders takes the largest step",
                ring(1, 512),
                prompts(),
                0,
                " | 1:100 2:412",
            ),
            (
                "a decoder keeps the chunk short",
                ring(1, 512),
                mixed(),
                0,
                "0 | 1:100 2:28",
            ),
            (
                "prompts go on while decode groups are under way",
                ring(1, 512),
                mixed(),
                1,
                " | 1:100 2:28",
            ),
            ("rows come before chunks", ring(1, 4), mixed(), 0, "0 | 1:3"),
        ];
        for (what, ring, sequences, n_decode_steps, want) in cases {
            assert_eq!(picked(ring, sequences, n_decode_steps), want, "{what}");
        }
    }

    #[test]
    fn a_step_has_no_more_runs_than_the_protocol_allows() {
        let many = || (0..300).map(|seq| with_prompt(seq, 2)).collect::<Vec<_>>();
        let sequences: BTreeMap<_, _> = many().into_iter().map(|s| (s.id, s)).collect();
        let picks = pick(&ring(1, 2048), &sequences, 0);
        assert_eq!(picks.prefill.len(), limits::MAX_STEP_RUNS);
    }
}
