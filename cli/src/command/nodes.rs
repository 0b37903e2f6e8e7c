//! `potluck nodes`: the machines of a cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use potluck_coordinator::cluster::{Member, OwnCluster, describe};
use potluck_link::mdns::discover;
use potluck_link::{PeerId, Role, Target};
use potluck_proto::{NodeId, hex_of, wire};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::flags::{ClusterFlags, JoinFlags, NetworkFlags};
use crate::setup::{own_cluster, signal};

/// List the machines that belong to this machine's cluster, and ask each how it is; or remove one.
#[derive(ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Remove a machine: it is cut off at once, and comes back only with a new invite
    Remove(RemoveArgs),
}

#[derive(ClapArgs)]
struct RemoveArgs {
    /// The machine's name, or the first 8 or more digits of its id
    name: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

#[derive(ClapArgs)]
struct ListArgs {
    /// How long to look for machines that moved, in seconds
    #[arg(
        long,
        env = "POTLUCK_WAIT",
        value_name = "SECONDS",
        default_value_t = 2.0
    )]
    wait: f64,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    network: NetworkFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    join: JoinFlags,
}

/// A worker that answered.
pub struct Answered {
    pub node: NodeId,
    pub address: SocketAddr,
    pub info: wire::NodeInfo,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Some(Action::Remove(args)) => remove(&args),
        None => signal::interruptible(list(args.list)).await,
    }
}

fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let own = own_cluster::existing(&args.cluster.cluster)?;
    let member = own.members().remove(&args.name)?;
    match args.json {
        true => println!(
            "{}",
            json!({"id": member.node.to_string(), "name": member.name})
        ),
        false => println!(
            "{} was removed from cluster `{}` and is cut off; it comes back only with a new invite",
            member.name, own.name
        ),
    }
    Ok(())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let wait = Duration::try_from_secs_f64(args.wait)
        .with_context(|| format!("--wait {} is no time", args.wait))?;
    let own = own_cluster::existing(&args.cluster.cluster)?;
    let members = own.members().list()?;
    let search = Search {
        own: &own,
        inside: None,
        network: &args.network,
        join: &args.join.join,
        wait,
    };
    let answered = search.find().await?;
    if args.json {
        let rows = members
            .iter()
            .map(|member| as_json(member, find(&answered, member)));
        println!("{:#}", Value::Array(rows.collect()));
        return Ok(());
    }
    if members.is_empty() {
        eprintln!(
            "no machine has joined cluster `{}` yet; `potluck invite` makes an invite for one",
            own.name
        );
    }
    for member in &members {
        println!("{}", line(member, find(&answered, member)));
    }
    for note in arithmetic_notes(&answered) {
        println!("{note}");
    }
    Ok(())
}

fn find<'a>(answered: &'a [Answered], member: &Member) -> Option<&'a Answered> {
    answered.iter().find(|worker| worker.node == member.node)
}

/// A search for workers, which stops early when everyone has answered.
pub struct Search<'a> {
    pub own: &'a OwnCluster,
    /// A worker in this process.
    pub inside: Option<NodeId>,
    pub network: &'a NetworkFlags,
    /// `host:port` of workers named by the user.
    pub join: &'a [String],
    pub wait: Duration,
}

impl Search<'_> {
    /// Everyone who answers within the time.
    pub async fn find(&self) -> anyhow::Result<Vec<Answered>> {
        let members = self.own.admit_members(self.inside)?;
        let mut asking = JoinSet::new();
        let named = self
            .join
            .iter()
            .map(|address| Target::any(Role::Worker, address));
        let remembered = members.iter().filter(|member| !member.addresses.is_empty());
        let remembered =
            remembered.map(|member| Target::node(self.worker(member.node), &member.addresses));
        for target in named.chain(remembered) {
            self.ask(&mut asking, target);
        }
        let mut discovery = match self.network.no_mdns {
            true => None,
            false => {
                let own = self.own.id().prefix();
                let is_ours = move |advert: &potluck_proto::advert::Advert| {
                    !advert.is_coordinator && advert.cluster == own
                };
                Some(discover(&self.network.interfaces()?, is_ours)?)
            }
        };
        let everyone = members.len() + usize::from(self.inside.is_some());
        let (mut workers, mut failures) = (BTreeMap::new(), Vec::new());
        let time_is_up = tokio::time::sleep(self.wait);
        tokio::pin!(time_is_up);
        while workers.len() < everyone || !asking.is_empty() {
            let found = async {
                match &mut discovery {
                    Some(discovery) => discovery.next().await,
                    None => None,
                }
            };
            tokio::select! {
                Some(answer) = asking.join_next() => match answer {
                    Ok(Ok(answered)) => {
                        let worker: Answered = answered;
                        workers.insert((worker.info.name.clone(), worker.node), worker);
                    }
                    Ok(Err(why)) => failures.push(why),
                    Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
                },
                Some(found) = found => {
                    let node = self.worker(found.advert.node);
                    self.ask(&mut asking, Target::node(node, &found.addresses));
                }
                // Who was asked may still answer: a link gives up by itself.
                () = &mut time_is_up, if asking.is_empty() => break,
                else => break,
            }
        }
        for why in failures {
            eprintln!("warning: {why}");
        }
        Ok(workers.into_values().collect())
    }

    fn ask(&self, asking: &mut JoinSet<Result<Answered, String>>, target: Target) {
        let link = self.own.link.clone();
        asking.spawn(async move {
            let (node, address, info) = describe(&link, &target)
                .await
                .map_err(|err| err.to_string())?;
            Ok(Answered {
                node,
                address,
                info,
            })
        });
    }

    fn worker(&self, node: NodeId) -> PeerId {
        PeerId {
            cluster: self.own.id(),
            role: Role::Worker,
            node,
        }
    }
}

fn line(member: &Member, answered: Option<&Answered>) -> String {
    let (name, id) = (&member.name, member.node);
    let Some(worker) = answered else {
        let last = match member.addresses.first() {
            Some(address) => format!("last at {address}"),
            None => "never seen; run `potluck worker` there".to_owned(),
        };
        return format!("{name}  {id}  offline, {last}");
    };
    let info = &worker.info;
    let speed = info.speed.unwrap_or_default();
    format!(
        "{name}  {id}  {}  {} {}  {} threads  {:.1} GiB  {:.1} GB/s  {:.0} GMAC/s  version {}{}",
        worker.address,
        info.platform,
        info.isa,
        info.n_threads,
        info.memory_budget_bytes as f64 / f64::from(1 << 30),
        speed.weight_bytes_per_second / 1e9,
        speed.macs_per_second / 1e9,
        info.version,
        if info.serving.is_some() {
            "  serving"
        } else {
            ""
        },
    )
}

/// Builds whose kernels could give different numbers.
fn arithmetic_notes(answered: &[Answered]) -> Vec<String> {
    let newest = answered.iter().map(|worker| worker.info.arithmetic).max();
    let older = answered
        .iter()
        .filter(|worker| Some(worker.info.arithmetic) != newest);
    let note = |worker: &Answered| {
        format!(
            "note: {} (version {}) computes with an older arithmetic than others, so the same question may get another answer when \
             layers move; update it",
            worker.info.name, worker.info.version
        )
    };
    older.map(note).collect()
}

fn as_json(member: &Member, answered: Option<&Answered>) -> Value {
    let mut row = json!({
        "id": hex_of(&member.node.0),
        "name": member.name,
        "online": answered.is_some(),
        "joined_at": member.joined_at,
        "last_addresses": member.addresses,
    });
    if let (Some(worker), Some(row)) = (answered, row.as_object_mut()) {
        let info = &worker.info;
        let speed = info.speed.unwrap_or_default();
        let facts = json!({
            "address": worker.address.to_string(),
            "platform": info.platform,
            "isa": info.isa,
            "arithmetic": info.arithmetic,
            "threads": info.n_threads,
            "memory_budget_bytes": info.memory_budget_bytes,
            "memory_total_bytes": info.memory_total_bytes,
            "weight_bytes_per_second": speed.weight_bytes_per_second,
            "macs_per_second": speed.macs_per_second,
            "version": info.version,
            "protocol": info.protocol,
            "serving": info.serving.is_some(),
        });
        row.extend(facts.as_object().cloned().unwrap_or_default());
    }
    row
}
