//! What changes logits before anything is chosen: biases, then penalties.

use std::collections::HashMap;

use potluck_proto::Sampling;

pub(super) fn apply(logits: &mut [f32], history: &[u32], params: &Sampling) {
    apply_bias(logits, params);
    apply_penalties(logits, history, params);
}

/// Several entries for one token add up. Ids outside the vocabulary have no logit.
fn apply_bias(logits: &mut [f32], params: &Sampling) {
    for entry in params.logit_bias.iter() {
        if let Some(logit) = logits.get_mut(entry.token as usize) {
            *logit += entry.bias;
        }
    }
}

/// Lowers the logits of recent tokens: by a factor (CTRL, <https://arxiv.org/abs/1909.05858>), by the number of
/// occurrences, and by having occurred at all.
fn apply_penalties(logits: &mut [f32], history: &[u32], params: &Sampling) {
    let off = params.repeat_penalty == 1.0
        && params.frequency_penalty == 0.0
        && params.presence_penalty == 0.0;
    if off {
        return;
    }
    let window = history.len().saturating_sub(params.penalty_window as usize);
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for id in &history[window..] {
        *counts.entry(*id).or_default() += 1;
    }
    for (id, count) in counts {
        let Some(logit) = logits.get_mut(id as usize) else {
            continue;
        };
        *logit = match *logit > 0.0 {
            true => *logit / params.repeat_penalty,
            false => *logit * params.repeat_penalty,
        };
        *logit -= count as f32 * params.frequency_penalty + params.presence_penalty;
    }
}
