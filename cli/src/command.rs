//! The commands.

pub mod bench;
pub mod demo;
pub mod doctor;
pub mod eval;
pub mod invite;
pub mod join;
pub mod keys;
pub mod nodes;
pub mod plan;
pub mod run;
pub mod serve;
pub mod status;
pub mod worker;
