//! What a stage holds of one sequence.

use crate::kv::KvTable;
use crate::sampling::Drawn;

/// Its tokens, their keys and values, and the answer to its last run.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Tokens whose keys and values are in the cache; their number is the sequence's `kv_len`.
    pub tokens: Vec<u32>,
    pub table: KvTable,
    pub last: LastOutput,
}

/// The answer to the last run, kept in case it is asked for again.
#[derive(Debug, Default)]
pub(super) struct LastOutput {
    /// Length of the run, which ended at the sequence's `kv_len`.
    pub n_tokens: usize,
    /// `(n_tokens, d_model)`, at every stage but the last.
    pub hidden: Vec<f32>,
    /// At the last stage, where a token was asked for.
    pub drawn: Option<Drawn>,
}
