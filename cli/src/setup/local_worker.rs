//! Workers on this machine: one inside this process, or processes of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use potluck_coordinator::cluster::{OwnCluster, keep_renewed};
use potluck_coordinator::dirs;
use potluck_link::credential::Credential;
use potluck_link::invite::Invite;
use potluck_link::{Interfaces, Link};
use potluck_proto::NodeId;
use potluck_worker::WeightStorage;
use potluck_worker::node::{Node, NodeConfig, NodeError};
use sysinfo::System;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::flags::{MachineFlags, NetworkFlags};

/// Threads that compute when the user does not say.
///
/// One for each physical core: the second thread of a core has no arithmetic of its own, and waits for the same memory. Never more
/// than the system lets this process have.
pub fn default_threads() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    System::physical_core_count().map_or(allowed, |cores| allowed.min(cores.max(1)))
}

/// Where weights are kept.
pub fn weights_dir(flags: &MachineFlags) -> anyhow::Result<PathBuf> {
    match &flags.weights {
        Some(directory) => Ok(directory.clone()),
        None => Ok(dirs::cache_dir()?.join("weights")),
    }
}

/// The port of a worker unless told otherwise.
pub const WORKER_PORT: u16 = 7461;

/// Who a worker is, and how it is found.
pub struct Place {
    pub name: String,
    pub listen: SocketAddr,
    pub interfaces: Interfaces,
    pub use_mdns: bool,
}

/// A worker's settings from flags.
pub fn node_config(
    place: Place,
    credential: Credential,
    machine: &MachineFlags,
) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        name: place.name,
        listen: place.listen,
        link: Link::new(credential)?,
        interfaces: place.interfaces,
        coordinators: Vec::new(),
        member_file: None,
        cache_dir: weights_dir(machine)?,
        n_threads: machine.threads.unwrap_or_else(default_threads).max(1),
        memory_limit_bytes: machine.memory_limit.map(|mib| mib << 20),
        weights: match machine.map_weights {
            true => WeightStorage::Mapped,
            false => WeightStorage::Packed,
        },
        use_mdns: place.use_mdns,
    })
}

/// The name of this machine, for people.
pub fn host_name() -> String {
    let variables = ["HOSTNAME", "COMPUTERNAME"];
    let from_environment = variables.iter().find_map(|name| std::env::var(name).ok());
    let from_system = || std::fs::read_to_string("/etc/hostname").ok();
    let name = from_environment.or_else(from_system).unwrap_or_default();
    match name.trim() {
        "" => "this-machine".to_owned(),
        name => name.to_owned(),
    }
}

/// A worker in this process.
pub struct Inside {
    pub node: NodeId,
    /// `host:port` for the coordinator beside it.
    pub address: String,
}

/// Starts a plain worker in this process, for the coordinator beside it. Other workers reach it at `listen`, if anything else
/// than this machine does; where that port is taken, at any other.
pub async fn start_inside(
    own: &OwnCluster,
    machine: &MachineFlags,
    interfaces: &Interfaces,
    listen: SocketAddr,
) -> anyhow::Result<Inside> {
    let credential = own.local_worker()?;
    let config = |listen| {
        // Its coordinator knows where it is; nobody else should look for it.
        let place = Place {
            name: host_name(),
            listen,
            interfaces: interfaces.clone(),
            use_mdns: false,
        };
        node_config(place, credential.clone(), machine)
    };
    let node = match Node::bind(config(listen)?).await {
        Err(NodeError::Listen { .. }) => {
            Node::bind(config(SocketAddr::new(listen.ip(), 0))?).await?
        }
        node => node?,
    };
    let address = node.address()?;
    let loopback = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    let ip = match address.ip().is_unspecified() {
        true => loopback,
        false => address.ip(),
    };
    let id = node.id();
    tokio::spawn(keep_renewed(own.clone(), credential));
    tokio::spawn(async move {
        if let Err(err) = node.serve(std::future::pending()).await {
            tracing::error!(%err, "the worker in this process stopped");
        }
    });
    Ok(Inside {
        node: id,
        address: SocketAddr::new(ip, address.port()).to_string(),
    })
}

/// A worker process. It ends with this one, however this one ends.
pub struct WorkerProcess {
    pub name: String,
    child: Child,
    /// Held here because waiting for a child closes its standard input first, and that is how the worker is told to end.
    stdin: Option<ChildStdin>,
    /// The end of what it said on standard error.
    said: Arc<Mutex<Vec<u8>>>,
    listening: Option<JoinHandle<()>>,
}

/// How long the last words of a worker that has ended may take to arrive.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);

/// Bytes of a worker's last words that are kept.
const LAST_WORDS_BYTES: usize = 4096;

impl WorkerProcess {
    /// Starts `potluck worker` on a free loopback port, which joins with an invite and keeps what it is in `state`.
    pub fn start(
        name: String,
        n_threads: usize,
        network: &NetworkFlags,
        (invite, state): (&Invite, &Path),
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        let mut command = Command::new(program);
        command
            .args([
                "worker",
                "--listen",
                "127.0.0.1:0",
                "--exit-with-stdin",
                "--name",
                &name,
            ])
            .args(["--threads", &n_threads.to_string()])
            .args(
                network
                    .interface
                    .iter()
                    .flat_map(|interface| ["--interface", interface.as_str()]),
            )
            // A command line can be read by every user of the machine, so the invite is not on it.
            .env("POTLUCK_INVITE", invite.to_string())
            .env("POTLUCK_STATE", state)
            // A setting meant for this command would hide the workers from it.
            .env_remove("POTLUCK_NO_MDNS")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C in a terminal goes to every process of the group; workers should end with us, not before.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            .spawn()
            .context("a worker process cannot be started")?;
        let stdin = child.stdin.take();
        let said = Arc::default();
        let stderr = child.stderr.take();
        let listening =
            stderr.map(|stderr| tokio::spawn(keep_last_words(stderr, Arc::clone(&said))));
        Ok(WorkerProcess {
            name,
            child,
            stdin,
            said,
            listening,
        })
    }

    /// Completes when the process ends by itself, with what it said.
    pub async fn ended(&mut self) -> String {
        let status = self
            .child
            .wait()
            .await
            .map_or_else(|err| err.to_string(), |status| status.to_string());
        if let Some(listening) = self.listening.take() {
            // What has not come by then was held up by somebody else who has the pipe.
            let _ = tokio::time::timeout(LAST_WORDS_WAIT, listening).await;
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        format!(
            "worker process {} ended ({status}): {}",
            self.name,
            said.trim()
        )
    }

    /// Asks the process to end, and waits until it has.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        let patience = Duration::from_secs(3);
        if tokio::time::timeout(patience, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}

/// Reads on, so that the process is never held up by a full pipe.
async fn keep_last_words(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..n]);
        let excess = said.len().saturating_sub(LAST_WORDS_BYTES);
        said.drain(..excess);
    }
}
