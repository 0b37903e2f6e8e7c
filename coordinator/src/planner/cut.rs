//! Where to cut: exact dynamic programming over workers, stages and layer borders.
//!
//! The ring visits workers in the order given and may pass some by. First the smallest possible time of the slowest stage is
//! found for every number of stages; then, among all cuts that reach it, the one whose times are most even (least sum of
//! squares), so that no worker carries more than it has to. Times are whole nanoseconds: ties are ties on every machine.

use std::ops::Range;

use super::Candidate;
use super::cost::SpanCosts;

/// A stage of a cut: position of the worker in the request, and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) worker: usize,
    pub(super) layers: Range<usize>,
}

/// The best cuts of one request for every number of stages.
pub(super) struct Cuts<'a> {
    costs: &'a SpanCosts<'a>,
    workers: &'a [Candidate],
    /// Weight bytes a second of each worker.
    speeds: &'a [f64],
    /// Least time of the slowest stage in nanoseconds; position `s` is for `s` stages, `None` where nothing fits.
    slowest_ns: Vec<Option<u64>>,
}

impl<'a> Cuts<'a> {
    /// Finds the least times for up to `most_stages` stages.
    pub(super) fn find(
        costs: &'a SpanCosts<'a>,
        workers: &'a [Candidate],
        speeds: &'a [f64],
        most_stages: usize,
    ) -> Cuts<'a> {
        let mut cuts = Cuts {
            costs,
            workers,
            speeds,
            slowest_ns: Vec::new(),
        };
        let time = |worker, layers: &Range<usize>| cuts.stage_ns(worker, layers).map(u128::from);
        let table = Table::fill(
            workers.len(),
            costs.n_layers(),
            most_stages,
            time,
            u128::max,
        );
        cuts.slowest_ns = (0..=most_stages)
            .map(|n_stages| table.total(n_stages).and_then(|ns| u64::try_from(ns).ok()))
            .collect();
        cuts
    }

    /// The most even of the fastest cuts into exactly `n_stages` stages.
    pub(super) fn best(&self, n_stages: usize) -> Option<Vec<Cut>> {
        let limit = self.slowest_ns(n_stages)?;
        let square = |worker, layers: &Range<usize>| {
            let ns = self.stage_ns(worker, layers).filter(|&ns| ns <= limit)?;
            Some(u128::from(ns) * u128::from(ns))
        };
        let (n_workers, n_layers) = (self.workers.len(), self.costs.n_layers());
        Table::fill(n_workers, n_layers, n_stages, square, u128::saturating_add).cuts(n_stages)
    }

    /// The best cut with as many stages as memory allows.
    pub(super) fn best_with_most_stages(&self) -> Option<Vec<Cut>> {
        (1..self.slowest_ns.len())
            .rev()
            .find_map(|n_stages| self.best(n_stages))
    }

    /// Least time of the slowest of `n_stages` stages.
    pub(super) fn slowest_ns(&self, n_stages: usize) -> Option<u64> {
        self.slowest_ns.get(n_stages).copied().flatten()
    }

    /// Time of a stage, `None` where the span does not fit. Neither ever gets better when a span grows.
    fn stage_ns(&self, worker: usize, layers: &Range<usize>) -> Option<u64> {
        let needed = self.costs.memory(layers).needed_bytes();
        if needed > self.workers[worker].memory_budget_bytes {
            return None;
        }
        let seconds = self.costs.read_bytes(layers) as f64 / self.speeds[worker];
        // Out of range floats saturate; at most 2^64 bytes over 10^5 a second stay below 2^64 microseconds.
        Some((seconds * 1e9).round() as u64)
    }
}

/// Best values and how they came about, for all workers considered.
struct Table {
    n_layers: usize,
    most_stages: usize,
    /// `best[s][l]`: value of the best way to give layers `0..l` to `s` of the workers.
    best: Vec<Vec<Option<u128>>>,
    /// `from[w][s][l]`: worker `w` improved that value by taking layers from this one on to `l`.
    from: Vec<Vec<Vec<Option<u16>>>>,
}

impl Table {
    /// `stage` gives the value of a span on a worker and must not find a longer span possible where a shorter one is not;
    /// `join` adds a stage's value to that of the stages before it.
    fn fill(
        n_workers: usize,
        n_layers: usize,
        most_stages: usize,
        stage: impl Fn(usize, &Range<usize>) -> Option<u128>,
        join: fn(u128, u128) -> u128,
    ) -> Table {
        let mut table = Table {
            n_layers,
            most_stages,
            best: vec![vec![None; n_layers + 1]; most_stages + 1],
            from: Vec::with_capacity(n_workers),
        };
        table.best[0][0] = Some(0);
        for worker in 0..n_workers {
            table.offer(|layers| stage(worker, layers), join);
        }
        table
    }

    /// Lets one more worker take any span behind what the workers before it hold.
    fn offer(
        &mut self,
        stage: impl Fn(&Range<usize>) -> Option<u128>,
        join: fn(u128, u128) -> u128,
    ) {
        let before = self.best.clone();
        let mut from = vec![vec![None; self.n_layers + 1]; self.most_stages + 1];
        for to in 1..=self.n_layers {
            for start in (0..to).rev() {
                let Some(value) = stage(&(start..to)) else {
                    break;
                };
                for n_stages in 1..=self.most_stages {
                    let Some(behind) = before[n_stages - 1][start] else {
                        continue;
                    };
                    let joined = join(behind, value);
                    let best = &mut self.best[n_stages][to];
                    if best.is_none_or(|best| joined < best) {
                        *best = Some(joined);
                        // Layers are at most MAX_PLANNED_LAYERS.
                        from[n_stages][to] = Some(start as u16);
                    }
                }
            }
        }
        self.from.push(from);
    }

    /// Value of all layers on exactly `n_stages` workers.
    fn total(&self, n_stages: usize) -> Option<u128> {
        self.best[n_stages][self.n_layers]
    }

    /// Walks back from the last layer: the last worker that improved a value is the one that holds it.
    fn cuts(&self, n_stages: usize) -> Option<Vec<Cut>> {
        self.total(n_stages)?;
        let (mut to, mut stages_left) = (self.n_layers, n_stages);
        let mut cuts = Vec::with_capacity(n_stages);
        for worker in (0..self.from.len()).rev() {
            if stages_left == 0 {
                break;
            }
            if let Some(start) = self.from[worker][stages_left][to] {
                let start = usize::from(start);
                cuts.push(Cut {
                    worker,
                    layers: start..to,
                });
                (to, stages_left) = (start, stages_left - 1);
            }
        }
        cuts.reverse();
        Some(cuts)
    }
}

const _: () = assert!(super::MAX_PLANNED_LAYERS <= u16::MAX as usize);
