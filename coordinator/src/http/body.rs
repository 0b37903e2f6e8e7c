//! Reads the body of a request within its limits, bytes and time, and what its JSON says.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::MAX_BODY_BYTES;
use super::error::{ApiError, ErrorType};
use crate::answer::AnswerError;

/// Bodies up to this are parsed where they arrive: at 200 MB/s that takes a third of a millisecond.
const INLINE_PARSE_BYTES: usize = 64 << 10;

/// How long a client may take to send a body: 8 MiB in this time is a slow Wi-Fi's speed.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The whole body. One that says beforehand that it is too long is refused before any of it is read.
pub(super) async fn read(request: Request) -> Result<Bytes, ApiError> {
    check_encoding(request.headers())?;
    if announced_bytes(request.headers()).is_some_and(|bytes| bytes > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_DEADLINE, Bytes::from_request(request, &())).await;
    match read {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(too_large())
        }
        Ok(Err(_)) => Err(ApiError::invalid(
            "the request body could not be read to its end",
        )),
        Err(_) => Err(refusal(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the request body did not arrive within {} seconds",
                BODY_DEADLINE.as_secs()
            ),
        )),
    }
}

/// What `parse` makes of a body, on a thread of its own if that may take long.
pub(super) async fn parse_with<T: Send + 'static>(
    body: Bytes,
    parse: fn(&[u8]) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    if body.len() <= INLINE_PARSE_BYTES {
        return parse(&body);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(&body)).await;
    parsed.map_err(|_| ApiError::from(AnswerError::PreparationFailed))?
}

/// The JSON object of a body. Errors name the field.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // Structs would also be read from a list of their fields.
    if bytes
        .trim_ascii_start()
        .first()
        .is_some_and(|first| *first != b'{')
    {
        return Err(ApiError::invalid("the request body is not a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut json).map_err(|error| explain(&error))?;
    json.end().map_err(|error| not_json(&error))?;
    Ok(body)
}

fn explain(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    if !error.inner().is_data() {
        return not_json(error.inner());
    }
    match error.path().to_string().as_str() {
        "." => ApiError::invalid(format!("the request body is not valid: {}", error.inner())),
        path => ApiError::invalid(format!("`{path}` is not valid: {}", error.inner())),
    }
}

fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::invalid(format!("the request body is not valid JSON: {error}"))
}

/// A compressed body could unpack to any size, so none is accepted.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    Err(refusal(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "compressed request bodies are not accepted; send the JSON as it is".to_owned(),
    ))
}

fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn too_large() -> ApiError {
    let message =
        format!("the request body is larger than {MAX_BODY_BYTES} bytes; shorten the chat");
    refusal(StatusCode::PAYLOAD_TOO_LARGE, message)
}

fn refusal(code: StatusCode, message: String) -> ApiError {
    ApiError::new(code, ErrorType::InvalidRequestError, message)
}
