//! Tables of rotary position angles. Owns the sines and cosines; applying them is `Kernels::rope_norm` and `rope_neox`.
//!
//! Computed with the pure-Rust `libm` in f64, never with the platform's, so that every machine has the same bits.

/// Rows `[cos of every frequency, sin of every frequency]`, one for each position from 0.
#[derive(Clone, Debug)]
pub struct RopeTable {
    inv_freq: Vec<f64>,
    rows: Vec<f32>,
}

impl RopeTable {
    /// A table for the given inverse frequencies (radians per position), empty until [`RopeTable::ensure`].
    pub fn new(inv_freq: &[f64]) -> RopeTable {
        RopeTable {
            inv_freq: inv_freq.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Elements of a head that are rotated: two for each frequency.
    pub fn rotary_dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Positions the table holds.
    pub fn n_positions(&self) -> usize {
        self.rows.len().checked_div(self.rotary_dim()).unwrap_or(0)
    }

    /// Extend the table to at least `n_positions` positions.
    pub fn ensure(&mut self, n_positions: usize) {
        for pos in self.n_positions()..n_positions {
            let angles = self.inv_freq.iter().map(|freq| pos as f64 * freq);
            self.rows
                .extend(angles.clone().map(|angle| libm::cos(angle) as f32));
            self.rows
                .extend(angles.map(|angle| libm::sin(angle) as f32));
        }
    }

    /// `(rotary_dim)`: cosines, then sines, of one position.
    ///
    /// # Panics
    /// If `pos` lies beyond what [`RopeTable::ensure`] was asked for.
    pub fn row(&self, pos: usize) -> &[f32] {
        let dim = self.rotary_dim();
        &self.rows[pos * dim..(pos + 1) * dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cosines_then_sines() {
        let mut table = RopeTable::new(&[1.0, 0.01]);
        table.ensure(3);
        assert_eq!(table.n_positions(), 3);
        assert_eq!(table.row(0), [1.0, 1.0, 0.0, 0.0]);
        let expected = [2f64.cos(), 0.02f64.cos(), 2f64.sin(), 0.02f64.sin()];
        for (got, want) in table.row(2).iter().zip(expected) {
            assert!((f64::from(*got) - want).abs() < 1e-7);
        }
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut table = RopeTable::new(&[0.3]);
        table.ensure(5);
        let row = table.row(4).to_vec();
        table.ensure(2);
        table.ensure(50);
        assert_eq!(table.row(4), row);
        assert_eq!(table.n_positions(), 50);
    }
}
