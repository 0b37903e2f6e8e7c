//! What a valid file gives back: values, tensors, and the limits from their good side.

mod raw;

use std::time::{Duration, Instant};

use potluck_gguf::{
    Gguf, GgufError, GgufWriter, MetadataBuf, OwnedValue, TensorType, Value, ValueType,
};
use raw::Raw;

/// One entry of every kind.
fn one_of_each() -> GgufWriter {
    let scalars = vec![
        ("u8".to_owned(), OwnedValue::U8(200)),
        ("i8".to_owned(), OwnedValue::I8(-5)),
        ("u16".to_owned(), OwnedValue::U16(60_000)),
        ("i16".to_owned(), OwnedValue::I16(-30_000)),
        ("u64".to_owned(), OwnedValue::U64(u64::MAX)),
        ("i64".to_owned(), OwnedValue::I64(-1)),
        ("f64".to_owned(), OwnedValue::F64(0.1)),
        ("i32".to_owned(), OwnedValue::I32(7)),
    ];
    GgufWriter::new()
        .with_metadata(MetadataBuf::from_pairs(scalars).unwrap())
        .with("u32", 4_000_000_000u32)
        .with("f32", 0.25f32)
        .with("yes", true)
        .with("text", "grüß dich")
        .with("empty", "")
        .with(
            "strings",
            OwnedValue::strings([&b"a"[..], b"", b"\xff\xfe"]),
        )
        .with("f32s", OwnedValue::f32s(&[1.0, -2.5]))
        .with("i32s", OwnedValue::i32s(&[1, -1]))
        .with("u32s", OwnedValue::u32s(&[1, u32::MAX]))
        .with("bools", OwnedValue::bools(&[true, false]))
        .with("nothing", OwnedValue::i32s(&[]))
}

#[test]
fn typed_getters_read_every_kind() {
    let bytes = one_of_each().to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let m = gguf.metadata();
    assert_eq!(m.str("text").unwrap(), Some("grüß dich"));
    assert_eq!(m.str("empty").unwrap(), Some(""));
    assert_eq!(m.bool("yes").unwrap(), Some(true));
    assert_eq!(m.f32("f32").unwrap(), Some(0.25));
    assert_eq!(m.f32("f64").unwrap(), Some(0.1));
    assert_eq!(m.u32("u32").unwrap(), Some(4_000_000_000));
    assert_eq!(
        (
            m.u32("u8").unwrap(),
            m.u32("u16").unwrap(),
            m.u32("i32").unwrap()
        ),
        (Some(200), Some(60_000), Some(7))
    );
    assert_eq!(
        (
            m.i32("i8").unwrap(),
            m.i32("i16").unwrap(),
            m.i32("i64").unwrap()
        ),
        (Some(-5), Some(-30_000), Some(-1))
    );
    assert_eq!(m.u64("u64").unwrap(), Some(u64::MAX));
    assert_eq!(m.f32s("f32s").unwrap(), Some(vec![1.0, -2.5]));
    assert_eq!(m.i32s("i32s").unwrap(), Some(vec![1, -1]));
    assert_eq!(m.u32s("u32s").unwrap(), Some(vec![1, u32::MAX]));
    assert_eq!(m.bools("bools").unwrap(), Some(vec![true, false]));
    assert_eq!(m.f32s("nothing").unwrap(), Some(vec![]));
    assert_eq!(
        (
            m.u32("absent").unwrap(),
            m.strings("absent").unwrap().is_none()
        ),
        (None, true)
    );
    let strings: Vec<_> = m
        .require_strings("strings")
        .unwrap()
        .iter()
        .map(|s| s.bytes())
        .collect();
    assert_eq!(strings, [&b"a"[..], b"", b"\xff\xfe"]);
    let text: Vec<_> = m
        .require_strings("strings")
        .unwrap()
        .iter()
        .map(|s| s.str().ok())
        .collect();
    assert_eq!(text, [Some("a"), Some(""), None]);
}

#[test]
fn wrong_types_and_absent_keys_are_named() {
    let bytes = one_of_each().to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let m = gguf.metadata();
    let messages = [
        m.u32("text").unwrap_err(),
        m.str("u32").unwrap_err(),
        m.bool("u8").unwrap_err(),
        m.f32("i32").unwrap_err(),
        m.u32("yes").unwrap_err(),
        m.strings("f32s").unwrap_err(),
        m.f32s("strings").unwrap_err(),
        m.array("u8").unwrap_err(),
    ];
    for error in messages {
        assert!(matches!(error, GgufError::WrongType { .. }), "{error}");
    }
    for error in [
        m.u32("i64").unwrap_err(),
        m.u32("u64").unwrap_err(),
        m.i32("u32").unwrap_err(),
    ] {
        assert!(matches!(error, GgufError::BadValue { .. }), "{error}");
    }
    assert!(matches!(
        m.u32s("i32s").unwrap_err(),
        GgufError::WrongType { .. }
    ));
    let error = m.require_u32("llama.block_count").unwrap_err();
    assert!(error.to_string().contains("llama.block_count"), "{error}");
    assert_eq!(
        m.u32("text").unwrap_err().to_string(),
        "metadata \"text\" is string where an integer is expected"
    );
}

#[test]
fn entries_come_in_file_order() {
    let bytes = one_of_each().to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let keys: Vec<_> = gguf.metadata().iter().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["u8", "i8", "u16"]);
    assert_eq!(keys.len(), gguf.metadata().len());
    assert_eq!(gguf.metadata().get("u8"), Some(&Value::U8(200)));
}

#[test]
fn tensors_are_found_with_their_bytes() {
    let bytes = GgufWriter::new()
        .with("general.alignment", 64u32)
        .with_tensor("a", TensorType::Q8_0, &[32, 1], vec![1; 34])
        .and_then(|w| w.with_f32_tensor("b", &[2, 2], &[1.0, 2.0, 3.0, 4.0]))
        .and_then(|w| w.with_tensor("c", TensorType::I8, &[1], vec![9]))
        .unwrap()
        .to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let of = |name: &str| gguf.tensor_bytes(gguf.tensor(name).unwrap());
    assert_eq!((of("a"), of("c")), (&[1u8; 34][..], &[9u8][..]));
    assert_eq!(of("b")[12..], 4f32.to_le_bytes());
    assert!(gguf.tensors().iter().all(|t| t.offset.is_multiple_of(64)));
    assert_eq!(gguf.tensor("b").unwrap().dims.as_slice(), [2, 2]);
    assert!(gguf.tensor("d").is_none());
}

/// Bounds from their good side: the longest name, the last tensor unpadded, bytes after the end, version 2, no entries.
#[test]
fn what_is_just_allowed_is_accepted() {
    type Change = fn(&mut Raw);
    let table: [(&str, Change); 6] = [
        ("a name of 63 bytes", |f| f.tensors[1].name = vec![b'x'; 63]),
        ("no padding after the last tensor", |f| {
            f.tensors[2] = raw::tensor("last", 24, &[5], 5)
        }),
        ("bytes after the end", |f| {
            f.after = |b| b.extend([0xaa; 1000])
        }),
        ("version 2", |f| f.version = 2),
        ("no entries and no tensors", |f| {
            f.entries.clear();
            f.tensors.clear()
        }),
        ("split into one file", |f| {
            f.entries
                .push(raw::entry(b"split.count", 2, &1u16.to_le_bytes()))
        }),
    ];
    for (what, change) in table {
        let mut raw = Raw::valid();
        change(&mut raw);
        let mut bytes = raw.to_bytes();
        if what.starts_with("no padding") {
            bytes.truncate(bytes.len() - 27);
        }
        Gguf::parse(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

/// A vocabulary of a quarter million with merges and scores: tens of milliseconds at the very most, even without
/// optimisation. The bound is loose for slow machines; quadratic time would miss it by far.
#[test]
fn a_large_vocabulary_parses_at_once() {
    const N: usize = 262_144;
    let names: Vec<String> = (0..N).map(|i| format!("token{i}")).collect();
    let bytes = GgufWriter::new()
        .with("tokenizer.ggml.tokens", OwnedValue::strings(&names))
        .with("tokenizer.ggml.merges", OwnedValue::strings(&names))
        .with("tokenizer.ggml.scores", OwnedValue::f32s(&vec![0.5; N]))
        .to_bytes();
    let start = Instant::now();
    let gguf = Gguf::parse(&bytes).unwrap();
    let tokens = gguf
        .metadata()
        .require_strings("tokenizer.ggml.tokens")
        .unwrap();
    assert_eq!(
        tokens.iter().last().unwrap().bytes(),
        names[N - 1].as_bytes()
    );
    assert_eq!(
        gguf.metadata()
            .require_f32s("tokenizer.ggml.scores")
            .unwrap()
            .len(),
        N
    );
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn carried_metadata_is_the_file_s_without_its_tables() {
    let bytes = GgufWriter::new()
        .with("general.architecture", "llama")
        .with(
            "tokenizer.ggml.tokens",
            OwnedValue::strings(["a", "b", "c"]),
        )
        .with("tokenizer.ggml.model", "gpt2")
        .with("large", OwnedValue::f32s(&vec![0.0; 20_000]))
        .with("flags", OwnedValue::bools(&[true]))
        .to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let carried = MetadataBuf::from_metadata(gguf.metadata());
    let keys: Vec<_> = carried
        .pairs()
        .iter()
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(
        keys,
        ["general.architecture", "flags", potluck_gguf::N_VOCAB_KEY]
    );
    assert_eq!(
        carried.view().u32(potluck_gguf::N_VOCAB_KEY).unwrap(),
        Some(3)
    );
    assert_eq!(
        MetadataBuf::from_pairs(carried.clone().into_pairs()).unwrap(),
        carried
    );
}

/// A peer's entries are checked like a file's.
#[test]
fn bad_pairs_are_refused() {
    let array = |element, len, bytes: &[u8]| OwnedValue::Array {
        element,
        len,
        bytes: bytes.to_vec(),
    };
    let table: [(&str, Vec<(&str, OwnedValue)>); 10] = [
        ("EmptyKey", vec![("", 1u32.into())]),
        ("BadKey", vec![("a\0", 1u32.into())]),
        ("DuplicateKey", vec![("a", 1u32.into()), ("a", 2u32.into())]),
        (
            "NestedArray",
            vec![("a", array(ValueType::Array, 1, &[0; 32]))],
        ),
        ("BadArray", vec![("a", array(ValueType::U32, 2, &[0; 7]))]),
        ("BadArray", vec![("a", array(ValueType::U32, 1, &[0; 8]))]),
        ("BadArray", vec![("a", array(ValueType::Str, 2, &[0; 8]))]),
        (
            "BadArray",
            vec![("a", array(ValueType::Str, 1, &[9, 0, 0, 0, 0, 0, 0, 0]))],
        ),
        ("BadBool", vec![("a", array(ValueType::Bool, 1, &[2]))]),
        ("TooMany", vec![("a", array(ValueType::U8, u64::MAX, &[]))]),
    ];
    for (verdict, pairs) in table {
        let pairs: Vec<_> = pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        let error = MetadataBuf::from_pairs(pairs.clone()).expect_err(verdict);
        assert!(
            format!("{error:?}").starts_with(verdict),
            "{pairs:?}: {error:?}"
        );
    }
}

#[test]
fn the_writer_refuses_data_of_another_length() {
    let error = GgufWriter::new()
        .with_tensor("t", TensorType::F32, &[4], vec![0; 15])
        .unwrap_err();
    assert!(matches!(
        error,
        GgufError::WrongDataLength {
            given: 15,
            expected: 16,
            ..
        }
    ));
    let error = GgufWriter::new()
        .with_tensor("t", TensorType::F32, &[0], vec![])
        .unwrap_err();
    assert!(matches!(error, GgufError::BadDims { .. }));
}
