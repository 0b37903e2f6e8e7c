//! Packing loses nothing: a packed matrix gives back the bytes and the rows it was made from, for every type and shape.

mod common;

use common::{Rng, random_weights, scalar_kernels, vector_kernels};
use potluck_kernels::{Kernels, Pool, ShapeError, WeightType, dequantize};

/// One of each tile width.
fn all_kernels() -> impl Iterator<Item = Kernels> {
    [scalar_kernels()].into_iter().chain(vector_kernels())
}

#[test]
fn unpack_gives_the_bytes_back() {
    let mut rng = Rng::new(1);
    for ty in WeightType::ALL {
        let n_cols = 2 * ty.block_elements().max(32);
        for n_rows in [1, 3, 7, 8, 9, 16, 31, 33, 200] {
            let bytes = random_weights(&mut rng, ty, n_rows, n_cols);
            for kernels in all_kernels() {
                for n_threads in [1, 3] {
                    let pool = Pool::new(n_threads);
                    let packed = kernels.pack(&pool, ty, n_rows, n_cols, &bytes).unwrap();
                    assert_eq!(packed.unpack(), bytes, "{} x {n_rows}", ty.name());
                    let n_bytes = Some(packed.n_bytes());
                    assert_eq!(n_bytes, kernels.packed_bytes(ty, n_rows, n_cols));
                    let padded = n_rows.next_multiple_of(kernels.isa().tile_rows());
                    assert_eq!(packed.n_bytes(), bytes.len() / n_rows * padded);
                }
            }
        }
    }
}

#[test]
fn a_looked_up_row_is_the_dequantised_row() {
    let mut rng = Rng::new(2);
    for ty in WeightType::ALL {
        let (n_rows, n_cols) = (11, 2 * ty.block_elements().max(32));
        let bytes = random_weights(&mut rng, ty, n_rows, n_cols);
        let mut expected = vec![0.0; n_rows * n_cols];
        dequantize(ty, &bytes, &mut expected);
        for kernels in all_kernels() {
            let packed = kernels.pack(&Pool::new(1), ty, n_rows, n_cols, &bytes);
            let packed = packed.unwrap();
            for (row, expected) in expected.chunks(n_cols).enumerate() {
                let mut got = vec![0.0; n_cols];
                packed.row_f32(row, &mut got);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(expected), "{} row {row}", ty.name());
            }
        }
    }
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let pack = |n_rows, n_cols, len: usize| {
        let (kernels, pool) = (scalar_kernels(), Pool::new(1));
        let packed = kernels.pack(&pool, WeightType::Q4_K, n_rows, n_cols, &vec![0; len]);
        packed.err()
    };
    assert!(matches!(
        pack(1, 576, 324),
        Some(ShapeError::RaggedRow { n_cols: 576, .. })
    ));
    assert!(matches!(
        pack(2, 256, 287),
        Some(ShapeError::WrongLength {
            expected: 288,
            actual: 287,
            ..
        })
    ));
    assert!(matches!(
        pack(usize::MAX, 256, 0),
        Some(ShapeError::TooLarge { .. })
    ));
    assert!(matches!(
        pack(1 << 50, usize::MAX / 256 * 256, 0),
        Some(ShapeError::TooLarge { .. })
    ));
    assert_eq!(pack(0, 256, 0), None);
    assert_eq!(pack(8, 0, 0), None);
}

/// The bits that the format's own Python package gives: see `data/make_vectors.py`.
#[test]
fn dequantised_values_are_the_formats() {
    let mut seen = Vec::new();
    for line in include_str!("data/blocks.txt").lines() {
        let [name, bytes, bits] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("three fields in {line}")
        };
        let ty = WeightType::ALL
            .into_iter()
            .find(|ty| ty.name() == name)
            .unwrap();
        let bytes: Vec<u8> = hex(bytes, 2).map(|byte| byte as u8).collect();
        let expected: Vec<u32> = hex(bits, 8).collect();
        let mut values = vec![0.0; expected.len()];
        dequantize(ty, &bytes, &mut values);
        assert_eq!(
            values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            expected,
            "{line}"
        );
        seen.push(ty);
    }
    assert!(
        WeightType::ALL.iter().all(|ty| seen.contains(ty)),
        "every type has a case"
    );
}

/// Numbers of `width` hexadecimal digits.
fn hex(digits: &str, width: usize) -> impl Iterator<Item = u32> {
    (0..digits.len())
        .step_by(width)
        .map(move |at| u32::from_str_radix(&digits[at..at + width], 16).unwrap())
}
