//! What a core can do at most with plain code: bytes read, and products of bytes.

/// Read every byte, and add to `sum` something that depends on all of them.
pub(crate) fn read(bytes: &[u8], sum: &mut i32) {
    for word in bytes.as_chunks::<4>().0 {
        *sum = sum.wrapping_add(i32::from_le_bytes(*word));
    }
}

/// `n_rounds` dot products of 16 bytes; adds to `n_products` how many products that were.
pub(crate) fn multiply(n_rounds: usize, n_products: &mut usize) {
    let (codes, acts): ([i8; 16], [i8; 16]) = std::hint::black_box(([3; 16], [5; 16]));
    let mut sum = 0i32;
    for _ in 0..n_rounds {
        let pairs = codes.iter().zip(std::hint::black_box(&acts));
        sum = pairs.fold(sum, |sum, (w, a)| {
            sum.wrapping_add(i32::from(*w) * i32::from(*a))
        });
    }
    std::hint::black_box(sum);
    *n_products += n_rounds * 16;
}
