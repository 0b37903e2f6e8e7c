//! What a model asks of a machine for each token, and how fast the machine could be at most.
//!
//! Decoding reads every weight and the cache of every answer once a step; a prompt multiplies every weight with every token. The
//! larger of the two times is the limit (the roofline model, <https://doi.org/10.1145/1498765.1498785>). Work between matrix
//! products is left out, so a limit is never too low.

use potluck_gguf::Gguf;
use potluck_kernels::Limits;
use potluck_worker::StageConfig;

use super::measure::{Kind, Test};

/// What one step of a model costs.
pub(super) struct Work {
    /// Bytes of all matrices that a step reads, the output matrix with them.
    weight_bytes: u64,
    /// Multiply-adds for each token, without the output matrix.
    layer_macs: u64,
    /// Multiply-adds of the output matrix.
    head_macs: u64,
    /// Bytes of keys and values of one position, in layers that see the whole context and in those with a window.
    full_kv_bytes: u64,
    sliding_kv_bytes: u64,
    window: u64,
}

impl Work {
    pub fn of(gguf: &Gguf<'_>, config: &StageConfig) -> Work {
        let shape = &config.shape;
        let tensors = gguf.tensors();
        let has_output = tensors.iter().any(|tensor| tensor.name == "output.weight");
        let mut work = Work {
            weight_bytes: 0,
            layer_macs: 0,
            head_macs: 0,
            full_kv_bytes: 0,
            sliding_kv_bytes: 0,
            window: shape.sliding_window.map_or(u64::MAX, u64::from),
        };
        for tensor in tensors {
            let is_head = match tensor.name {
                "output.weight" => true,
                // Looked up row by row, unless it is the output matrix as well.
                "token_embd.weight" if has_output => continue,
                "token_embd.weight" => true,
                _ => false,
            };
            work.weight_bytes += tensor.n_bytes;
            let is_matrix = tensor.dims.n_rows() > 1;
            let macs = tensor.dims.n_elements();
            match (is_matrix, is_head) {
                (true, true) => work.head_macs += macs,
                (true, false) => work.layer_macs += macs,
                // A norm or a bias.
                (false, _) => {}
            }
        }
        let elements = 2 * u64::from(shape.n_kv_heads * shape.head_dim);
        let position = config.kv_cache.n_bytes(elements);
        for layer in 0..shape.n_layers {
            match shape.is_sliding(layer) {
                true => work.sliding_kv_bytes += position,
                false => work.full_kv_bytes += position,
            }
        }
        work
    }

    /// Tokens a second that the machine could compute at most.
    pub fn limit(&self, test: &Test, limits: &Limits) -> f64 {
        let (tokens, batch, depth) = (test.tokens as f64, test.batch as f64, test.depth as u64);
        let (bytes, macs, n_tokens) = match test.kind {
            Kind::Prefill => {
                let macs = self.layer_macs as f64 * tokens + self.head_macs as f64;
                (self.weight_bytes as f64, macs, tokens)
            }
            Kind::Decode => {
                let cached = depth + test.tokens as u64 / 2;
                let kv =
                    self.full_kv_bytes * cached + self.sliding_kv_bytes * cached.min(self.window);
                let bytes = self.weight_bytes as f64 + batch * kv as f64;
                let macs = (self.layer_macs + self.head_macs) as f64 * batch;
                (bytes, macs, batch)
            }
        };
        let seconds =
            (bytes / limits.read_bytes_per_second).max(macs / limits.int8_macs_per_second);
        n_tokens / seconds
    }
}
