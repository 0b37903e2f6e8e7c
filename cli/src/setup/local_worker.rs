//! Workers on this machine: one inside this process, or processes of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use potluck_coordinator::dirs;
use potluck_worker::node::{Node, NodeConfig};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::flags::{MachineFlags, NetworkFlags};

/// Threads that compute when the user does not say.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Where weights are kept.
pub fn weights_dir(flags: &MachineFlags) -> anyhow::Result<PathBuf> {
    match &flags.weights {
        Some(directory) => Ok(directory.clone()),
        None => Ok(dirs::cache_dir()?.join("weights")),
    }
}

/// A worker's settings from flags.
pub fn node_config(
    name: String,
    listen: SocketAddr,
    machine: &MachineFlags,
    cluster: &str,
    advertise: bool,
) -> anyhow::Result<NodeConfig> {
    Ok(NodeConfig {
        name,
        listen,
        cache_dir: weights_dir(machine)?,
        n_threads: machine.threads.unwrap_or_else(default_threads).max(1),
        memory_limit_bytes: machine.memory_limit.map(|mib| mib << 20),
        cluster: cluster.to_owned(),
        advertise,
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

/// Starts a plain worker in this process, on a loopback port, for the coordinator beside it. Returns its address.
pub async fn start_inside(
    machine: &MachineFlags,
    network: &NetworkFlags,
) -> anyhow::Result<SocketAddr> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // Its coordinator knows the address; others should not find it.
    let node = Node::bind(node_config(
        host_name(),
        listen,
        machine,
        &network.cluster,
        false,
    )?)
    .await?;
    let address = node.address()?;
    tokio::spawn(async move {
        if let Err(err) = node.serve(std::future::pending()).await {
            tracing::error!(%err, "the worker in this process stopped");
        }
    });
    Ok(address)
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
    /// Starts `potluck worker` on a free loopback port.
    pub fn start(name: String, n_threads: usize, network: &NetworkFlags) -> anyhow::Result<Self> {
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
            .args([
                "--cluster",
                &network.cluster,
                "--threads",
                &n_threads.to_string(),
            ])
            .args(
                network
                    .interface
                    .iter()
                    .flat_map(|interface| ["--interface", interface.as_str()]),
            )
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
