//! One value per way a file can be wrong, one generator, one verdict each.
//!
//! A table row reads: the defect, the error it must give, and what it changes in an otherwise valid file. Every row is run
//! from memory and from a mapped file.

mod raw;

use std::io::Write;

use potluck_gguf::{Gguf, GgufError, Mapped};
use raw::{
    ARRAY, BOOL, Raw, STRING, U32, array_entry, entry, string, string_entry, tensor, u32_entry,
};

/// Declares `Defect`, the list of all defects, the verdicts and the generator from one table.
macro_rules! defects {
    ($($name:ident => $verdict:ident, $spoil:expr;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Defect { $($name,)* }

        const ALL: &[Defect] = &[$(Defect::$name,)*];

        impl Defect {
            /// The name of the error variant that must come back.
            fn verdict(self) -> &'static str {
                match self { $(Defect::$name => stringify!($verdict),)* }
            }

            /// A file with this defect and no other.
            fn file(self) -> Vec<u8> {
                let mut raw = Raw::valid();
                let spoil: fn(&mut Raw) = match self { $(Defect::$name => $spoil,)* };
                spoil(&mut raw);
                raw.to_bytes()
            }
        }
    };
}

defects! {
    // Header.
    Empty => Truncated, |f| f.after = |b| b.clear();
    OneByte => Truncated, |f| f.after = |b| b.truncate(1);
    ThreeBytes => Truncated, |f| f.after = |b| b.truncate(3);
    HeaderCutInCounts => Truncated, |f| f.after = |b| b.truncate(20);
    WrongMagic => BadMagic, |f| f.magic = *b"FUGG";
    OlderMagic => BadMagic, |f| f.magic = *b"ggjt";
    VersionZero => UnsupportedVersion, |f| f.version = 0;
    VersionOne => UnsupportedVersion, |f| f.version = 1;
    VersionFour => UnsupportedVersion, |f| f.version = 4;
    VersionMax => UnsupportedVersion, |f| f.version = u32::MAX;
    BigEndian => BigEndian, |f| f.version = 3u32.swap_bytes();
    TensorCountMax => TooMany, |f| f.n_tensors = Some(u64::MAX);
    TensorCountHalf => TooMany, |f| f.n_tensors = Some(1 << 63);
    TensorCountTera => TooMany, |f| f.n_tensors = Some(1 << 40);
    TensorCountBeyondFile => Truncated, |f| f.n_tensors = Some(60_000);
    TensorCountOneMore => Truncated, |f| { f.n_tensors = Some(4); f.after = |b| b.truncate(b.len() - 288) };
    EntryCountMax => TooMany, |f| f.n_entries = Some(u64::MAX);
    EntryCountHalf => TooMany, |f| f.n_entries = Some(1 << 63);
    EntryCountTera => TooMany, |f| f.n_entries = Some(1 << 40);
    EntryCountInTinyFile => TooMany, |f| { f.n_tensors = Some(0); f.n_entries = Some(500_000_000); f.after = |b| b.truncate(24) };
    EntryCountBeyondFile => Truncated, |f| f.n_entries = Some(60_000);

    // Keys.
    KeyLengthMax => TooLong, |f| f.entries[0] = u64::MAX.to_le_bytes().to_vec();
    KeyLengthHuge => TooLong, |f| f.entries[0] = (1u64 << 31).to_le_bytes().to_vec();
    KeyLengthOverCap => TooLong, |f| f.entries[0] = entry(&[b'k'; 65_536], U32, &[0; 4]);
    KeyLengthOneOver => Truncated, |f| {
        f.entries = vec![entry(b"sixteen byte key", U32, &[0; 4])];
        f.tensors.clear();
        f.after = |b| { b.truncate(24 + 8 + 16); b[24] = 17 };
    };
    EmptyKey => EmptyKey, |f| f.entries[1] = u32_entry("", 1);
    DuplicateKey => DuplicateKey, |f| f.entries.push(u32_entry("llama.block_count", 1));
    DuplicateKeyOtherType => DuplicateKey, |f| f.entries.push(string_entry("llama.block_count", "x"));
    KeyNotUtf8 => BadKey, |f| f.entries[1] = entry(b"llama\xff.x", U32, &[0; 4]);
    KeyWithNul => BadKey, |f| f.entries[1] = u32_entry("llama\0x", 1);
    KeyWithEscape => BadKey, |f| f.entries[1] = u32_entry("\x1b[2Jx", 1);

    // Values.
    ValueType13 => UnknownValueType, |f| f.entries[1] = entry(b"k", 13, &[0; 8]);
    ValueTypeMinusOne => UnknownValueType, |f| f.entries[1] = entry(b"k", u32::MAX, &[0; 8]);
    ElementType13 => UnknownValueType, |f| f.entries[1] = array_entry("k", 13, 1, &[0; 8]);
    ArrayOfArrays => NestedArray, |f| f.entries[1] = array_entry("k", ARRAY, 1, &[0; 16]);
    ArraysTenThousandDeep => NestedArray, |f| {
        let level = [&ARRAY.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        f.entries[1] = entry(b"k", ARRAY, &level.repeat(10_000));
    };
    ArrayCountWraps => TooMany, |f| f.entries[1] = array_entry("k", 0, 1 << 62, &[0; 16]);
    StringArrayCountWraps => TooMany, |f| f.entries[1] = array_entry("k", STRING, 1 << 61, &[0; 16]);
    U64ArrayCountWraps => TooMany, |f| f.entries[1] = array_entry("k", 10, (1 << 61) + 1, &[0; 16]);
    ArrayOverCap => TooMany, |f| f.entries[1] = array_entry("k", 0, (4 << 20) + 1, &[0; 16]);
    ArrayBeyondFile => Truncated, |f| f.entries[3] = array_entry("k", 0, 4 << 20, &[0; 16]);
    StringArrayBeyondFile => Truncated, |f| f.entries[3] = array_entry("k", STRING, 10_000, &[0; 16]);
    StringInArrayBeyondFile => Truncated, |f| f.entries[3] = array_entry("k", STRING, 1, &(1u64 << 20).to_le_bytes());
    StringInArrayOverCap => TooLong, |f| f.entries[3] = array_entry("k", STRING, 1, &u64::MAX.to_le_bytes());
    StringBeyondFile => Truncated, |f| f.entries[3] = entry(b"k", STRING, &(1u64 << 20).to_le_bytes());
    StringLengthMax => TooLong, |f| f.entries[3] = entry(b"k", STRING, &u64::MAX.to_le_bytes());
    StringNotUtf8 => NotUtf8, |f| f.entries[1] = entry(b"k", STRING, &string(b"\xc3\x28"));
    ChatTemplateOverCap => TooLong, |f| f.entries[1] = string_entry("tokenizer.chat_template", &"x".repeat((1 << 20) + 1));
    NamedTemplateOverCap => TooLong, |f| f.entries[1] = string_entry("tokenizer.chat_template.rag", &"x".repeat((1 << 20) + 1));
    BoolTwo => BadBool, |f| f.entries[1] = entry(b"k", BOOL, &[2]);
    BoolMax => BadBool, |f| f.entries[1] = entry(b"k", BOOL, &[255]);
    BoolTwoInArray => BadBool, |f| f.entries[3] = array_entry("flags", BOOL, 3, &[0, 1, 2]);

    // Alignment and split files.
    AlignmentZero => BadValue, |f| f.entries.push(u32_entry("general.alignment", 0));
    AlignmentOne => BadValue, |f| f.entries.push(u32_entry("general.alignment", 1));
    AlignmentThree => BadValue, |f| f.entries.push(u32_entry("general.alignment", 3));
    AlignmentHuge => BadValue, |f| f.entries.push(u32_entry("general.alignment", 0x8000_0000));
    AlignmentOtherType => WrongType, |f| f.entries.push(entry(b"general.alignment", 10, &32u64.to_le_bytes()));
    AlignmentTwice => DuplicateKey, |f| f.entries.extend([u32_entry("general.alignment", 32), u32_entry("general.alignment", 32)]);
    AlignmentNotKept => Misaligned, |f| f.entries.push(u32_entry("general.alignment", 64));
    SplitFile => SplitFile, |f| f.entries.push(entry(b"split.count", 2, &3u16.to_le_bytes()));
    SplitCountString => WrongType, |f| f.entries.push(string_entry("split.count", "3"));
    SplitCountNegative => BadValue, |f| f.entries.push(entry(b"split.count", 5, &(-1i32).to_le_bytes()));
    SplitNumberFloat => WrongType, |f| f.entries.push(entry(b"split.no", 6, &1f32.to_le_bytes()));

    // Tensor names and dimensions.
    NameOf64 => TooLong, |f| f.tensors[1].name = vec![b'x'; 64];
    NameOf65 => TooLong, |f| f.tensors[1].name = vec![b'x'; 65];
    NameEmpty => EmptyTensorName, |f| f.tensors[1].name.clear();
    NameTwice => DuplicateTensor, |f| f.tensors[1].name = f.tensors[0].name.clone();
    NameNotUtf8 => BadTensorName, |f| f.tensors[1].name = b"blk.\xff".to_vec();
    NameClimbs => BadTensorName, |f| f.tensors[1].name = b"../../etc/passwd".to_vec();
    NameClimbsWindows => BadTensorName, |f| f.tensors[1].name = b"..\\x".to_vec();
    NameWithNul => BadTensorName, |f| f.tensors[1].name = b"x\0y".to_vec();
    NoDims => BadDimCount, |f| f.tensors[1].n_dims = Some(0);
    FiveDims => BadDimCount, |f| f.tensors[1].ne = vec![32, 1, 1, 1, 1];
    DimCountMax => BadDimCount, |f| f.tensors[1].n_dims = Some(u32::MAX);
    DimZero => BadDims, |f| f.tensors[1].ne = vec![0];
    LastDimZero => BadDims, |f| f.tensors[1].ne = vec![32, 0];
    DimMinusOne => BadDims, |f| f.tensors[1].ne = vec![u64::MAX];
    DimsWrap => BadDims, |f| f.tensors[1].ne = vec![1 << 33, 1 << 33];
    DimsWrapToOne => BadDims, |f| f.tensors[1].ne = vec![1 << 32, 1 << 32, 1 << 32, 1 << 32];
    BytesWrapToZero => TensorTooLarge, |f| f.tensors[1].ne = vec![4, (1 << 30) - 1, (1 << 30) + 1, 1];
    BytesReach63Bits => TensorTooLarge, |f| f.tensors[1].ne = vec![1 << 61];
    SumWraps => OutsideFile, |f| for t in &mut f.tensors[..2] { t.ne = vec![0x7fff_ffff_ffff_ffc0]; t.ty = 24 };

    // Tensor types.
    TypeWithdrawn4 => UnknownTensorType, |f| f.tensors[1].ty = 4;
    TypeWithdrawn5 => UnknownTensorType, |f| f.tensors[1].ty = 5;
    TypeWithdrawn31 => UnknownTensorType, |f| f.tensors[1].ty = 31;
    TypeWithdrawn36 => UnknownTensorType, |f| f.tensors[1].ty = 36;
    TypeFuture => UnknownTensorType, |f| f.tensors[1].ty = 43;
    TypeMinusOne => UnknownTensorType, |f| f.tensors[1].ty = u32::MAX;
    RowNotBlocks => RowNotBlocks, |f| f.tensors[0].ne = vec![33, 2];
    RowNotBlocksThoughTotalIs => RowNotBlocks, |f| f.tensors[0].ne = vec![16, 4];

    // Tensor data.
    OffsetMisaligned => Misaligned, |f| f.tensors[1].offset = Some(97);
    OffsetOfFirst => Overlap, |f| f.tensors[1].offset = Some(0);
    OffsetInsideBefore => Overlap, |f| f.tensors[1].offset = Some(64);
    OffsetLeavesGap => Gap, |f| { f.tensors[2].offset = Some(256); f.after = |b| b.extend([0; 64]) };
    OffsetBeyondFile => OutsideFile, |f| f.tensors[2].offset = Some(1 << 20);
    OffsetWraps => OutsideFile, |f| f.tensors[2].offset = Some(u64::MAX - 31);
    OffsetMax => OutsideFile, |f| f.tensors[2].offset = Some(u64::MAX);
    TensorsSwapped => Gap, |f| { f.tensors[0].offset = Some(128); f.tensors[1].offset = Some(0) };
    DataShortByOne => OutsideFile, |f| f.after = |b| b.truncate(b.len() - 1);
    DataMissing => OutsideFile, |f| f.after = |b| b.truncate(b.len() - 256);
    TensorLongerThanFile => OutsideFile, |f| f.tensors[2].ne = vec![1 << 20];
}

/// The name of an error's variant.
fn variant(error: &GgufError) -> String {
    let debug = format!("{error:?}");
    debug
        .split([' ', '{', '('])
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn each_defect_gets_its_verdict() {
    for &defect in ALL {
        let error = Gguf::parse(&defect.file()).expect_err(&format!("{defect:?} must be refused"));
        assert_eq!(variant(&error), defect.verdict(), "{defect:?}: {error}");
        assert!(
            error.to_string().len() < 1000,
            "{defect:?} gives an endless message"
        );
        assert!(
            !error.to_string().contains(|c: char| c.is_control()),
            "{defect:?} puts control characters on the screen"
        );
    }
}

#[test]
fn each_defect_gets_its_verdict_from_a_mapped_file() {
    for &defect in ALL {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&defect.file()).unwrap();
        let mapped = Mapped::open(file.path()).unwrap();
        let error = Gguf::parse(mapped.bytes()).expect_err(&format!("{defect:?} must be refused"));
        assert_eq!(variant(&error), defect.verdict(), "{defect:?}: {error}");
    }
}

#[test]
fn the_file_without_a_defect_is_accepted() {
    let bytes = Raw::valid().to_bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!((gguf.tensors().len(), gguf.metadata().len()), (3, 4));
}

/// Cut at any byte of the header or the data, a file is refused as cut.
#[test]
fn every_prefix_is_refused() {
    let bytes = Raw::valid().to_bytes();
    for n in 0..bytes.len() {
        let error =
            Gguf::parse(&bytes[..n]).expect_err(&format!("a prefix of {n} bytes must be refused"));
        assert!(
            matches!(variant(&error).as_str(), "Truncated" | "OutsideFile"),
            "{n} bytes: {error}"
        );
    }
}

/// Rows that are not whole blocks are refused for every type with blocks.
#[test]
fn every_block_type_refuses_broken_rows() {
    for ty in potluck_gguf::TensorType::all().filter(|ty| ty.block_elements() > 1) {
        let mut raw = Raw::valid();
        raw.tensors[0] = tensor("t", ty.id(), &[ty.block_elements() + 1, 1], 4096);
        let error = Gguf::parse(&raw.to_bytes()).unwrap_err();
        assert_eq!(variant(&error), "RowNotBlocks", "{ty}: {error}");
    }
}

/// Twenty strings of 16 MiB each, all in the file: no length is wrong, together they are over the cap. The file is sparse.
#[test]
fn a_header_over_the_cap_is_refused() {
    const STRING_BYTES: u64 = 16 << 20;
    let mut raw = Raw::valid();
    raw.entries = vec![array_entry("k", STRING, 20, &[])];
    raw.tensors.clear();
    let entry_bytes = raw.entries[0].len() as u64;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&raw.to_bytes()[..24 + entry_bytes as usize])
        .unwrap();
    for i in 0..20 {
        use std::io::{Seek, SeekFrom};
        file.seek(SeekFrom::Start(24 + entry_bytes + i * (8 + STRING_BYTES)))
            .unwrap();
        file.write_all(&STRING_BYTES.to_le_bytes()).unwrap();
    }
    file.as_file()
        .set_len(24 + entry_bytes + 20 * (8 + STRING_BYTES))
        .unwrap();
    let mapped = Mapped::open(file.path()).unwrap();
    let error = Gguf::parse(mapped.bytes()).unwrap_err();
    assert_eq!(variant(&error), "HeaderTooLarge", "{error}");
}

/// All the tests of this file together stay small, whatever the files claimed.
#[cfg(target_os = "linux")]
#[test]
fn no_defect_makes_the_parser_allocate() {
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = peak_kib();
    for &defect in ALL {
        let _ = Gguf::parse(&defect.file());
    }
    let grown_kib = peak_kib() - before;
    assert!(grown_kib < 64 << 10, "peak memory grew by {grown_kib} KiB");
}
