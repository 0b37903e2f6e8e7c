//! API keys: who may use the HTTP API of a cluster.
//!
//! A key is shown once, when it is made; what is kept of it is a hash, so the file gives nobody a key. `secret` is the text
//! of a key and its hash, `file` the keys of a cluster on disk, `watch` what a running server knows of them, and
//! `local_token` how the user of the coordinator's own machine gets in without one. Nothing here knows HTTP.

mod file;
mod local_token;
mod secret;
mod watch;

use std::time::{SystemTime, UNIX_EPOCH};

pub use file::{KeyFile, KeyFileError, KeyRecord, NewKey};
pub use local_token::LocalToken;
pub use secret::NoRandomness;
pub use watch::KeyRefused;
pub(crate) use watch::KeyWatch;

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// A moment in Unix seconds as people read it, in UTC.
pub fn date(unix_seconds: u64) -> String {
    let moment = i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| unix_seconds.to_string(), |moment| moment.to_string())
}
