//! Where to cut: exact dynamic programming over workers, stages and layer borders.
//!
//! The ring visits workers in the order given and may pass some by. First the smallest possible time of the slowest stage is
//! found for every number of stages; then, among all cuts that reach it, the one whose times are most even (least sum of
//! squares), so that no worker carries more than it has to. Times are whole nanoseconds: ties are ties on every machine.

use std::ops::{Range, RangeInclusive};

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
        let shape = Shape {
            n_workers: workers.len(),
            n_layers: costs.n_layers(),
            n_stages: 1..=most_stages,
        };
        let table = Table::fill(shape, time, u128::max);
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
        let shape = Shape {
            n_workers: self.workers.len(),
            n_layers: self.costs.n_layers(),
            n_stages: n_stages..=n_stages,
        };
        Table::fill(shape, square, u128::saturating_add).cuts(n_stages)
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
        // What is beyond 64 bits becomes the largest number, which loses against every real time.
        Some((seconds * 1e9).round() as u64)
    }
}

/// What a table is about.
struct Shape {
    n_workers: usize,
    n_layers: usize,
    /// Numbers of stages that are asked for.
    n_stages: RangeInclusive<usize>,
}

impl Shape {
    /// Numbers of stages that can matter once `worker` has been offered its part: each worker is at most one of them, and
    /// those behind it must be able to make up what is missing.
    fn stages_with(&self, worker: usize) -> RangeInclusive<usize> {
        let behind = self.n_workers - 1 - worker;
        let fewest = self.n_stages.start().saturating_sub(behind).max(1);
        fewest..=(*self.n_stages.end()).min(worker + 1)
    }
}

/// Best values and how they came about, for all workers considered.
struct Table {
    shape: Shape,
    /// `best[s][l]`: value of the best way to give layers `0..l` to `s` of the workers.
    best: Vec<Vec<Option<u128>>>,
    /// `from[w][s][l]`: worker `w` improved that value by taking layers from this one on to `l`.
    from: Vec<Vec<Vec<Option<u16>>>>,
}

impl Table {
    /// `stage` gives the value of a span on a worker and must not find a longer span possible where a shorter one is not;
    /// `join` adds a stage's value to that of the stages before it.
    fn fill(
        shape: Shape,
        stage: impl Fn(usize, &Range<usize>) -> Option<u128>,
        join: fn(u128, u128) -> u128,
    ) -> Table {
        let n_workers = shape.n_workers;
        let mut table = Table {
            best: vec![vec![None; shape.n_layers + 1]; shape.n_stages.end() + 1],
            from: Vec::with_capacity(n_workers),
            shape,
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
        let no_start = vec![None; self.shape.n_layers + 1];
        self.from.push(vec![no_start; before.len()]);
        for to in 1..=self.shape.n_layers {
            for start in (0..to).rev() {
                let layers = start..to;
                match stage(&layers) {
                    Some(value) => self.improve(&before, layers, |behind| join(behind, value)),
                    None => break,
                }
            }
        }
    }

    /// Lets the worker of the last entry in `from` take `layers` as one more stage wherever that is better.
    fn improve(
        &mut self,
        before: &[Vec<Option<u128>>],
        layers: Range<usize>,
        joined: impl Fn(u128) -> u128,
    ) {
        let worker = self.from.len() - 1;
        for n_stages in self.shape.stages_with(worker) {
            let Some(behind) = before[n_stages - 1][layers.start] else {
                continue;
            };
            let (value, best) = (joined(behind), &mut self.best[n_stages][layers.end]);
            if best.is_none_or(|best| value < best) {
                *best = Some(value);
                // Layers are at most MAX_PLANNED_LAYERS.
                self.from[worker][n_stages][layers.end] = Some(layers.start as u16);
            }
        }
    }

    /// Value of all layers on exactly `n_stages` workers.
    fn total(&self, n_stages: usize) -> Option<u128> {
        self.best[n_stages][self.shape.n_layers]
    }

    /// Walks back from the last layer: the last worker that improved a value is the one that holds it.
    fn cuts(&self, n_stages: usize) -> Option<Vec<Cut>> {
        self.total(n_stages)?;
        let (mut to, mut stages_left) = (self.shape.n_layers, n_stages);
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
