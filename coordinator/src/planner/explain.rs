//! A plan in words: the table that `potluck plan` prints, and the sentences about what limits it.

use std::fmt::{self, Write as _};
use std::ops::Range;

use potluck_proto::NodeId;
use serde::{Serialize, Serializer};

use super::cut::{Cut, Cuts};
use super::error::sequences;
use super::{Plan, PlanRequest, StagePlan};
use crate::size::Size;

/// A worker that makes every token slower is named when the others would be at least this much faster: less is noise.
const HELD_BACK_RATIO: f64 = 1.1;

impl Plan {
    /// The table of stages and what limits them, as people read it.
    pub fn explain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} in {}, for {} of up to {} tokens\n",
            self.model,
            counted(self.stages.iter().map(|s| s.layers.len()).sum(), "layer"),
            counted(self.stages.len(), "stage"),
            sequences(self.max_sequences),
            self.context_tokens,
        )?;
        let rows: Vec<[String; 8]> = std::iter::once(HEADINGS.map(str::to_owned))
            .chain(self.stages.iter().map(row))
            .collect();
        write_table(f, &rows)?;
        if !self.explanation.is_empty() {
            f.write_char('\n')?;
        }
        self.explanation
            .iter()
            .try_for_each(|sentence| writeln!(f, "{sentence}"))
    }
}

const HEADINGS: [&str; 8] = [
    "worker", "layers", "weights", "KV cache", "buffers", "needed", "offered", "ms/token",
];

fn row(stage: &StagePlan) -> [String; 8] {
    [
        stage.name.clone(),
        // People count the last one in.
        format!("{}-{}", stage.layers.start, stage.layers.end - 1),
        Size(stage.weights_bytes).to_string(),
        Size(stage.kv_bytes).to_string(),
        Size(stage.scratch_bytes).to_string(),
        Size(stage.needed_bytes()).to_string(),
        Size(stage.memory_budget_bytes).to_string(),
        format!("{:.2}", stage.predicted_decode_us / 1e3),
    ]
}

/// Columns as wide as their widest cell, the first to the left, numbers to the right.
fn write_table(f: &mut fmt::Formatter<'_>, rows: &[[String; 8]]) -> fmt::Result {
    let mut widths = [0; 8];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        for (i, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match i {
                0 => write!(f, "{cell:<width$}")?,
                _ => write!(f, "  {cell:>width$}")?,
            }
        }
        f.write_char('\n')?;
    }
    Ok(())
}

/// Which stage limits the ring, and what that makes.
pub(super) fn bottleneck(stages: &[StagePlan]) -> Vec<String> {
    let slowest = stages
        .iter()
        .max_by(|a, b| a.predicted_decode_us.total_cmp(&b.predicted_decode_us));
    let Some(slowest) = slowest else {
        return Vec::new();
    };
    let slowest_ms = slowest.predicted_decode_us / 1e3;
    let all_ms: f64 = stages.iter().map(|s| s.predicted_decode_us / 1e3).sum();
    let alone = format!(
        "One answer alone: at most {:.0} tokens/s, before the network and a long context take their share.",
        1e3 / all_ms
    );
    match stages.len() {
        1 => vec![alone],
        _ => vec![
            format!(
                "The slowest stage is {}: {slowest_ms:.2} ms of {all_ms:.2} ms per token.",
                slowest.name
            ),
            alone,
            format!(
                "Several answers at once keep all stages busy: a step every {slowest_ms:.2} ms."
            ),
        ],
    }
}

/// Workers that were offered and have no layers.
pub(super) fn left_out(request: &PlanRequest, chosen: &[Cut]) -> Option<String> {
    let names = names_without(request, chosen);
    let why = match request.n_stages {
        Some(_) => "fewer stages were asked for",
        None if chosen.len() == request.model.layers.len() => "there are no more layers",
        None => "no cut within its memory gives every worker a layer",
    };
    (!names.is_empty()).then(|| format!("Not used: {} ({why}).", names.join(", ")))
}

/// A worker without which the ring would be faster.
pub(super) fn held_back(request: &PlanRequest, cuts: &Cuts, chosen: &[Cut]) -> Option<String> {
    if request.n_stages.is_some() || chosen.len() < 2 {
        return None;
    }
    let now = cuts.slowest_ns(chosen.len())? as f64;
    let without = cuts.slowest_ns(chosen.len() - 1)? as f64;
    if now < without * HELD_BACK_RATIO {
        return None;
    }
    let fewer = cuts.best(chosen.len() - 1)?;
    let names = names_without(request, &fewer);
    Some(format!(
        "Without {} the slowest stage would take {:.2} ms instead of {:.2} ms.",
        names.join(" and "),
        without / 1e6,
        now / 1e6
    ))
}

fn names_without<'a>(request: &'a PlanRequest, cuts: &[Cut]) -> Vec<&'a str> {
    let takes_part = |i: usize| cuts.iter().any(|cut| cut.worker == i);
    let workers = request.workers.iter().enumerate();
    workers
        .filter(|(i, _)| !takes_part(*i))
        .map(|(_, worker)| worker.name.as_str())
        .collect()
}

fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// All sixteen bytes: what `Display` shows of an id is too short to look a worker up by.
pub(super) fn node_id_as_hex<S: Serializer>(id: &NodeId, to: S) -> Result<S::Ok, S::Error> {
    let hex = id.0.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    hex.serialize(to)
}

/// `[from, to)`.
pub(super) fn layers_as_pair<S: Serializer>(layers: &Range<u32>, to: S) -> Result<S::Ok, S::Error> {
    [layers.start, layers.end].serialize(to)
}
