//! Random numbers without a state: both ends make them of the seed that a request brings.

/// What the counter of SplitMix64 is raised by.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64, <https://doi.org/10.1145/2714064.2660195>: neighbouring numbers get unrelated ones.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
