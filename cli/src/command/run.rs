//! `potluck run`: ask a model in the terminal.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use potluck_coordinator::answer::{AnswerEvent, AnswerRequest, Answerer, Finish, Input, Timings};
use potluck_coordinator::cluster::WorkerCount;
use potluck_coordinator::text::Message;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::flags::{
    CapacityFlags, ClusterFlags, JoinFlags, MachineFlags, ModelFlags, NetworkFlags, SamplingFlags,
    switch,
};
use crate::setup::progress::Bars;
use crate::setup::{cluster, local_worker, model, own_cluster, signal};

/// Ask a model: one question given as an argument or on standard input, or a conversation at the prompt. The model runs on
/// this machine and on every worker that is found.
#[derive(ClapArgs)]
pub struct Args {
    /// The question; without one, standard input is read, or a conversation begins
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelFlags,
    /// Take the prompt as plain text to continue instead of a chat message
    #[arg(long, env = "POTLUCK_RAW", value_parser = switch())]
    raw: bool,
    /// Longest answer [default: what the context holds]
    #[arg(long, env = "POTLUCK_MAX_TOKENS", value_name = "N")]
    max_tokens: Option<u32>,
    /// Do not compute on this machine, only on workers
    #[arg(long, env = "POTLUCK_NO_WORKER", value_parser = switch())]
    no_worker: bool,
    /// Print one JSON object instead of the answer as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingFlags,
    #[command(flatten)]
    capacity: CapacityFlags,
    #[command(flatten)]
    machine: MachineFlags,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    join: JoinFlags,
}

/// Any port of this machine alone.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// One question of a command.
pub struct Asked {
    pub prompt: String,
    pub raw: bool,
    pub max_tokens: Option<u32>,
    pub sampling: SamplingFlags,
    /// Write the answer to standard output as it comes.
    pub print: bool,
}

/// A complete answer.
pub struct Finished {
    pub text: String,
    pub tokens: Vec<u32>,
    pub reason: &'static str,
    pub timings: Timings,
}

impl Finished {
    /// Counts and speeds, in a line.
    pub fn summary(&self) -> String {
        let timings = &self.timings;
        format!(
            "{} prompt tokens at {:.1}/s, {} answer tokens at {:.1}/s",
            timings.prompt_tokens,
            timings.prompt_per_second(),
            timings.predicted_tokens,
            timings.predicted_per_second()
        )
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let bars = Bars::new();
    let path = model::locate(&args.model.model, &bars).await?;
    signal::interruptible(run_model(args, path, bars)).await
}

async fn run_model(args: Args, path: std::path::PathBuf, bars: Bars) -> anyhow::Result<()> {
    // What is wrong with the question should not show only after minutes of loading.
    let prompt = prompt(&args).await?;
    let model = model::open(path, &bars).await?;
    let context_tokens = model::context_tokens(&args.capacity, &model)?;
    let served = model::served(&model, context_tokens)?;
    let borrowed = own_cluster::lasting_or_passing(&args.cluster.cluster)?;
    // A cluster that ends with the command has no other workers, and nobody else needs to reach this one.
    let mut network = args.network.clone();
    network.no_mdns |= !borrowed.is_lasting;
    let interfaces = network.interfaces()?;
    let (listen, worker_listen) = match borrowed.is_lasting {
        true => (interfaces.listen_on(0), interfaces.listen_on(0)),
        false => (LOOPBACK, LOOPBACK),
    };
    let inside = match args.no_worker {
        true => None,
        false => {
            let own = &borrowed.cluster;
            Some(local_worker::start_inside(own, &args.machine, &interfaces, worker_listen).await?)
        }
    };
    let wanted = cluster::Wanted {
        cluster: borrowed.cluster.clone(),
        epoch: borrowed.epoch,
        listen,
        workers: WorkerCount::AtLeast(1),
        inside,
        join: args.join.join.clone(),
        context_tokens,
        max_sequences: 1,
        kv_cache: args.capacity.kv_cache.kv_cache_type,
    };
    let cluster = cluster::start(wanted, &network, &model).await?;
    cluster::until_ready(&cluster, &bars).await?;
    let answerer = Answerer::new(served, cluster.engine.clone());
    match prompt {
        Some(prompt) => once(&args, &answerer, prompt).await,
        None => conversation(&args, &answerer).await,
    }
}

/// The question of the command line or of a pipe. None at a terminal.
async fn prompt(args: &Args) -> anyhow::Result<Option<String>> {
    if args.prompt.is_some() || std::io::stdin().is_terminal() {
        return Ok(args.prompt.clone());
    }
    let mut text = String::new();
    tokio::io::stdin()
        .read_to_string(&mut text)
        .await
        .context("standard input is not text")?;
    match text.trim().is_empty() {
        true => bail!("there is no question: give one as an argument or on standard input"),
        false => Ok(Some(text)),
    }
}

async fn once(args: &Args, answerer: &Answerer, prompt: String) -> anyhow::Result<()> {
    let question = Asked {
        prompt,
        raw: args.raw,
        max_tokens: args.max_tokens,
        sampling: args.sampling.clone(),
        print: !args.json,
    };
    let finished = ask(answerer, question).await?;
    if args.json {
        let report = serde_json::json!({
            "text": finished.text,
            "tokens": finished.tokens,
            "finish_reason": finished.reason,
            "model": answerer.model().name,
            "prompt_tokens": finished.timings.prompt_tokens,
            "completion_tokens": finished.timings.predicted_tokens,
            "prompt_tokens_per_second": finished.timings.prompt_per_second(),
            "tokens_per_second": finished.timings.predicted_per_second(),
        });
        println!("{report:#}");
    }
    Ok(())
}

/// Question and answer by turns, until the input ends.
async fn conversation(args: &Args, answerer: &Answerer) -> anyhow::Result<()> {
    eprintln!(
        "{} answers; an empty line or Ctrl-D ends",
        answerer.model().name
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut messages = Vec::new();
    loop {
        eprint!("> ");
        let Some(line) = lines
            .next_line()
            .await?
            .filter(|line| !line.trim().is_empty())
        else {
            return Ok(());
        };
        messages.push(Message::new("user", &line));
        let input = match args.raw || answerer.model().template.is_none() {
            true => Input::Raw(line),
            false => Input::Chat(messages.clone().into()),
        };
        match stream(answerer, input, args.max_tokens, &args.sampling, true).await {
            Ok(finished) => messages.push(Message::new("assistant", &finished.text)),
            Err(err) => {
                // The conversation goes on as if the question had not been asked.
                eprintln!("error: {err:#}");
                messages.pop();
            }
        }
    }
}

/// Asks one question and collects the answer. A model without a chat template gets the prompt as plain text.
pub async fn ask(answerer: &Answerer, asked: Asked) -> anyhow::Result<Finished> {
    let input = match asked.raw || answerer.model().template.is_none() {
        true => Input::Raw(asked.prompt),
        false => Input::Chat(vec![Message::new("user", &asked.prompt)].into()),
    };
    stream(
        answerer,
        input,
        asked.max_tokens,
        &asked.sampling,
        asked.print,
    )
    .await
}

async fn stream(
    answerer: &Answerer,
    input: Input,
    max_tokens: Option<u32>,
    sampling: &SamplingFlags,
    print: bool,
) -> anyhow::Result<Finished> {
    let request = AnswerRequest {
        input,
        max_tokens,
        sampling: sampling.sampling(),
        biases: Vec::new(),
        ignore_end: false,
        seed: sampling.seed,
        stop: Vec::new(),
    };
    let mut answer = answerer.answer(request).await?;
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Some(event) = answer.next().await {
        match event {
            AnswerEvent::Progress { .. } => {}
            AnswerEvent::Delta(delta) => {
                if print {
                    write_out(&delta.text)?;
                }
                text.push_str(&delta.text);
                tokens.extend(delta.tokens);
            }
            AnswerEvent::Failed(err) => return Err(err.into()),
            AnswerEvent::Done(done) => {
                if print {
                    write_out("\n")?;
                }
                let reason = match done.finish {
                    Finish::Stop | Finish::StopString(_) => "stop",
                    Finish::Length => "length",
                };
                return Ok(Finished {
                    text,
                    tokens,
                    reason,
                    timings: done.timings,
                });
            }
        }
    }
    bail!("the answer broke off without a reason")
}

/// To standard output at once. A reader that has gone away ends the command.
fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("standard output is closed")
}
