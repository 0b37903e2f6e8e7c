//! The HTTP API: OpenAI's completions, of chats and of text, and models, Anthropic's messages, some of what llama.cpp's server offers
//! beside them, health, metrics, and what the cluster looks like. `docs/api.md` is for those who use it.
//!
//! Everything in a request is hostile until `chat_request` or `messages_request` has checked it; every refusal is an
//! [`error::ApiError`], which `messages_error` puts into Anthropic's shape on Anthropic's routes. Answers come from
//! [`crate::answer`]; what is known of the cluster comes in as a [`StatusReport`] that another part of the coordinator keeps up to
//! date. Nothing here knows tokens, sequences or workers. The life of a request: `serve`, `guard`, `auth`, `chat`, `chat_request`,
//! then `reply_stream` in the shape of `chat_stream`, or `reply_whole` and `chat_reply`, and one log line and an entry of the metrics
//! from `request_log`; a text completion has its shapes in the `completion_` files, a message of Anthropic's in the `messages_`
//! files. `opening` says under which conditions other machines may reach all this.

mod apply_template;
mod auth;
mod body;
mod chat;
mod chat_body;
mod chat_layout;
mod chat_logprobs;
mod chat_parts;
mod chat_reply;
mod chat_request;
mod chat_sampling;
mod chat_stream;
mod cluster_view;
mod completion_reply;
mod completion_request;
mod completion_stream;
mod completions;
mod error;
mod field;
mod guard;
mod logit_bias;
mod messages;
mod messages_body;
mod messages_error;
mod messages_reply;
mod messages_request;
mod messages_stream;
mod messages_tools;
mod messages_turns;
mod metrics;
mod models;
mod opening;
mod props;
mod reply_stream;
mod reply_whole;
mod request_log;
mod serve;
mod sse;
mod tokens;
mod tools;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};

use crate::answer::Answerer;

pub use auth::{Doorkeeper, Gate};
pub use cluster_view::{ClusterState, ClusterView, NodeReport, StageReport, StatusReport};
pub use guard::{AllowedHosts, BadHost, Host};
pub use metrics::Metrics;
pub use opening::{OpeningRefused, Transport, check_keys, check_opening, is_local};
pub use serve::{ServeError, serve};

/// Bytes of a request body. A context of 128 Ki tokens is about half a megabyte of text; JSON escapes can multiply that by six.
pub const MAX_BODY_BYTES: usize = 8 << 20;

/// What the handlers work with.
#[derive(Clone)]
pub struct ApiState {
    pub answerer: Answerer,
    pub cluster: ClusterView,
    /// Who is let in.
    pub gate: Gate,
    /// Names by which requests may call this machine.
    pub hosts: AllowedHosts,
    pub metrics: Metrics,
}

/// All routes of the API. Whatever is added here is behind the gate.
fn routes() -> [(&'static str, MethodRouter<Arc<ApiState>>); 14] {
    [
        (auth::PUBLIC_PATH, get(cluster_view::health)),
        ("/v1/chat/completions", post(chat::completions)),
        ("/v1/completions", post(completions::completions)),
        ("/v1/messages", post(messages::messages)),
        ("/v1/messages/count_tokens", post(messages::count_tokens)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*id}", get(models::one)),
        ("/props", get(props::props)),
        ("/apply-template", post(apply_template::apply_template)),
        ("/tokenize", post(tokens::tokenize)),
        ("/detokenize", post(tokens::detokenize)),
        ("/metrics", get(metrics::metrics)),
        ("/potluck/v1/status", get(cluster_view::status)),
        ("/potluck/v1/nodes", get(cluster_view::nodes)),
    ]
}

/// The paths of all routes, for the test that knocks at each of them.
pub fn paths() -> impl Iterator<Item = &'static str> {
    routes().into_iter().map(|(path, _)| path)
}

/// The layers are passed from the last to the first.
fn router(state: ApiState) -> Router {
    let state = Arc::new(state);
    let routes = routes().into_iter();
    routes
        .fold(Router::new(), |router, (path, route)| {
            router.route(path, route)
        })
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            auth::key_holders_only,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            guard::no_foreign_pages,
        ))
        .layer(middleware::from_fn(messages_error::in_anthropics_shape))
        .with_state(state)
}
