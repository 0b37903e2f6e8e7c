//! The `potluck` command: flags and environment become the libraries' settings, and the libraries do the work.
//!
//! One file a command in `command/`; what several commands need to set up (the model, the log, workers, progress bars) in
//! `setup/`.
#![forbid(unsafe_code)]

mod command;
mod doctor;
mod flags;
mod setup;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Pool the computers you already own to run a language model that none of them could run alone.
///
/// A coordinator splits a GGUF model's layers over workers that it finds by itself; each worker computes its layers, and
/// the answer streams into your terminal or into any program that speaks the OpenAI API.
///
/// Try it on one machine:   potluck demo
/// Serve a model:           potluck serve --model MODEL.gguf
/// Lend a machine:          potluck join INVITE   and then   potluck worker
#[derive(Parser)]
#[command(version, verbatim_doc_comment, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, on standard error: error, warn, info, debug, or a filter such as potluck_worker=debug
    #[arg(
        long,
        global = true,
        env = "POTLUCK_LOG",
        default_value = "error",
        value_name = "FILTER"
    )]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// See it work: a real model, split over worker processes on this machine, answers a question
    Demo(command::demo::Args),
    /// Serve a model to programs that speak the OpenAI API
    Serve(command::serve::Args),
    /// Let one more machine join this machine's cluster
    Invite(command::invite::Args),
    /// Make this machine part of a cluster, with an invite
    Join(command::join::Args),
    /// Lend this machine: wait for a coordinator and compute the layers it gives
    Worker(command::worker::Args),
    /// Ask a model in the terminal: one question, or a conversation
    Run(command::run::Args),
    /// Show which worker would get which layers of a model, and what that costs, without loading anything
    Plan(command::plan::Args),
    /// List the machines of the cluster, or remove one
    Nodes(command::nodes::Args),
    /// Show what a running coordinator is doing
    Status(command::status::Args),
    /// Make, list and remove keys of the API
    Keys(command::keys::Args),
    /// Say what keeps machines from finding each other, and how to mend it
    Doctor(command::doctor::Args),
    /// Compare a model's logits with reference logits
    Eval(command::eval::Args),
    /// Measure a model's speed on this machine
    Bench(command::bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    setup::log::init(&cli.log);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("error: the async runtime cannot start: {err}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => command::demo::run(args).await,
            Command::Serve(args) => command::serve::run(args).await,
            Command::Worker(args) => command::worker::run(args).await,
            Command::Run(args) => command::run::run(args).await,
            Command::Plan(args) => command::plan::run(args).await,
            Command::Nodes(args) => command::nodes::run(args).await,
            Command::Status(args) => command::status::run(args).await,
            Command::Invite(args) => command::invite::run(args),
            Command::Join(args) => command::join::run(args).await,
            Command::Keys(args) => command::keys::run(args),
            Command::Doctor(args) => command::doctor::run(args).await,
            Command::Eval(args) => command::eval::run(args).await,
            Command::Bench(args) => command::bench::run(args).await,
        }
    });
    // Threads that still read from a slow disk or hash a file must not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) if err.is::<setup::signal::Interrupted>() => ExitCode::from(130),
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}
