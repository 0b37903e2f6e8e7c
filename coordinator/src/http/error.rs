//! The one shape of errors: `{"error":{"code":400,"message":"...","type":"..."}}`, as llama.cpp's server writes them, and
//! which status each failure is. A refused key has OpenAI's word for a code, because clients look for it.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::answer::AnswerError;
use crate::engine::GenerateError;
use crate::text::{TemplateError, TokenizerError};

/// Characters of a message. What is wrong may quote a request, and a request may be megabytes.
const MAX_MESSAGE_CHARS: usize = 600;

/// Seconds after which a client may try again: a worker comes back or a queue moves within this time.
const RETRY_AFTER_S: u32 = 5;

/// The `type` of an error, by which programs tell errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorType {
    InvalidRequestError,
    ExceedContextSizeError,
    ModelNotFound,
    NotFoundError,
    AuthenticationError,
    PermissionError,
    RateLimitError,
    UnavailableError,
    ServerError,
}

/// A refusal or a failure, as the client sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ApiError {
    #[serde(serialize_with = "as_code")]
    code: StatusCode,
    message: String,
    #[serde(rename = "type")]
    kind: ErrorType,
    #[serde(flatten)]
    context: Option<ContextSize>,
}

/// The numbers of a prompt that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct ContextSize {
    n_prompt_tokens: u64,
    n_ctx: u64,
}

/// An error on the wire.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    error: &'a ApiError,
}

impl ApiError {
    pub(super) fn new(code: StatusCode, kind: ErrorType, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            message: clipped(message.into()),
            kind,
            context: None,
        }
    }

    /// 400 for what is wrong with a request.
    pub(super) fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorType::InvalidRequestError,
            message,
        )
    }

    /// 503 for what may work a little later.
    pub(super) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorType::UnavailableError,
            message,
        )
    }

    pub(super) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorType::ServerError,
            message,
        )
    }

    /// 401 for who has no key that is valid here.
    pub(super) fn no_valid_key(message: impl Into<String>) -> ApiError {
        let kind = ErrorType::AuthenticationError;
        ApiError::new(StatusCode::UNAUTHORIZED, kind, message)
    }

    pub(super) fn model_not_found(asked: &str, served: &str) -> ApiError {
        let asked: String = asked.chars().take(100).collect();
        let message = format!("model '{asked}' is not served here; the model here is '{served}'");
        ApiError::new(StatusCode::NOT_FOUND, ErrorType::ModelNotFound, message)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.code
    }

    pub(super) fn kind(&self) -> ErrorType {
        self.kind
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn body(&self) -> ErrorBody<'_> {
        ErrorBody { error: self }
    }
}

fn clipped(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

fn as_code<S: serde::Serializer>(code: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    match *code {
        StatusCode::UNAUTHORIZED => serializer.serialize_str("invalid_api_key"),
        code => serializer.serialize_u16(code.as_u16()),
    }
}

impl IntoResponse for ApiError {
    /// The error itself is an extension of the response, for the routes that give it another shape.
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(self.body())).into_response();
        let more = match self.kind {
            ErrorType::UnavailableError | ErrorType::RateLimitError => {
                Some((header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S)))
            }
            ErrorType::AuthenticationError => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            _ => None,
        };
        response.headers_mut().extend(more);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> ApiError {
        let message = error.to_string();
        match error {
            AnswerError::NoChatTemplate { .. }
            | AnswerError::Stop(_)
            | AnswerError::Bias(_)
            | AnswerError::NoSuchToken { .. }
            | AnswerError::Sampling(_) => ApiError::invalid(message),
            AnswerError::Template(error) => from_template(&error, message),
            AnswerError::Tokenizer(TokenizerError::TextTooLong { .. }) => {
                ApiError::invalid(message)
            }
            AnswerError::Tokenizer(_)
            | AnswerError::PreparationFailed
            | AnswerError::EndedEarly => ApiError::internal(message),
            AnswerError::Engine(error) => from_engine(&error, message),
        }
    }
}

/// What a template refuses is the request's fault; a template that cannot be used at all is the model's.
fn from_template(error: &TemplateError, message: String) -> ApiError {
    match error {
        TemplateError::ReservedArgument { name } => ApiError::invalid(format!(
            "`chat_template_kwargs.{name}` is set by the server; leave it out"
        )),
        TemplateError::Metadata(_) | TemplateError::TooLarge { .. } | TemplateError::Syntax(_) => {
            ApiError::internal(message)
        }
        _ => ApiError::invalid(message),
    }
}

fn from_engine(error: &GenerateError, message: String) -> ApiError {
    match error {
        GenerateError::PromptTooLong { n_prompt, context } => {
            let kind = ErrorType::ExceedContextSizeError;
            let mut error = ApiError::new(StatusCode::BAD_REQUEST, kind, message);
            let (n_prompt_tokens, n_ctx) = (*n_prompt as u64, u64::from(*context));
            error.context = Some(ContextSize {
                n_prompt_tokens,
                n_ctx,
            });
            error
        }
        GenerateError::PromptEmpty
        | GenerateError::Sampling(_)
        | GenerateError::WorkerTooOld { .. } => ApiError::invalid(message),
        GenerateError::QueueFull { .. } => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorType::RateLimitError,
            message,
        ),
        GenerateError::NotReady { .. } | GenerateError::WorkerLost { .. } => {
            ApiError::unavailable(message)
        }
        GenerateError::TokenOutOfVocabulary { .. }
        | GenerateError::Fault { .. }
        | GenerateError::OutOfStep { .. }
        | GenerateError::TokenMissing { .. }
        | GenerateError::LogprobsMissing { .. } => ApiError::internal(message),
    }
}

pub(super) async fn no_such_route(uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(
        StatusCode::NOT_FOUND,
        ErrorType::NotFoundError,
        format!("there is nothing at '{path}'"),
    )
}

pub(super) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    let method: String = method.as_str().chars().take(20).collect();
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorType::InvalidRequestError,
        format!("'{path}' does not take {method}"),
    )
}
