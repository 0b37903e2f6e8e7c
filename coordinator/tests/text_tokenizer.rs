//! Tokenizers from damaged files and texts made to hurt: a typed error or an answer in good time, and what goes in comes out.

use std::time::{Duration, Instant};

use potluck_coordinator::text::{AddBos, ControlTokens, Special, Tokenizer, TokenizerError};
use potluck_gguf::{Gguf, GgufWriter, OwnedValue};
use proptest::prelude::*;

/// The character that spells a byte in byte-level vocabularies.
fn spell(byte: u8) -> char {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let before = (0..u32::from(byte))
        .filter(|&other| !printable(other))
        .count() as u32;
    char::from_u32(if printable(byte.into()) {
        byte.into()
    } else {
        256 + before
    })
    .unwrap()
}

/// Every byte, the results of these merges, and two control tokens at the end.
fn byte_level(pre: &str) -> GgufWriter {
    let merges = [
        "h e",
        "l l",
        "he ll",
        "o Ġ",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
        "a a",
        "aa aa",
        "Ċ Ċ",
        "Ã ©",
        "hell o",
        "0 1",
        "ð Ł",
    ];
    let mut tokens: Vec<String> = (0..=255).map(|byte| spell(byte).to_string()).collect();
    tokens.extend(merges.map(|merge| merge.replace(' ', "")));
    tokens.extend(["<s>", "</s>"].map(str::to_owned));
    let types: Vec<i32> = [vec![1; tokens.len() - 2], vec![3, 3]].concat();
    let n = tokens.len() as u32;
    GgufWriter::new()
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", pre)
        .with("tokenizer.ggml.tokens", OwnedValue::strings(&tokens))
        .with("tokenizer.ggml.token_type", OwnedValue::i32s(&types))
        .with("tokenizer.ggml.merges", OwnedValue::strings(merges))
        .with("tokenizer.ggml.bos_token_id", n - 2)
        .with("tokenizer.ggml.eos_token_id", n - 1)
}

/// Unknown, BOS, EOS, the 256 bytes, and a few pieces.
fn sentence_piece() -> GgufWriter {
    let pieces = ["▁", "a", "aa", "▁a", "b", "ab", "▁▁", "\n"];
    let bytes = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>"]
        .map(str::to_owned)
        .into_iter()
        .chain(bytes)
        .chain(pieces.map(str::to_owned))
        .collect();
    let types: Vec<i32> = [vec![2, 3, 3], vec![6; 256], vec![1; pieces.len()]].concat();
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    GgufWriter::new()
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", OwnedValue::strings(&tokens))
        .with("tokenizer.ggml.token_type", OwnedValue::i32s(&types))
        .with("tokenizer.ggml.scores", OwnedValue::f32s(&scores))
}

fn load(file: &GgufWriter) -> Result<Tokenizer, TokenizerError> {
    let bytes = file.to_bytes();
    Tokenizer::from_gguf(
        Gguf::parse(&bytes)
            .expect("the file itself is sound")
            .metadata(),
    )
}

fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer
        .encode(text, Special::Text, AddBos::Never)
        .unwrap()
}

/// One way in which the tokenizer of a file can be wrong.
#[derive(Clone, Copy, Debug)]
enum Defect {
    NoModel,
    UnknownModel,
    ModelIsNumber,
    UnknownPre,
    NoTokens,
    EmptyTokens,
    TokensAreNumbers,
    DuplicateToken,
    NonUtf8Token,
    LongToken,
    ShortTypes,
    LongTypes,
    TypesAreStrings,
    UnknownType,
    NoMerges,
    MergeWithoutSpace,
    MergeWithoutRight,
    EmptyMerge,
    BosOutOfRange,
    BosHuge,
    BosNegative,
    EosOutOfRange,
    EotOutOfRange,
    AddBosWithoutBos,
    AddEosWithoutEos,
    AddBosIsNumber,
    NoScores,
    ShortScores,
    NanScore,
    ScoresAreStrings,
    UnknownIdOutOfRange,
    BadByteToken,
}

impl Defect {
    /// A file with exactly this defect, and words that its error must hold.
    fn file(self) -> (GgufWriter, &'static str) {
        use Defect::*;
        let bpe = || byte_level("gpt-2");
        let spm = sentence_piece;
        let without =
            |file: GgufWriter, key: &str| file.with(&format!("tokenizer.ggml.{key}"), 0u32);
        let bare = || {
            GgufWriter::new()
                .with("tokenizer.ggml.model", "gpt2")
                .with("tokenizer.ggml.tokens", OwnedValue::strings(["a", "b"]))
        };
        let merges =
            |lines: &[&str]| bpe().with("tokenizer.ggml.merges", OwnedValue::strings(lines));
        let tokens = |tokens: &[&[u8]]| {
            let merges = OwnedValue::strings(["a b"]);
            GgufWriter::new()
                .with("tokenizer.ggml.model", "gpt2")
                .with("tokenizer.ggml.tokens", OwnedValue::strings(tokens))
                .with("tokenizer.ggml.merges", merges)
        };
        match self {
            NoModel => (GgufWriter::new().with("a", 1u32), "tokenizer.ggml.model"),
            UnknownModel => (bpe().with("tokenizer.ggml.model", "bert"), "'bert'"),
            ModelIsNumber => (
                bpe().with("tokenizer.ggml.model", 1u32),
                "tokenizer.ggml.model",
            ),
            UnknownPre => (byte_level("viking"), "'viking'"),
            NoTokens => (
                GgufWriter::new().with("tokenizer.ggml.model", "gpt2"),
                "tokenizer.ggml.tokens",
            ),
            EmptyTokens => (tokens(&[]), "no tokens"),
            TokensAreNumbers => (
                bpe().with("tokenizer.ggml.tokens", OwnedValue::i32s(&[1])),
                "tokenizer.ggml.tokens",
            ),
            DuplicateToken => (tokens(&[b"a", b"b", b"a"]), "0 and 2"),
            NonUtf8Token => (tokens(&[b"a", b"\xff\xfe"]), "token 1 is not UTF-8"),
            LongToken => (tokens(&[&[b'a'; 5000]]), "5000"),
            ShortTypes => (
                bpe().with("tokenizer.ggml.token_type", OwnedValue::i32s(&[1])),
                "token_type",
            ),
            LongTypes => (
                bpe().with("tokenizer.ggml.token_type", OwnedValue::i32s(&[1; 999])),
                "999",
            ),
            TypesAreStrings => (
                bpe().with("tokenizer.ggml.token_type", OwnedValue::strings(["1"])),
                "token_type",
            ),
            UnknownType => (
                bpe().with("tokenizer.ggml.token_type", OwnedValue::i32s(&[99; 271])),
                "type 99",
            ),
            NoMerges => (bare(), "tokenizer.ggml.merges"),
            MergeWithoutSpace => (merges(&["h e", "ab"]), "merge 1"),
            MergeWithoutRight => (merges(&["h "]), "merge 0"),
            EmptyMerge => (merges(&[""]), "merge 0"),
            BosOutOfRange => (
                bpe().with("tokenizer.ggml.bos_token_id", 271u32),
                "bos_token_id is 271",
            ),
            BosHuge => (
                bpe().with("tokenizer.ggml.bos_token_id", u32::MAX),
                "bos_token_id is 4294967295",
            ),
            BosNegative => (
                bpe().with("tokenizer.ggml.bos_token_id", OwnedValue::I32(-1)),
                "bos_token_id",
            ),
            EosOutOfRange => (
                spm().with("tokenizer.ggml.eos_token_id", 267u32),
                "eos_token_id is 267",
            ),
            EotOutOfRange => (
                bpe().with("tokenizer.ggml.eot_token_id", 271u32),
                "eot_token_id is 271",
            ),
            AddBosWithoutBos => (
                tokens(&[b"a", b"b"]).with("tokenizer.ggml.add_bos_token", true),
                "BOS",
            ),
            AddEosWithoutEos => (
                tokens(&[b"a", b"b"]).with("tokenizer.ggml.add_eos_token", true),
                "EOS",
            ),
            AddBosIsNumber => (
                bpe().with("tokenizer.ggml.add_bos_token", 1u32),
                "add_bos_token",
            ),
            NoScores => (without(spm(), "scores"), "scores"),
            ShortScores => (
                spm().with("tokenizer.ggml.scores", OwnedValue::f32s(&[0.0])),
                "scores",
            ),
            NanScore => (
                spm().with("tokenizer.ggml.scores", OwnedValue::f32s(&[f32::NAN; 267])),
                "not a number",
            ),
            ScoresAreStrings => (
                spm().with("tokenizer.ggml.scores", OwnedValue::strings(["0"])),
                "scores",
            ),
            UnknownIdOutOfRange => (
                spm().with("tokenizer.ggml.unknown_token_id", 9999u32),
                "unknown_token_id is 9999",
            ),
            BadByteToken => (
                tokens(&[b"a", b"<0x-1>"])
                    .with("tokenizer.ggml.token_type", OwnedValue::i32s(&[1, 6])),
                "<0x-1>",
            ),
        }
    }
}

#[test]
fn every_defect_is_a_typed_error() {
    use Defect::*;
    let all = [
        NoModel,
        UnknownModel,
        ModelIsNumber,
        UnknownPre,
        NoTokens,
        EmptyTokens,
        TokensAreNumbers,
        DuplicateToken,
        NonUtf8Token,
        LongToken,
        ShortTypes,
        LongTypes,
        TypesAreStrings,
        UnknownType,
        NoMerges,
        MergeWithoutSpace,
        MergeWithoutRight,
        EmptyMerge,
        BosOutOfRange,
        BosHuge,
        BosNegative,
        EosOutOfRange,
        EotOutOfRange,
        AddBosWithoutBos,
        AddEosWithoutEos,
        AddBosIsNumber,
        NoScores,
        ShortScores,
        NanScore,
        ScoresAreStrings,
        UnknownIdOutOfRange,
        BadByteToken,
    ];
    for defect in all {
        let (file, words) = defect.file();
        let error = load(&file)
            .map(drop)
            .expect_err(&format!("{defect:?} was accepted"));
        assert!(error.to_string().contains(words), "{defect:?}: {error}");
    }
}

#[test]
fn harmless_oddities_load() {
    let odd = ["x y", "h e", "h e", "he he", "unknown parts", "q"]
        .map(|line| if line == "q" { "q q" } else { line });
    let tokenizer =
        load(&byte_level("gpt-2").with("tokenizer.ggml.merges", OwnedValue::strings(odd))).unwrap();
    assert_eq!(
        tokenizer.decode(
            &plain(&tokenizer, "xyhehe unknownparts"),
            ControlTokens::Hide
        ),
        "xyhehe unknownparts"
    );
}

#[test]
fn bos_and_eos_by_the_models_rule() {
    let spm = load(&sentence_piece()).unwrap();
    assert_eq!(
        spm.encode("a", Special::Text, AddBos::ModelRule).unwrap(),
        [1, 262],
        "SentencePiece models begin with BOS"
    );
    assert_eq!(
        spm.encode("", Special::Text, AddBos::ModelRule).unwrap(),
        [1]
    );
    assert_eq!(
        spm.encode("a", Special::Text, AddBos::Never).unwrap(),
        [262]
    );
    let closed = load(
        &sentence_piece()
            .with("tokenizer.ggml.add_eos_token", true)
            .with("tokenizer.ggml.add_bos_token", false),
    )
    .unwrap();
    assert_eq!(
        closed
            .encode("a", Special::Text, AddBos::ModelRule)
            .unwrap(),
        [262, 2]
    );
    let starts = |pre| {
        load(&byte_level(pre))
            .unwrap()
            .encode("h", Special::Text, AddBos::ModelRule)
            .unwrap()
            .len()
            == 2
    };
    assert_eq!(
        (starts("gpt-2"), starts("qwen2"), starts("llama-bpe")),
        (false, false, true)
    );
}

#[test]
fn special_tokens_are_parsed_only_on_request() {
    let tokenizer = load(&byte_level("gpt-2")).unwrap();
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    assert_eq!(
        tokenizer
            .encode("<s></s>", Special::Parse, AddBos::Never)
            .unwrap(),
        [bos, eos]
    );
    let text = plain(&tokenizer, "<s></s>");
    assert!(!text.contains(&bos) && !text.contains(&eos));
    assert_eq!(tokenizer.decode(&text, ControlTokens::Hide), "<s></s>");
    assert_eq!(tokenizer.decode(&[bos, 104, eos], ControlTokens::Hide), "h");
    assert_eq!(
        tokenizer.decode(&[bos, 104, eos], ControlTokens::Show),
        "<s>h</s>"
    );
    assert!(tokenizer.is_end_of_generation(eos) && !tokenizer.is_end_of_generation(bos));
    assert_eq!(
        (
            tokenizer.token_bytes(bos),
            tokenizer.token_text(bos),
            tokenizer.token_bytes(9999)
        ),
        (Some(&b""[..]), Some("<s>"), None)
    );
}

#[test]
fn sentence_piece_spaces_and_bytes() {
    let tokenizer = load(&sentence_piece()).unwrap();
    for text in ["", "a", " a", "ab  a", "é\n", "b a", "😀"] {
        assert_eq!(
            tokenizer.decode(&plain(&tokenizer, text), ControlTokens::Hide),
            text,
            "{text:?}"
        );
    }
    assert_eq!(
        plain(&tokenizer, "é"),
        [259, 3 + 0xc3, 3 + 0xa9],
        "a space, then the two bytes"
    );
    let bare = load(&sentence_piece().with("tokenizer.ggml.add_space_prefix", false)).unwrap();
    assert_eq!(plain(&bare, "a"), [260]);
}

#[test]
fn long_texts_take_no_more_than_n_log_n() {
    let family = "👨‍👩‍👧‍👦";
    let units = [
        "a", " ", "\n", "\t \n", "h", "he", "1", "!", family, "\u{fffd}", "é", " x", "' ",
    ];
    let tokenizers = ["gpt-2", "llama-bpe", "qwen2", "smollm", "default"]
        .map(|pre| load(&byte_level(pre)).unwrap());
    let spm = load(&sentence_piece()).unwrap();
    for unit in units {
        let text = unit.repeat((1 << 20) / unit.len());
        for (number, tokenizer) in tokenizers.iter().chain([&spm]).enumerate() {
            let started = Instant::now();
            let ids = plain(tokenizer, &text);
            // A quadratic step would take minutes; the bound is wide because test machines are slow and shared.
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{unit:?}, tokenizer {number}: {:?}",
                started.elapsed()
            );
            assert!(
                tokenizer.decode(&ids, ControlTokens::Hide) == text,
                "{unit:?}, tokenizer {number}"
            );
        }
    }
}

#[test]
fn a_text_beyond_the_limit_is_refused() {
    let tokenizer = load(&byte_level("gpt-2")).unwrap();
    let error = tokenizer
        .encode(&"a".repeat((16 << 20) + 1), Special::Text, AddBos::Never)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the text has 16777217 bytes, more than the 16777216 that are accepted"
    );
}

#[test]
fn a_missing_byte_token_loses_that_byte_only() {
    let file = byte_level("gpt-2").with("tokenizer.ggml.tokens", OwnedValue::strings(["a", "b"]));
    let file = file.with("tokenizer.ggml.token_type", OwnedValue::i32s(&[1, 1]));
    let tokenizer = load(
        &file
            .with("tokenizer.ggml.bos_token_id", 0u32)
            .with("tokenizer.ggml.eos_token_id", 0u32),
    )
    .unwrap();
    assert_eq!(plain(&tokenizer, "axéb"), [0, 1]);
}

proptest! {
    #[test]
    fn byte_level_text_survives(text in "\\PC{0,40}|[ahelo 01\n]{0,60}|(aa|hello| ){0,40}", pre in 0usize..5) {
        let pre = ["gpt-2", "llama-bpe", "qwen2", "smollm", "default"][pre];
        let tokenizer = load(&byte_level(pre)).unwrap();
        let ids = plain(&tokenizer, &text);
        prop_assert_eq!(tokenizer.decode(&ids, ControlTokens::Hide), text.clone());
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec()).collect();
        prop_assert_eq!(bytes, text.into_bytes());
    }

    #[test]
    fn any_ids_decode(ids in prop::collection::vec(any::<u32>().prop_map(|id| id % 300), 0..50)) {
        for tokenizer in [load(&byte_level("gpt-2")).unwrap(), load(&sentence_piece()).unwrap()] {
            tokenizer.decode(&ids, ControlTokens::Hide);
            tokenizer.decode(&ids, ControlTokens::Show);
        }
    }
}
