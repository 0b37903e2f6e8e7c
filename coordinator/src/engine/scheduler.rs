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
