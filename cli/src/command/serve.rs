//! `potluck serve`: a coordinator and, unless told otherwise, a worker beside it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Args as ClapArgs;
use potluck_coordinator::answer::Answerer;
use potluck_coordinator::cluster::{
    Cluster, ClusterEvent, CoordinatorLock, OwnCluster, WorkerCount,
};
use potluck_coordinator::http::{self, ApiState, ClusterView, Metrics};
use tokio::net::TcpListener;

use crate::flags::{
    ApiFlags, CapacityFlags, ClusterFlags, JoinFlags, MachineFlags, ModelFlags, NetworkFlags,
    switch,
};
use crate::setup::api::Api;
use crate::setup::progress::Bars;
use crate::setup::{cluster, local_worker, model, own_cluster, signal};

use super::invite;

/// Serve a model: find workers, split the model over them and this machine, and answer over the OpenAI API.
///
/// The first time this makes a cluster. It prints an invite: paste that line on another machine to let it join.
///
/// Point a program at http://127.0.0.1:7460/v1 with any API key. Once there are keys (`potluck keys`), it needs one of them.
#[derive(ClapArgs)]
#[command(verbatim_doc_comment)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    api: ApiFlags,
    /// Wait for this many workers before the model is placed
    #[arg(long, env = "POTLUCK_WORKERS", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Do not compute on this machine, only on workers
    #[arg(long, env = "POTLUCK_NO_WORKER", value_parser = switch())]
    no_worker: bool,
    /// Where other machines of the cluster reach the coordinator, encrypted [default: port 7462 on all addresses]
    #[arg(long, env = "POTLUCK_NODE_LISTEN", value_name = "HOST:PORT")]
    node_listen: Option<SocketAddr>,
    /// Where other workers reach the worker in this process, encrypted [default: port 7461 on all addresses]
    #[arg(long, env = "POTLUCK_WORKER_LISTEN", value_name = "HOST:PORT")]
    worker_listen: Option<SocketAddr>,
    /// Do not make an invite; `potluck invite` makes one at any time
    #[arg(long, env = "POTLUCK_NO_INVITE", value_parser = switch())]
    no_invite: bool,
    /// Seconds that certificates of nodes are good for, to see them renewed
    #[arg(long, env = "POTLUCK_CERTIFICATE_LIFETIME", hide = true)]
    certificate_lifetime: Option<u64>,
    /// Print one JSON object a line for each thing that happens
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

/// The port of a coordinator unless told otherwise.
pub const NODE_PORT: u16 = 7462;

pub async fn run(args: Args) -> anyhow::Result<()> {
    let own = own_cluster::open_or_create(&args.cluster.cluster, args.certificate_lifetime)?;
    let api = Api::open(&args.api, &own)?;
    let bars = Bars::new();
    let path = model::locate(&args.model.model, &bars).await?;
    let (json, invites) = (args.json, !args.no_invite);
    let started = match signal::interruptible(start(args, own.clone(), path, bars)).await {
        // Ctrl-C is how a server is meant to end.
        Err(err) if err.is::<signal::Interrupted>() => return Ok(()),
        started => started?,
    };
    let listener = listen(&api).await?;
    let reach = started.cluster.addresses.iter();
    own.keep_place(reach.map(ToString::to_string).collect())?;
    let teller = tokio::spawn(tell(started.cluster.events(), json));
    if invites && let Err(error) = tell_invite(&own, json) {
        // The cluster works without.
        eprintln!("warning: no invite was made: {error:#}");
    }
    let result = http(started.answerer, &started.cluster, (listener, api)).await;
    teller.abort();
    result
}

/// What must live as long as the server.
struct Started {
    answerer: Answerer,
    cluster: Cluster,
    _lock: CoordinatorLock,
}

async fn start(
    args: Args,
    own: OwnCluster,
    path: std::path::PathBuf,
    bars: Bars,
) -> anyhow::Result<Started> {
    let (epoch, lock) = own.next_start()?;
    let model = model::open(path, &bars).await?;
    let context_tokens = model::context_tokens(&args.capacity, &model)?;
    let served = model::served(&model, context_tokens)?;
    let interfaces = args.network.interfaces()?;
    let listen = |given: Option<SocketAddr>, port| given.unwrap_or(interfaces.listen_on(port));
    let inside = match args.no_worker {
        true => None,
        false => {
            let at = listen(args.worker_listen, local_worker::WORKER_PORT);
            Some(local_worker::start_inside(&own, &args.machine, &interfaces, at).await?)
        }
    };
    let wanted = cluster::Wanted {
        cluster: own,
        epoch,
        listen: listen(args.node_listen, NODE_PORT),
        inside,
        workers: WorkerCount::AtLeast(usize::from(args.workers)),
        join: args.join.join.clone(),
        context_tokens,
        max_sequences: args.capacity.max_sequences,
        kv_cache: args.capacity.kv_cache.kv_cache_type,
    };
    let cluster = cluster::start(wanted, &args.network, &model).await?;
    Ok(Started {
        answerer: Answerer::new(served, cluster.engine.clone()),
        cluster,
        _lock: lock,
    })
}

/// The API's port.
pub async fn listen(api: &Api) -> anyhow::Result<TcpListener> {
    let address = api.address;
    TcpListener::bind(address).await.with_context(|| {
        format!("the API cannot listen on {address}; is another server using the port? (--http)")
    })
}

/// Serves the API until the process is asked to end. Answers under way may come to their end, unless it is asked again.
pub async fn http(
    answerer: Answerer,
    cluster: &Cluster,
    (listener, api): (TcpListener, Api),
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    eprintln!(
        "serving {} at {}://{address}/v1 (Ctrl-C ends)",
        answerer.model().name,
        api.scheme()
    );
    let state = ApiState {
        answerer,
        cluster: ClusterView {
            status: cluster.status.clone(),
        },
        gate: api.gate,
        hosts: api.hosts,
        metrics: Metrics::default(),
    };
    let impatient = async {
        signal::asked_to_end().await;
        eprintln!("ending after the answers under way (Ctrl-C again ends at once)");
        signal::asked_to_end().await;
    };
    tokio::select! {
        result = http::serve(listener, state, api.transport, signal::asked_to_end()) => result?,
        () = impatient => {}
    }
    Ok(())
}

/// Makes an invite and shows it.
fn tell_invite(own: &OwnCluster, json: bool) -> anyhow::Result<()> {
    let mut addresses = own.place()?;
    addresses.truncate(invite::MAX_ADDRESSES);
    let invite = own.invites().make(None, invite::TTL, addresses)?;
    match json {
        true => println!(
            "{}",
            serde_json::json!({"event": "invite", "invite": invite.to_string(), "ttl_s": invite::TTL.as_secs()})
        ),
        false => eprintln!(
            "to add a machine, run this there within {} min (`potluck invite` makes more):\n\n  potluck join {invite}\n",
            invite::TTL.as_secs() / 60
        ),
    }
    Ok(())
}

/// Says what happens in the cluster, a line each.
async fn tell(mut events: tokio::sync::broadcast::Receiver<ClusterEvent>, json: bool) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(event) if json => {
                if let Some(event) = event_json(&event) {
                    println!("{event}");
                }
            }
            Ok(event) => {
                if let Some(line) = event_line(&event) {
                    eprintln!("{line}");
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn event_line(event: &ClusterEvent) -> Option<String> {
    Some(match event {
        ClusterEvent::WorkerFound { name, address } => format!("found worker {name} at {address}"),
        ClusterEvent::WorkerLost { name, why } => format!("lost worker {name}: {why}"),
        ClusterEvent::Planned(plan) => plan.to_string(),
        ClusterEvent::Fetching { .. } | ClusterEvent::Loading { .. } => return None,
        ClusterEvent::Loaded {
            name,
            fetched_bytes,
            cached_bytes,
            load_ms,
            from,
        } => format!(
            "worker {name} holds its layers: {fetched_bytes} bytes fetched{}, {cached_bytes} found on its disk, {load_ms} ms",
            sent(from)
        ),
        ClusterEvent::WeightsDamaged {
            worker,
            source,
            tensor,
        } => format!(
            "damaged weights: {source} sent worker {worker} wrong bytes of tensor {tensor}; they are fetched from others"
        ),
        ClusterEvent::Ready { ring_us } => {
            format!("ready: an empty step takes {ring_us} us round the ring")
        }
        ClusterEvent::Down { why } => format!("not ready: {why}"),
    })
}

/// Who sent the bytes that were fetched.
fn sent(from: &BTreeMap<String, u64>) -> String {
    let parts = from
        .iter()
        .map(|(name, n_bytes)| format!("{n_bytes} from {name}"));
    let parts: Vec<_> = parts.collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(" ({})", parts.join(", ")),
    }
}

fn event_json(event: &ClusterEvent) -> Option<serde_json::Value> {
    use serde_json::json;
    Some(match event {
        ClusterEvent::WorkerFound { name, address } => {
            json!({"event": "worker_found", "name": name, "address": address})
        }
        ClusterEvent::WorkerLost { name, why } => {
            json!({"event": "worker_lost", "name": name, "why": why})
        }
        ClusterEvent::Planned(plan) => json!({"event": "planned", "plan": plan}),
        ClusterEvent::Fetching { .. } | ClusterEvent::Loading { .. } => return None,
        ClusterEvent::Loaded {
            name,
            fetched_bytes,
            cached_bytes,
            load_ms,
            from,
        } => json!({
            "event": "loaded", "name": name, "fetched_bytes": fetched_bytes, "cached_bytes": cached_bytes,
            "load_ms": load_ms, "from": from,
        }),
        ClusterEvent::WeightsDamaged {
            worker,
            source,
            tensor,
        } => json!({
            "event": "weights_damaged", "worker": worker, "source": source, "tensor": tensor,
        }),
        ClusterEvent::Ready { ring_us } => json!({"event": "ready", "ring_us": ring_us}),
        ClusterEvent::Down { why } => json!({"event": "down", "why": why}),
    })
}
