//! Links between nodes.
#![forbid(unsafe_code)]

pub mod state_dir;
