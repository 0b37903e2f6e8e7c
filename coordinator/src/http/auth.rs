//! Lets in who has a key. Every route is behind this, and so is whatever is no route.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use potluck_link::state_dir::{StateDir, StateError};

use super::ApiState;
use super::error::ApiError;
use super::opening::is_local;
use crate::keys::{KeyFile, KeyFileError, KeyRefused, KeyWatch, LocalToken};

/// The one path that needs no key: load balancers have none, and it says nothing but whether answers are to be had.
pub(super) const PUBLIC_PATH: &str = "/health";

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The machine at the other end of a connection, an extension of every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub SocketAddr);

/// Who is let in.
#[derive(Clone)]
pub enum Gate {
    /// Everyone who reaches the API, which is this machine.
    Open,
    /// Everyone on this machine until there is a key, then who has one.
    OnceThereAreKeys(Arc<Doorkeeper>),
    /// Who has a key, even while there is none.
    KeysAlways(Arc<Doorkeeper>),
}

/// Knows the keys of a cluster.
pub struct Doorkeeper {
    keys: KeyWatch,
    /// Accepted like a key when it comes from this machine.
    token: LocalToken,
}

impl Gate {
    /// The gate of an API that listens at `address`.
    pub fn at(address: SocketAddr, doorkeeper: Doorkeeper) -> Gate {
        match is_local(address) {
            true => Gate::OnceThereAreKeys(Arc::new(doorkeeper)),
            false => Gate::KeysAlways(Arc::new(doorkeeper)),
        }
    }

    pub(super) fn needs_keys_and_has_some(&self) -> bool {
        match self {
            Gate::Open | Gate::OnceThereAreKeys(_) => false,
            Gate::KeysAlways(doorkeeper) => !doorkeeper.keys.is_empty(),
        }
    }

    /// Gives this user's programs on this machine what lets them in.
    pub(super) fn publish_token(&self) -> Result<(), StateError> {
        match self {
            Gate::Open => Ok(()),
            Gate::OnceThereAreKeys(doorkeeper) | Gate::KeysAlways(doorkeeper) => {
                doorkeeper.token.publish()
            }
        }
    }

    /// Who asks for keys now. None if everyone is let in.
    pub(super) fn doorkeeper(&self) -> Option<&Doorkeeper> {
        match self {
            Gate::Open => None,
            Gate::OnceThereAreKeys(doorkeeper) if doorkeeper.keys.is_empty() => None,
            Gate::OnceThereAreKeys(doorkeeper) | Gate::KeysAlways(doorkeeper) => Some(doorkeeper),
        }
    }
}

impl Doorkeeper {
    /// Reads the keys in a cluster's folder.
    pub fn open(dir: StateDir) -> Result<Doorkeeper, KeyFileError> {
        Ok(Doorkeeper {
            keys: KeyWatch::open(KeyFile::new(dir.clone()))?,
            token: LocalToken::random(dir)?,
        })
    }

    fn check(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<(), ApiError> {
        let text = sent_key(headers).ok_or_else(|| {
            ApiError::no_valid_key(
                "this API needs a key, sent as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; ask whoever runs this cluster \
                 for one (`potluck keys add NAME`)",
            )
        })?;
        let from_here = peer.is_some_and(|Peer(address)| is_local(address));
        if from_here && self.token.is(text) {
            return Ok(());
        }
        let checked = self.keys.check(text);
        checked.map_err(|refused: KeyRefused| ApiError::no_valid_key(refused.to_string()))
    }
}

/// Lets a request through that has a key, if keys are needed.
pub(super) async fn key_holders_only(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path() == PUBLIC_PATH {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    let check = |doorkeeper: &Doorkeeper| doorkeeper.check(request.headers(), peer);
    match state.gate.doorkeeper().map_or(Ok(()), check) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// OpenAI's clients send one header, Anthropic's the other. Where both are sent, Authorization counts.
fn sent_key(headers: &HeaderMap) -> Option<&str> {
    match headers.contains_key(header::AUTHORIZATION) {
        true => bearer(the_one(headers, header::AUTHORIZATION)?),
        false => the_one(headers, X_API_KEY),
    }
}

/// The value of a header. Of two nobody could say which counts.
fn the_one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next()?, values.next()) {
        (value, None) => value.to_str().ok(),
        _ => None,
    }
}

/// What follows `Bearer`, in whatever case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, text) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(text.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_good_from_this_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path().join("home")).unwrap();
        let doorkeeper = Doorkeeper::open(dir.clone()).unwrap();
        doorkeeper.token.publish().unwrap();
        let token = LocalToken::published(&dir).unwrap().unwrap();
        let key = KeyFile::new(dir.clone()).add("ann", None).unwrap().text;
        let doorkeeper = Doorkeeper {
            keys: KeyWatch::open(KeyFile::new(dir)).unwrap(),
            ..doorkeeper
        };
        let passes = |text: &str, peer: Option<&str>| {
            let value = format!("Bearer {text}").parse().unwrap();
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            let peer = peer.map(|address| Peer(address.parse().unwrap()));
            doorkeeper.check(&headers, peer).is_ok()
        };
        for (peer, here) in [
            (Some("127.0.0.1:5000"), true),
            (Some("[::1]:5000"), true),
            (Some("[::ffff:127.0.0.1]:5000"), true),
            (Some("192.168.1.2:5000"), false),
            (Some("[fe80::1]:5000"), false),
            (None, false),
        ] {
            assert_eq!(passes(&token, peer), here, "{peer:?}");
            assert!(passes(&key, peer), "{peer:?}");
        }
    }
}
