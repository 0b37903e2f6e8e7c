//! Builds a tokenizer from the metadata of a GGUF file: the one place that knows the `tokenizer.ggml.*` keys and the
//! defaults that files rely on when they leave a key out.

use potluck_gguf::Metadata;

use super::bpe::Bpe;
use super::error::TokenizerError;
use super::pre_tokenizer::Family;
use super::special::{SpecialTokens, end_of_turn, end_tokens};
use super::spm::Spm;
use super::tokenizer::{Rules, Scheme, Tokenizer};
use super::vocabulary::{Spelling, TokenColumns, TokenId, Vocabulary};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// The special ids of SentencePiece models whose file names none.
const SPM_UNKNOWN: TokenId = 0;
const SPM_BOS: TokenId = 1;
const SPM_EOS: TokenId = 2;

impl Tokenizer {
    /// Reads and checks the tokenizer of a model file.
    pub fn from_gguf(meta: &Metadata<'_>) -> Result<Tokenizer, TokenizerError> {
        match meta.require_str(MODEL)? {
            "gpt2" => byte_level(meta),
            "llama" => sentence_piece(meta),
            model => Err(TokenizerError::UnknownModel {
                model: model.to_owned(),
                known: "gpt2, llama",
            }),
        }
    }
}

fn byte_level(meta: &Metadata<'_>) -> Result<Tokenizer, TokenizerError> {
    let family = Family::from_name(meta.str(PRE)?.unwrap_or("default"))?;
    let vocabulary = vocabulary(meta, None, Spelling::ByteLevel)?;
    let merges = meta.require_strings(MERGES)?;
    let bpe = Bpe::new(
        &vocabulary,
        merges.iter().map(|merge| merge.bytes()),
        family,
    )?;
    let rules = rules(
        meta,
        &vocabulary,
        Defaults {
            bos: None,
            eos: None,
            add_bos: family.adds_bos(),
        },
    )?;
    finish(vocabulary, Scheme::Bpe(Box::new(bpe)), rules)
}

fn sentence_piece(meta: &Metadata<'_>) -> Result<Tokenizer, TokenizerError> {
    let scores = meta.require_f32s(SCORES)?;
    let vocabulary = vocabulary(meta, Some(&scores), Spelling::Metaspace)?;
    let unknown =
        special_id(meta, UNKNOWN, &vocabulary)?.or_else(|| in_range(SPM_UNKNOWN, &vocabulary));
    let space_prefix = meta.bool(SPACE_PREFIX)?.unwrap_or(true);
    let scheme = Scheme::Spm {
        spm: Box::new(Spm::new(&vocabulary, unknown)),
        space_prefix,
    };
    let (bos, eos) = (
        in_range(SPM_BOS, &vocabulary),
        in_range(SPM_EOS, &vocabulary),
    );
    let rules = rules(
        meta,
        &vocabulary,
        Defaults {
            bos,
            eos,
            add_bos: true,
        },
    )?;
    finish(vocabulary, scheme, rules)
}

fn finish(
    vocabulary: Vocabulary,
    scheme: Scheme,
    rules: Rules,
) -> Result<Tokenizer, TokenizerError> {
    let special = SpecialTokens::new(&vocabulary)?;
    Ok(Tokenizer {
        vocabulary,
        special,
        scheme,
        rules,
    })
}

fn vocabulary(
    meta: &Metadata<'_>,
    scores: Option<&[f32]>,
    spelling: Spelling,
) -> Result<Vocabulary, TokenizerError> {
    let tokens = meta.require_strings(TOKENS)?;
    let types = meta.i32s(TYPES)?;
    let columns = TokenColumns {
        types: types.as_deref(),
        scores,
    };
    Vocabulary::new(tokens.iter().map(|token| token.bytes()), columns, spelling)
}

/// What holds when the file does not say.
struct Defaults {
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    add_bos: bool,
}

fn rules(
    meta: &Metadata<'_>,
    vocabulary: &Vocabulary,
    defaults: Defaults,
) -> Result<Rules, TokenizerError> {
    let bos = special_id(meta, BOS, vocabulary)?.or(defaults.bos);
    let eos = special_id(meta, EOS, vocabulary)?.or(defaults.eos);
    let named_eot = special_id(meta, EOT, vocabulary)?;
    let eom = special_id(meta, EOM, vocabulary)?;
    let add_bos = meta.bool(ADD_BOS)?.unwrap_or(defaults.add_bos);
    let add_eos = meta.bool(ADD_EOS)?.unwrap_or(false);
    for (added, id, token) in [(add_bos, bos, "BOS"), (add_eos, eos, "EOS")] {
        if added && id.is_none() {
            return Err(TokenizerError::MissingSpecialToken { token });
        }
    }
    let named: Vec<TokenId> = [eos, named_eot, eom].into_iter().flatten().collect();
    let ends = end_tokens(vocabulary, &named);
    Ok(Rules {
        bos,
        eos,
        eot: named_eot.or_else(|| end_of_turn(vocabulary)),
        add_bos,
        add_eos,
        ends,
    })
}

fn special_id(
    meta: &Metadata<'_>,
    key: &'static str,
    vocabulary: &Vocabulary,
) -> Result<Option<TokenId>, TokenizerError> {
    let Some(id) = meta.u32(key)? else {
        return Ok(None);
    };
    let tokens = vocabulary.len();
    let in_range = in_range(id, vocabulary);
    in_range
        .map(Some)
        .ok_or(TokenizerError::SpecialIdOutOfRange { key, id, tokens })
}

fn in_range(id: TokenId, vocabulary: &Vocabulary) -> Option<TokenId> {
    ((id as usize) < vocabulary.len()).then_some(id)
}
