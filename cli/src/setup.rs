//! What several commands need.

pub mod api;
pub mod api_client;
pub mod api_tls;
pub mod cluster;
pub mod joining;
pub mod local_worker;
pub mod log;
pub mod model;
pub mod own_cluster;
pub mod progress;
pub mod signal;
