//! The rows that one step computes: consecutive tokens of several sequences, laid out one after another.

use potluck_kernels::AttentionRun;

/// All rows of a step.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Sequences are counted among those that the batch touches.
    pub runs: Vec<AttentionRun>,
    /// Position of each row.
    pub positions: Vec<usize>,
}

impl Batch {
    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.positions.clear();
    }

    /// Appends `n_tokens` rows of a sequence.
    pub fn push(&mut self, sequence: usize, first_pos: usize, n_tokens: usize) {
        let first_row = self.positions.len();
        self.positions.extend(first_pos..first_pos + n_tokens);
        let rows = first_row..self.positions.len();
        self.runs.push(AttentionRun {
            sequence,
            first_pos,
            rows,
        });
    }

    /// Number of rows.
    pub fn n_tokens(&self) -> usize {
        self.positions.len()
    }
}
