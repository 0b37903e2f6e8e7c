//! `POST /tokenize` and `POST /detokenize`: text to token ids and back, in the shapes of llama.cpp's server.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::field::Bounded;
use super::{ApiState, body};
use crate::text::{AddBos, ControlTokens, Special, TokenId, Tokenizer};

/// Ids of one request: more than any context has.
const MAX_IDS: usize = 1 << 20;

#[derive(Deserialize)]
struct TokenizeBody {
    content: String,
    /// BOS and EOS where the model file asks for them; without it none.
    add_special: Option<bool>,
    /// Whether the spelling of a control token means that token, as it does unless told otherwise.
    parse_special: Option<bool>,
    with_pieces: Option<bool>,
}

#[derive(Serialize)]
pub(super) struct Tokenized {
    tokens: Tokens,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Tokens {
    Ids(Vec<TokenId>),
    Pieces(Vec<Piece>),
}

#[derive(Serialize)]
struct Piece {
    id: TokenId,
    piece: PieceText,
}

/// Bytes where they are no text on their own, such as half a character.
#[derive(Serialize)]
#[serde(untagged)]
enum PieceText {
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Deserialize)]
struct DetokenizeBody {
    tokens: Bounded<TokenId, MAX_IDS>,
}

#[derive(Serialize)]
pub(super) struct Detokenized {
    content: String,
}

pub(super) async fn tokenize(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<Tokenized>, ApiError> {
    let asked: TokenizeBody = body::parse_with(body::read(request).await?, body::parse).await?;
    let special = match asked.parse_special {
        Some(false) => Special::Text,
        _ => Special::Parse,
    };
    let add_bos = match asked.add_special {
        Some(true) => AddBos::ModelRule,
        _ => AddBos::Never,
    };
    let ids = state
        .answerer
        .encode(asked.content, special, add_bos)
        .await?;
    let tokens = match asked.with_pieces {
        Some(true) => Tokens::Pieces(pieces(&state.answerer.model().tokenizer, ids)),
        _ => Tokens::Ids(ids),
    };
    Ok(Json(Tokenized { tokens }))
}

fn pieces(tokenizer: &Tokenizer, ids: Vec<TokenId>) -> Vec<Piece> {
    let piece = |id| {
        let bytes = tokenizer.token_bytes(id).unwrap_or_default().to_vec();
        // A control token has no bytes, but a name.
        let piece = match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => {
                PieceText::Text(tokenizer.token_text(id).unwrap_or_default().to_owned())
            }
            Ok(text) => PieceText::Text(text),
            Err(error) => PieceText::Bytes(error.into_bytes()),
        };
        Piece { id, piece }
    };
    ids.into_iter().map(piece).collect()
}

pub(super) async fn detokenize(
    State(state): State<Arc<ApiState>>,
    request: Request,
) -> Result<Json<Detokenized>, ApiError> {
    let asked: DetokenizeBody = body::parse_with(body::read(request).await?, body::parse).await?;
    let Bounded(ids) = asked.tokens;
    let tokenizer = &state.answerer.model().tokenizer;
    let n_vocab = tokenizer.n_vocab();
    if let Some((index, id)) = ids
        .iter()
        .enumerate()
        .find(|(_, id)| **id as usize >= n_vocab)
    {
        return Err(ApiError::invalid(format!(
            "`tokens[{index}]` is {id}; the model has ids 0 to {}",
            n_vocab.saturating_sub(1)
        )));
    }
    Ok(Json(Detokenized {
        content: tokenizer.decode(&ids, ControlTokens::Show),
    }))
}
