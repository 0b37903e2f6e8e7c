//! `potluck eval`: how far a model's logits are from reference logits.

mod compare;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use potluck_coordinator::text::{AddBos, ControlTokens, Special, Tokenizer};
use potluck_gguf::{Gguf, Mapped, ModelShape};
use potluck_kernels::{Isa, Kernels, Pool};
use potluck_proto::{Run, Sampling, SeqId, Step};
use potluck_worker::{FileSource, Stage, StageConfig, StageLimits, WeightStorage};
use serde::{Deserialize, Serialize};

use crate::flags::{KvCacheFlags, ModelFlags, switch};
use crate::setup::local_worker::default_threads;
use crate::setup::progress::Bars;
use crate::setup::{model, signal};
use compare::{Comparison, compare};

/// Compute the logits of every position of a text in one process, and print the likeliest tokens of each; with --against,
/// compare them with those of a file of the same form.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// The text, taken as plain text
    #[arg(long, env = "POTLUCK_TEXT", value_name = "FILE")]
    text: PathBuf,
    /// Tokens listed for each position
    #[arg(long, env = "POTLUCK_TOP", value_name = "N", default_value_t = 20)]
    top: usize,
    /// Tokens chosen greedily after the text
    #[arg(long, env = "POTLUCK_GREEDY", value_name = "N", default_value_t = 32)]
    greedy: usize,
    /// Weights widened to f32, f32 activations and KV cache: the path that the quantised one is measured against
    #[arg(long, env = "POTLUCK_REFERENCE", value_parser = switch())]
    reference: bool,
    #[command(flatten)]
    kv_cache: KvCacheFlags,
    /// A file to compare with, of the form that this command prints
    #[arg(long, env = "POTLUCK_AGAINST", value_name = "FILE")]
    against: Option<PathBuf>,
    /// Threads that compute [default: one for each physical core]
    #[arg(long, env = "POTLUCK_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Logits of a text, as files hold them.
#[derive(Serialize, Deserialize)]
pub struct Logits {
    pub prompt_tokens: Vec<u32>,
    pub positions: Vec<Position>,
    #[serde(default)]
    pub greedy: Vec<u32>,
    #[serde(default)]
    pub greedy_text: String,
}

/// Logits after one token.
#[derive(Serialize, Deserialize)]
pub struct Position {
    /// Logarithm of the sum of the exponentials of all logits.
    pub lse: f64,
    /// The highest logits, with their token ids.
    pub top: Vec<(u32, f64)>,
}

/// Everything that was printed, and how it compares.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    logits: Logits,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let path = model::locate(&args.model.model, &Bars::new()).await?;
    let json = args.json;
    let work = tokio::task::spawn_blocking(move || evaluate(&args, path));
    let report =
        signal::interruptible(async { work.await.context("the evaluation ended unexpectedly")? })
            .await?;
    match (json, &report.comparison) {
        (true, _) => println!("{}", serde_json::to_string(&report)?),
        (false, Some(comparison)) => println!("{comparison}"),
        (false, None) => println!(
            "{} positions; greedy continuation: {}",
            report.logits.positions.len(),
            report.logits.greedy_text
        ),
    }
    Ok(())
}

fn evaluate(args: &Args, path: PathBuf) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(&args.text)
        .with_context(|| format!("cannot read {}", args.text.display()))?;
    let against: Option<Logits> = match &args.against {
        None => None,
        Some(file) => {
            let bytes =
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Some(
                serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} does not hold logits", file.display()))?,
            )
        }
    };
    let map = Mapped::open(&path).with_context(|| model::unusable(&path))?;
    let gguf = Gguf::parse(map.bytes()).with_context(|| model::unusable(&path))?;
    let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
    let tokens = tokenizer.encode(&text, Special::Text, AddBos::ModelRule)?;
    if tokens.is_empty() {
        bail!("{} has no tokens", args.text.display());
    }
    let mut stage = whole_model(args, &gguf, tokens.len() + args.greedy)?;
    let mut positions = Vec::with_capacity(tokens.len());
    let mut comparison = against
        .as_ref()
        .map(|against| compare(against, &tokens))
        .transpose()?;
    stage
        .each_logits(&tokens, |logits| {
            if let Some(comparison) = &mut comparison {
                comparison.add(logits);
            }
            positions.push(position(logits, args.top));
        })
        .map_err(|faults| anyhow::anyhow!("the text could not be computed: {}", faults[0]))?;
    let greedy = continue_greedily(&mut stage, &tokens, args.greedy)?;
    let greedy_text = tokenizer.decode(&greedy, ControlTokens::Show);
    Ok(Report {
        logits: Logits {
            prompt_tokens: tokens,
            positions,
            greedy,
            greedy_text,
        },
        comparison: comparison.map(compare::Comparing::finish),
    })
}

fn whole_model(args: &Args, gguf: &Gguf<'_>, n_tokens: usize) -> anyhow::Result<Stage> {
    let shape = ModelShape::from_metadata(gguf.metadata())?;
    if n_tokens > shape.context_length as usize {
        bail!(
            "the text takes {n_tokens} tokens, the model was trained for {}",
            shape.context_length
        );
    }
    let config = StageConfig {
        span: 0..shape.n_layers,
        shape,
        limits: StageLimits {
            context_tokens: n_tokens,
            max_sequences: 2,
            max_step_tokens: 256,
            memory_budget_bytes: None,
        },
        kv_cache: args.kv_cache.kv_cache_type,
        weights: match args.reference {
            true => WeightStorage::Reference,
            false => WeightStorage::Packed,
        },
    };
    let pool = Pool::new(args.threads.unwrap_or_else(default_threads));
    let kernels = Kernels::new(Isa::from_env()?)?;
    Ok(Stage::load(
        config,
        &FileSource::new(gguf),
        kernels,
        pool,
        Arc::default(),
        &mut |_, _| {},
    )?)
}

fn position(logits: &[f32], top: usize) -> Position {
    let mut best: Vec<(u32, f64)> = (0..)
        .zip(logits)
        .map(|(id, logit)| (id, f64::from(*logit)))
        .collect();
    let by_logit = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top < best.len() {
        best.select_nth_unstable_by(top, by_logit);
        best.truncate(top);
    }
    best.sort_unstable_by(by_logit);
    Position {
        lse: log_sum_exp(logits),
        top: best,
    }
}

/// ln(sum of exp(logits)).
fn log_sum_exp(logits: &[f32]) -> f64 {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    highest
        + logits
            .iter()
            .map(|logit| (f64::from(*logit) - highest).exp())
            .sum::<f64>()
            .ln()
}

/// The likeliest token, over and over.
fn continue_greedily(stage: &mut Stage, tokens: &[u32], n: usize) -> anyhow::Result<Vec<u32>> {
    let seq = SeqId(0);
    let max_step = stage.config().limits.max_step_tokens;
    let (mut next, mut pos, mut greedy) = (tokens.to_vec(), 0, Vec::with_capacity(n));
    while greedy.len() < n {
        let (chunk, rest) = next.split_at(next.len().min(max_step));
        let sampling = rest.is_empty().then(Sampling::greedy);
        let run = Run {
            seq,
            pos,
            tokens: chunk.to_vec(),
            rollback: false,
            sampling,
        };
        let output = stage.step(&Step::of_run(run), &[]);
        if let Some(fault) = output.faults.first() {
            bail!("the continuation could not be computed: {fault}");
        }
        pos += chunk.len() as u32;
        let token = output.results.first().and_then(|result| result.token);
        greedy.extend(token);
        next = match token {
            Some(token) => vec![token],
            None => rest.to_vec(),
        };
    }
    stage.release(seq);
    Ok(greedy)
}
