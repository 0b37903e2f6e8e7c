//! Every cap on what a file may claim, with its reason. A count is checked against these *and* against the bytes that are
//! left, before anything is reserved for it.

/// Bytes from the start of the file to the tensor data. The largest real headers (262 144 tokens, merges and scores) are
/// under 16 MiB; 256 MiB leaves room for vocabularies sixteen times as large.
pub const MAX_HEADER_BYTES: u64 = 256 << 20;

/// Metadata entries. Real files have 20 to 60.
pub const MAX_METADATA_ENTRIES: u64 = 65_536;

/// Tensors. The largest published dense models have under 2 000, mixtures of experts under 20 000.
pub const MAX_TENSORS: u64 = 65_536;

/// Length of a metadata key; the limit that the format itself sets.
pub const MAX_KEY_BYTES: u64 = 65_535;

/// Length of one string value or one string of an array. Licence texts and templates are the longest, in tens of KiB.
pub const MAX_STRING_BYTES: u64 = 16 << 20;

/// Length of a chat template. Templates are programs that somebody's engine will run; real ones stay under 32 KiB.
pub const MAX_CHAT_TEMPLATE_BYTES: u64 = 1 << 20;

/// Elements of one array of any type: sixteen times the largest vocabulary in use. Bounds what a typed getter may allocate.
pub const MAX_ARRAY_ELEMENTS: u64 = 4 << 20;

/// Length of a tensor name: 63, because readers in C keep it in 64 bytes with a terminator.
pub const MAX_TENSOR_NAME_BYTES: u64 = 63;

/// Dimensions of a tensor, as in ggml.
pub const MAX_DIMS: usize = 4;

/// Alignment of tensor data when `general.alignment` is absent; set by the format.
pub const DEFAULT_ALIGNMENT: u32 = 32;

/// The format asks for a multiple of 8.
pub const MIN_ALIGNMENT: u32 = 8;

/// Above a huge page no alignment has a use, and rounding up to one must stay far away from overflow.
pub const MAX_ALIGNMENT: u32 = 1 << 20;

/// Longest array that [`MetadataBuf::from_metadata`](crate::MetadataBuf::from_metadata) copies: per-layer lists fit, tables do not.
pub const MAX_CARRIED_BYTES: usize = 64 << 10;

/// Transformer blocks; the deepest published model has 126, and per-layer tables are sized by it.
pub const MAX_LAYERS: u32 = 4_096;

/// Width of the hidden state and of the feed-forward block. The widest published dense model uses 16 384 and 53 248.
pub const MAX_WIDTH: u32 = 1 << 20;

/// Attention heads, and dimensions of one head.
pub const MAX_HEADS: u32 = 4_096;

/// Dimensions of one attention head; the largest in use is 576.
pub const MAX_HEAD_DIM: u32 = 4_096;

/// Tokens of context a model may claim. Ten million is the largest claim published; positions are `u32` and rope wants
/// them exact in `f32`, which holds up to 2^24.
pub const MAX_CONTEXT: u32 = 1 << 24;

/// Sides of every relation that other code relies on.
const _: () = {
    assert!(MAX_STRING_BYTES < MAX_HEADER_BYTES);
    assert!(MAX_CHAT_TEMPLATE_BYTES <= MAX_STRING_BYTES);
    assert!(
        DEFAULT_ALIGNMENT.is_power_of_two()
            && MIN_ALIGNMENT.is_power_of_two()
            && MAX_ALIGNMENT.is_power_of_two()
    );
    // A matrix of the largest allowed sides still has a size that fits u64 many times over.
    assert!((MAX_WIDTH as u64) * MAX_ARRAY_ELEMENTS * 8 < 1 << 50);
};
