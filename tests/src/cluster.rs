//! A coordinator and workers, each a process with a disk of its own, under a cluster name that no other test uses.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use potluck_coordinator::cluster::OwnCluster;
use potluck_link::authority::NODE_LIFETIME;
use potluck_link::join::Joined;
use potluck_link::member_file::MemberFile;
use potluck_link::state_dir::StateDir;
use potluck_link::{PeerId, Role};
use potluck_proto::NodeId;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Http;
use crate::process::{Invocation, PATIENCE, Running, invoke};

/// The folder of the coordinator's machine.
const COORDINATOR: &str = "coordinator";

/// How often the state of the cluster is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The name, the machines' disks and the authority of a cluster. The folder goes when this is dropped.
pub struct Cluster {
    name: String,
    own: OwnCluster,
    disks: TempDir,
}

impl Default for Cluster {
    fn default() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{count}", std::process::id());
        let disks = tempfile::tempdir().expect("a folder for the disks");
        let state = StateDir::open(disks.path().join(COORDINATOR).join(&name));
        let own = OwnCluster::open_or_create(state.expect("a folder"), &name, NODE_LIFETIME);
        Cluster {
            name,
            own: own.expect("a cluster"),
            disks,
        }
    }
}

impl Cluster {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster as its coordinator's machine knows it.
    pub fn own(&self) -> &OwnCluster {
        &self.own
    }

    /// A worker of this cluster.
    pub fn node(&self, node: NodeId) -> PeerId {
        PeerId {
            cluster: self.own.id(),
            role: Role::Worker,
            node,
        }
    }

    /// The state directory of the coordinator's machine, for `POTLUCK_STATE`.
    pub fn coordinator_state(&self) -> PathBuf {
        self.disks.path().join(COORDINATOR)
    }

    /// The state directory of a machine that belongs to the cluster. The first time it is let in, without the network: how machines
    /// join by themselves is tested elsewhere.
    pub fn worker_state(&self, name: &str) -> PathBuf {
        let folder = self.disks.path().join("machines").join(name);
        if !folder.exists() {
            let credential = self.own.local_worker().expect("a credential");
            let members = self.own.members();
            let given = members.add(credential.id().node, name).expect("a place");
            let state = StateDir::open(folder.join(&self.name)).expect("a folder");
            let joined = Joined {
                credential,
                cluster_name: self.name.clone(),
                name: given,
                coordinators: Vec::new(),
            };
            MemberFile::new(state).keep(&joined).expect("a membership");
        }
        folder
    }

    /// A command on the coordinator's machine.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Invocation {
        invoke(arguments)
            .env("POTLUCK_CLUSTER", &self.name)
            .env("POTLUCK_STATE", self.coordinator_state())
    }

    /// Where the worker `name` keeps its weights.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.disks.path().join(name)
    }

    /// Starts a coordinator without a worker of its own.
    pub fn serve(&self, model: &Path, n_workers: usize, more: &[&str]) -> Coordinator {
        let (model, n_workers) = (model.display().to_string(), n_workers.to_string());
        let fixed = ["serve", "--json", "--no-worker", "--no-invite"];
        let named = [
            "--http",
            "127.0.0.1:0",
            "--node-listen",
            "127.0.0.1:0",
            "--model",
            &model,
            "--workers",
            &n_workers,
        ];
        let arguments = fixed.iter().chain(&named).chain(more).copied();
        let process = self.command(arguments).env("POTLUCK_LOG", "warn").start();
        let what = "where it serves";
        let (address, _) = process.line(what, 0, PATIENCE, |line| {
            let (_, rest) = line.split_once(" at http://")?;
            rest.split_once("/v1")?.0.parse::<SocketAddr>().ok()
        });
        Coordinator {
            process,
            http: Http { address },
        }
    }

    /// Starts a worker and waits until it listens. Its weights are kept for the next one of this name.
    pub fn worker(&self, name: &str, more: &[&str]) -> Worker {
        self.worker_on(name, name, more)
    }

    /// Starts a worker that keeps its weights where the worker `disk` would.
    pub fn worker_on(&self, disk: &str, name: &str, more: &[&str]) -> Worker {
        let state = self.worker_state(name);
        let disk = self.disk(disk).display().to_string();
        let fixed = [
            "worker",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--threads",
            "1",
        ];
        let named = ["--name", name, "--weights", &disk];
        let arguments = fixed.iter().chain(&named).chain(more);
        let process = invoke(arguments)
            .env("POTLUCK_LOG", "warn")
            .env("POTLUCK_STATE", state)
            .start();
        let (offer, _) = process.line("what it offers", 0, PATIENCE, |line| {
            serde_json::from_str::<Value>(line).ok()
        });
        let address = offer["address"].as_str().expect("an address").to_owned();
        Worker { process, address }
    }

    /// Files and bytes of the weights that the worker `name` keeps.
    pub fn stored(&self, name: &str) -> Vec<(PathBuf, u64)> {
        files_under(&self.disk(name))
    }
}

fn files_under(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.expect("a folder that can be read");
        match entry.metadata().expect("metadata") {
            metadata if metadata.is_dir() => files.extend(files_under(&entry.path())),
            metadata => files.push((entry.path(), metadata.len())),
        }
    }
    files
}

/// A running `potluck worker`.
#[derive(Debug)]
pub struct Worker {
    pub process: Running,
    /// `host:port` where it listens.
    pub address: String,
}

/// A running `potluck serve`.
#[derive(Debug)]
pub struct Coordinator {
    pub process: Running,
    pub http: Http,
}

/// What a worker moved before it was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    pub fetched_bytes: u64,
    pub cached_bytes: u64,
}

/// Which node sent how many of the fetched bytes, by name.
pub type Sent = BTreeMap<String, u64>;

/// A cluster that answers.
#[derive(Debug)]
pub struct Ready {
    /// The plan in force.
    pub plan: Value,
    /// What each worker moved, by its name.
    pub moved: BTreeMap<String, Moved>,
    /// Who sent it to each worker, by its name.
    pub sent: BTreeMap<String, Sent>,
}

impl Coordinator {
    /// Place in its transcript from which to wait for what happens next.
    pub fn now(&self) -> usize {
        self.process.transcript().len()
    }

    /// Waits until it answers, for the first time after place `since`.
    pub fn ready(&self, since: usize) -> Ready {
        let (mut plan, mut moved, mut sent) = (Value::Null, BTreeMap::new(), BTreeMap::new());
        let ((), _) = self
            .process
            .line("the event ready", since, PATIENCE, |line| {
                let event: Value = serde_json::from_str(line).ok()?;
                match event["event"].as_str()? {
                    "ready" => return Some(()),
                    "planned" => {
                        moved.clear();
                        sent.clear();
                        plan = event["plan"].clone();
                    }
                    "loaded" => {
                        let name = event["name"].as_str()?.to_owned();
                        let bytes = |key: &str| event[key].as_u64();
                        let from = serde_json::from_value(event["from"].clone()).ok()?;
                        sent.insert(name.clone(), from);
                        let (fetched_bytes, cached_bytes) =
                            (bytes("fetched_bytes")?, bytes("cached_bytes")?);
                        moved.insert(
                            name,
                            Moved {
                                fetched_bytes,
                                cached_bytes,
                            },
                        );
                    }
                    _ => {}
                }
                None
            });
        Ready { plan, moved, sent }
    }

    /// Waits until the state is what `wanted` asks for.
    pub fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.http.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "not {what} within {limit:?}: {status:#}"
            );
            std::thread::sleep(POLL);
        }
    }
}
