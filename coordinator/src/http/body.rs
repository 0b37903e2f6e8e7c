//! Reads the body of a request within its limits: bytes and time.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};

use super::MAX_BODY_BYTES;
use super::error::{ApiError, ErrorType};

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
