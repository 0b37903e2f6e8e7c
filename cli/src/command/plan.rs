//! `potluck plan`: who would get which layers.

use std::time::Duration;

use anyhow::Context;
use clap::Args as ClapArgs;
use potluck_coordinator::cluster::candidates;
use potluck_coordinator::planner::{self, PlanRequest};

use crate::flags::{
    CapacityFlags, ClusterFlags, JoinFlags, MachineFlags, ModelFlags, NetworkFlags, switch,
};
use crate::setup::progress::Bars;
use crate::setup::{cluster, local_worker, model, own_cluster, signal};

use super::nodes;

/// Show how a model's layers would be placed on the workers that are found and on this machine: memory needed and offered,
/// and what limits the speed. Nothing is loaded.
#[derive(ClapArgs)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Use exactly this many workers
    #[arg(long, env = "POTLUCK_STAGES", value_name = "N")]
    stages: Option<usize>,
    /// Do not plan with this machine, only with workers
    #[arg(long, env = "POTLUCK_NO_WORKER", value_parser = switch())]
    no_worker: bool,
    /// How long to look for workers, in seconds
    #[arg(
        long,
        env = "POTLUCK_WAIT",
        value_name = "SECONDS",
        default_value_t = 2.0
    )]
    wait: f64,
    /// Print the plan as JSON
    #[arg(long)]
    json: bool,
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

pub async fn run(args: Args) -> anyhow::Result<()> {
    let bars = Bars::new();
    let path = model::locate(&args.model.model, &bars).await?;
    signal::interruptible(plan(args, path, bars)).await
}

async fn plan(args: Args, path: std::path::PathBuf, bars: Bars) -> anyhow::Result<()> {
    let wait = Duration::try_from_secs_f64(args.wait)
        .with_context(|| format!("--wait {} is no time", args.wait))?;
    let model = model::open(path, &bars).await?;
    let (own, _folder) = own_cluster::find_or_passing(&args.cluster.cluster)?;
    let mut join = args.join.join.clone();
    let mut inside = None;
    if !args.no_worker {
        let interfaces = args.network.interfaces()?;
        let listen = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        let worker = local_worker::start_inside(&own, &args.machine, &interfaces, listen).await?;
        join.push(worker.address);
        inside = Some(worker.node);
    }
    let search = nodes::Search {
        own: &own,
        inside,
        network: &args.network,
        join: &join,
        wait,
    };
    let workers = search.find().await?;
    let request = PlanRequest {
        model: model.cost(args.capacity.kv_cache.kv_cache_type),
        context_tokens: model::context_tokens(&args.capacity, &model)?,
        max_sequences: args.capacity.max_sequences,
        max_step_tokens: cluster::MAX_STEP_TOKENS,
        workers: candidates(
            workers
                .iter()
                .map(|worker| (worker.node, worker.address, &worker.info)),
        ),
        n_stages: args.stages,
    };
    let plan = planner::plan(&request)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&plan)?),
        false => print!("{plan}"),
    }
    Ok(())
}
