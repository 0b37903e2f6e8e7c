//! The rows that one step computes: consecutive tokens of several sequences, laid out one after another.

use std::ops::Range;

/// Consecutive positions of one sequence within a batch.
#[derive(Debug, Clone)]
pub(crate) struct BatchRun {
    /// Index of the sequence among those that the batch touches.
    pub table: usize,
    /// Position of the first token.
    pub first_pos: usize,
    /// Rows of the batch.
    pub rows: Range<usize>,
}

/// All rows of a step.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub runs: Vec<BatchRun>,
    /// Position of each row.
    pub positions: Vec<usize>,
}

impl Batch {
    /// Appends `n_tokens` rows of a sequence.
    pub fn push(&mut self, table: usize, first_pos: usize, n_tokens: usize) {
        let first_row = self.positions.len();
        self.positions.extend(first_pos..first_pos + n_tokens);
        let rows = first_row..self.positions.len();
        self.runs.push(BatchRun {
            table,
            first_pos,
            rows,
        });
    }

    /// Number of rows.
    pub fn n_tokens(&self) -> usize {
        self.positions.len()
    }
}
