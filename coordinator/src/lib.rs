#![forbid(unsafe_code)]
pub mod answer;
pub mod cluster;
pub mod dirs;
pub mod engine;
pub mod fetch;
pub mod http;
pub mod keys;
pub mod planner;
pub mod size;
pub mod store;
pub mod text;
