//! Which part of a model a tensor belongs to, from its name: what a planner and a worker's shopping list are made of.

/// Where a tensor is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TensorPlace {
    /// The token embedding. The stage with the head needs it too when the model has no `output.weight` (tied output).
    Embedding,
    /// Block `i`, counted from 0.
    Layer(u32),
    /// The final norm and the output matrix.
    Head,
    /// Needed by every stage that has layers.
    Shared,
    /// Nothing that a supported architecture uses.
    Other,
}

/// Reads a tensor's place off its name. `blk.` takes a plain decimal number without leading zeros, so that two names never
/// mean the same layer.
pub fn span_of(name: &str) -> TensorPlace {
    let Some((group, rest)) = name.split_once('.') else {
        return TensorPlace::Other;
    };
    match group {
        "token_embd" => TensorPlace::Embedding,
        "output_norm" | "output" => TensorPlace::Head,
        "rope_freqs" => TensorPlace::Shared,
        "blk" => rest
            .split_once('.')
            .and_then(|(index, _)| layer_index(index))
            .map_or(TensorPlace::Other, TensorPlace::Layer),
        _ => TensorPlace::Other,
    }
}

fn layer_index(digits: &str) -> Option<u32> {
    let index: u32 = digits.parse().ok()?;
    (index.to_string() == digits).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_places() {
        let table = [
            ("token_embd.weight", TensorPlace::Embedding),
            ("blk.0.attn_q.weight", TensorPlace::Layer(0)),
            ("blk.27.ffn_down.weight", TensorPlace::Layer(27)),
            ("output_norm.weight", TensorPlace::Head),
            ("output.weight", TensorPlace::Head),
            ("rope_freqs.weight", TensorPlace::Shared),
        ];
        for (name, place) in table {
            assert_eq!(span_of(name), place, "{name}");
        }
    }

    #[test]
    fn odd_names_are_other() {
        for name in [
            "",
            "blk",
            "blk.",
            "blk.1",
            "blk.01.x",
            "blk.+1.x",
            "blk.-1.x",
            "blk.4294967296.x",
            "blk.x.y",
            "v.blk.0.x",
            "outputs.weight",
        ] {
            assert_eq!(span_of(name), TensorPlace::Other, "{name}");
        }
    }
}
