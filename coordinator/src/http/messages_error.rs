//! Errors as Anthropic's clients know them, on Anthropic's routes: `{"type":"error","error":{"type":"...","message":"..."}}`.
//!
//! A layer around everything else changes the shape, so that it does not matter who refuses a request. Status and headers stay.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde::Serialize;

use super::error::{ApiError, ErrorType};

/// An error on the wire.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

impl<'a> From<&'a ApiError> for ErrorBody<'a> {
    fn from(error: &'a ApiError) -> ErrorBody<'a> {
        ErrorBody {
            kind: "error",
            error: Error {
                kind: type_of(error),
                message: error.message(),
            },
        }
    }
}

fn type_of(error: &ApiError) -> &'static str {
    match error.kind() {
        _ if error.status() == StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        ErrorType::InvalidRequestError | ErrorType::ExceedContextSizeError => {
            "invalid_request_error"
        }
        ErrorType::ModelNotFound | ErrorType::NotFoundError => "not_found_error",
        ErrorType::AuthenticationError => "authentication_error",
        ErrorType::PermissionError => "permission_error",
        ErrorType::RateLimitError => "rate_limit_error",
        ErrorType::UnavailableError => "overloaded_error",
        ErrorType::ServerError => "api_error",
    }
}

/// Gives the errors of Anthropic's routes their shape.
pub(super) async fn in_anthropics_shape(request: Request, next: Next) -> Response {
    let is_anthropics = is_anthropics(request.uri().path());
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) if is_anthropics => reshaped(response, &error),
        _ => response,
    }
}

fn is_anthropics(path: &str) -> bool {
    path.strip_prefix("/v1/messages")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn reshaped(response: Response, error: &ApiError) -> Response {
    let (mut head, _) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    let body = serde_json::to_vec(&ErrorBody::from(error)).unwrap_or_default();
    Response::from_parts(head, Body::from(body))
}
