//! The shape of a model: what it is read from, and every key that is missing or impossible.

use potluck_gguf::{
    Architecture, Gguf, GgufError, GgufWriter, MetadataBuf, ModelShape, N_VOCAB_KEY, OwnedValue,
    RopeScaling,
};

/// A small valid model of each family.
fn model(architecture: &str) -> GgufWriter {
    let key = |name: &str| format!("{architecture}.{name}");
    let writer = GgufWriter::new()
        .with("general.architecture", architecture)
        .with(&key("block_count"), 12u32)
        .with(&key("embedding_length"), 64u32)
        .with(&key("feed_forward_length"), 128u32)
        .with(&key("context_length"), 2048u32)
        .with(&key("attention.head_count"), 4u32)
        .with(&key("attention.head_count_kv"), 2u32)
        .with(&key("attention.layer_norm_rms_epsilon"), 1e-5f32)
        .with(
            "tokenizer.ggml.tokens",
            OwnedValue::strings(["a", "b", "c"]),
        );
    match architecture {
        "gemma3" => writer
            .with("gemma3.attention.sliding_window", 512u32)
            .with("gemma3.attention.key_length", 32u32),
        _ => writer,
    }
}

fn shape(writer: &GgufWriter) -> Result<ModelShape, GgufError> {
    let bytes = writer.to_bytes();
    ModelShape::from_metadata(Gguf::parse(&bytes).unwrap().metadata())
}

/// Writes a model without one of its keys.
fn without(writer: &GgufWriter, key: &str) -> GgufWriter {
    let bytes = writer.to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let kept = gguf
        .metadata()
        .iter()
        .filter(|(k, _)| *k != key)
        .map(|(k, v)| (k.to_owned(), OwnedValue::from(v)));
    GgufWriter::new().with_metadata(MetadataBuf::from_pairs(kept.collect()).unwrap())
}

#[test]
fn llama_has_the_usual_defaults() {
    let shape = shape(&model("llama")).unwrap();
    assert_eq!(shape.architecture, Architecture::Llama);
    assert_eq!(
        (shape.n_layers, shape.d_model, shape.d_ff, shape.n_vocab),
        (12, 64, 128, 3)
    );
    assert_eq!(
        (
            shape.n_heads,
            shape.n_kv_heads,
            shape.head_dim,
            shape.value_dim
        ),
        (4, 2, 16, 16)
    );
    assert_eq!(
        (shape.rope.dim, shape.rope.base, shape.rope.scaling),
        (16, 10_000.0, RopeScaling::None)
    );
    assert_eq!(
        (
            shape.attention_scale,
            shape.sliding_window,
            shape.is_sliding(0)
        ),
        (0.25, None, false)
    );
}

#[test]
fn gemma3_slides_on_five_layers_of_six() {
    let shape = shape(&model("gemma3").with("gemma3.rope.freq_base", 1e6f32)).unwrap();
    assert_eq!(
        (shape.head_dim, shape.value_dim, shape.sliding_window),
        (32, 16, Some(512))
    );
    assert_eq!((shape.rope.base, shape.rope.base_local), (1e6, 10_000.0));
    let global: Vec<_> = (0..12).filter(|&i| !shape.is_sliding(i)).collect();
    assert_eq!(global, [5, 11]);
}

#[test]
fn gemma3_reads_its_pattern_as_a_period_or_as_flags() {
    let key = "gemma3.attention.sliding_window_pattern";
    let period = shape(&model("gemma3").with(key, 3u32)).unwrap();
    assert_eq!(
        (0..12)
            .filter(|&i| !period.is_sliding(i))
            .collect::<Vec<_>>(),
        [2, 5, 8, 11]
    );
    let flags: Vec<_> = (0..12).map(|i| i == 7).collect();
    let listed = shape(&model("gemma3").with(key, OwnedValue::bools(&flags))).unwrap();
    assert_eq!(listed.sliding_layers, flags);
    let error = shape(&model("gemma3").with(key, OwnedValue::bools(&flags[1..]))).unwrap_err();
    assert!(matches!(error, GgufError::BadValue { .. }), "{error}");
}

#[test]
fn optional_keys_are_heard() {
    let writer = model("llama")
        .with("llama.rope.freq_base", 5e5f32)
        .with("llama.rope.dimension_count", 8u32)
        .with("llama.rope.scaling.type", "linear")
        .with("llama.rope.scaling.factor", 4.0f32)
        .with("llama.attention.value_length", 24u32)
        .with("llama.attention.head_count", OwnedValue::u32s(&[8; 12]))
        .with("llama.expert_count", 0u32)
        .with("llama.final_logit_softcapping", 30.0f32);
    let shape = shape(&writer).unwrap();
    assert_eq!(
        (
            shape.n_heads,
            shape.head_dim,
            shape.value_dim,
            shape.rope.dim
        ),
        (8, 8, 24, 8)
    );
    assert_eq!(
        (shape.rope.base, shape.rope.scaling),
        (5e5, RopeScaling::Linear { factor: 4.0 })
    );
    assert_eq!(
        (shape.final_logit_softcap, shape.attn_logit_softcap),
        (Some(30.0), None)
    );
}

#[test]
fn key_value_heads_default_to_heads() {
    let shape = shape(&without(&model("qwen2"), "qwen2.attention.head_count_kv")).unwrap();
    assert_eq!(
        (shape.architecture, shape.n_kv_heads),
        (Architecture::Qwen2, 4)
    );
}

#[test]
fn each_required_key_is_missed_by_name() {
    for architecture in Architecture::ALL {
        let name = architecture.name();
        for key in [
            "block_count",
            "embedding_length",
            "feed_forward_length",
            "context_length",
            "attention.head_count",
            "attention.layer_norm_rms_epsilon",
        ] {
            let key = format!("{name}.{key}");
            match shape(&without(&model(name), &key)).unwrap_err() {
                GgufError::MissingKey { key: missing } => assert_eq!(missing, key),
                other => panic!("without {key}: {other}"),
            }
        }
    }
    let error = shape(&without(&model("llama"), "general.architecture")).unwrap_err();
    assert!(matches!(error, GgufError::MissingKey { key } if key == "general.architecture"));
}

#[test]
fn the_vocabulary_is_counted_with_or_without_the_table() {
    let bare = without(&model("llama"), "tokenizer.ggml.tokens");
    assert!(
        matches!(shape(&bare), Err(GgufError::MissingKey { key }) if key == "llama.vocab_size")
    );
    assert_eq!(
        shape(&bare.clone().with("llama.vocab_size", 77u32))
            .unwrap()
            .n_vocab,
        77
    );
    assert_eq!(
        shape(&bare.clone().with(N_VOCAB_KEY, 78u32))
            .unwrap()
            .n_vocab,
        78
    );
    assert_eq!(
        shape(
            &bare
                .with("llama.vocab_size", 77u32)
                .with(N_VOCAB_KEY, 78u32)
        )
        .unwrap()
        .n_vocab,
        78
    );
    assert_eq!(
        shape(&model("llama").with("llama.vocab_size", 77u32))
            .unwrap()
            .n_vocab,
        3
    );
}

#[test]
fn the_shape_survives_without_the_file() {
    for architecture in Architecture::ALL {
        let bytes = model(architecture.name()).to_bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        let carried = MetadataBuf::from_metadata(gguf.metadata());
        assert_eq!(
            ModelShape::from_metadata(&carried.view()).unwrap(),
            ModelShape::from_metadata(gguf.metadata()).unwrap()
        );
    }
}

/// Values that no model can have: each is refused, and the message names the key.
#[test]
fn impossible_values_are_refused_by_name() {
    let table: Vec<(&str, OwnedValue)> = vec![
        ("llama.block_count", 0u32.into()),
        ("llama.block_count", 100_000u32.into()),
        ("llama.block_count", OwnedValue::I32(-1)),
        ("llama.block_count", OwnedValue::U64(1 << 40)),
        ("llama.block_count", "12".into()),
        ("llama.embedding_length", 0u32.into()),
        ("llama.embedding_length", u32::MAX.into()),
        ("llama.feed_forward_length", 0u32.into()),
        ("llama.context_length", 0u32.into()),
        ("llama.context_length", u32::MAX.into()),
        ("llama.attention.head_count", 0u32.into()),
        ("llama.attention.head_count", 5u32.into()),
        ("llama.attention.head_count", OwnedValue::u32s(&[])),
        ("llama.attention.head_count", OwnedValue::u32s(&[4, 8])),
        ("llama.attention.head_count_kv", 0u32.into()),
        ("llama.attention.head_count_kv", 3u32.into()),
        ("llama.attention.head_count_kv", 8u32.into()),
        ("llama.attention.key_length", 0u32.into()),
        ("llama.attention.key_length", 1_000_000u32.into()),
        ("llama.attention.value_length", 0u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 0f32.into()),
        ("llama.attention.layer_norm_rms_epsilon", f32::NAN.into()),
        (
            "llama.attention.layer_norm_rms_epsilon",
            f32::INFINITY.into(),
        ),
        ("llama.attention.layer_norm_rms_epsilon", 1u32.into()),
        ("llama.rope.dimension_count", 0u32.into()),
        ("llama.rope.dimension_count", 15u32.into()),
        ("llama.rope.dimension_count", 18u32.into()),
        ("llama.rope.freq_base", 0f32.into()),
        ("llama.rope.freq_base", f32::NAN.into()),
        ("llama.rope.freq_base", (-1f32).into()),
        ("llama.rope.scaling.type", "yarn".into()),
        ("llama.rope.scaling.type", "longrope".into()),
        ("llama.rope.scaling.factor", (-2f32).into()),
        ("llama.rope.scaling.factor", f32::NAN.into()),
        ("llama.expert_count", 8u32.into()),
        ("llama.final_logit_softcapping", (-30f32).into()),
        ("general.architecture", 3u32.into()),
        ("general.architecture", "mamba".into()),
        ("tokenizer.ggml.tokens", OwnedValue::i32s(&[1, 2])),
    ];
    for (key, value) in table {
        let error = shape(&model("llama").with(key, value.clone()))
            .expect_err(&format!("{key} = {value:?}"));
        let message = error.to_string();
        let named = message.contains(key) || message.contains("mamba");
        assert!(
            named,
            "{key} = {value:?} gives a message without the key: {message}"
        );
    }
}

#[test]
fn an_unknown_family_is_told_what_is_supported() {
    let error = shape(&model("llama").with("general.architecture", "mamba")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the architecture \"mamba\" is not supported; supported are llama, qwen2, gemma3"
    );
}
