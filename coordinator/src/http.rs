//! The HTTP API: OpenAI's chat completions and models, health, and what the cluster looks like.
//!
//! Everything in a request is hostile until `chat_request` has checked it; every refusal is an [`error::ApiError`], the one
//! shape of errors. Answers come from [`crate::answer`]; what is known of the cluster comes in as a [`StatusReport`] that
//! another part of the coordinator keeps up to date. Nothing here knows tokens, sequences or workers. The life of a request:
//! `serve`, `guard`, `chat`, `chat_request`, then `chat_stream` or `chat_reply`, and one log line from `request_log`.

mod body;
mod chat;
mod chat_body;
mod chat_reply;
mod chat_request;
mod chat_stream;
mod cluster_view;
mod error;
mod field;
mod guard;
mod models;
mod request_log;
mod serve;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::answer::Answerer;

pub use cluster_view::{ClusterState, ClusterView, NodeReport, StageReport, StatusReport};
pub use serve::{ServeError, check_loopback, serve};

/// Bytes of a request body. A context of 128 Ki tokens is about half a megabyte of text; JSON escapes can multiply that by six.
pub const MAX_BODY_BYTES: usize = 8 << 20;

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    pub answerer: Answerer,
    pub cluster: ClusterView,
}

/// All routes of the API.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/health", get(cluster_view::health))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/potluck/v1/status", get(cluster_view::status))
        .route("/potluck/v1/nodes", get(cluster_view::nodes))
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(guard::local_only))
        .with_state(Arc::new(state))
}
