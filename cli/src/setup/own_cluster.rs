//! The cluster that this machine coordinates, or one that lasts as long as a command.

use std::time::Duration;

use anyhow::Context;
use potluck_coordinator::cluster::{CoordinatorLock, OwnCluster};
use potluck_coordinator::dirs;
use potluck_link::authority::NODE_LIFETIME;
use potluck_link::state_dir::StateDir;
use potluck_proto::Epoch;
use tempfile::TempDir;

/// The state directory of a cluster.
pub fn state(name: &str) -> anyhow::Result<StateDir> {
    Ok(StateDir::open(dirs::cluster_dir(name)?)?)
}

/// The names of all clusters that this machine has to do with, or the one called `only` if it has.
pub fn names(only: Option<&str>) -> anyhow::Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(dirs::state_dir()?) else {
        return Ok(Vec::new());
    };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let wanted = |name: &String| only.is_none_or(|only| only == name);
    let mut names: Vec<_> = names
        .filter(|name| wanted(name) && dirs::cluster_name(name).is_ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The cluster of this machine with that name, if there is one. Nothing is made.
pub fn find(name: &str) -> anyhow::Result<Option<OwnCluster>> {
    let folder = dirs::cluster_dir(name)?;
    match folder.exists() {
        true => Ok(OwnCluster::open(
            StateDir::open(folder)?,
            name,
            NODE_LIFETIME,
        )?),
        false => Ok(None),
    }
}

/// The cluster of this machine with that name, which must be there.
pub fn existing(name: &str) -> anyhow::Result<OwnCluster> {
    find(name)?.with_context(|| {
        format!(
            "this machine coordinates no cluster called `{name}`; `potluck serve` makes one, and this command is for the machine where \
             that runs"
        )
    })
}

/// The cluster of this machine with that name, which is made if need be.
pub fn open_or_create(name: &str, lifetime: Option<u64>) -> anyhow::Result<OwnCluster> {
    let lifetime = lifetime.map_or(NODE_LIFETIME, Duration::from_secs);
    Ok(OwnCluster::open_or_create(state(name)?, name, lifetime)?)
}

/// A cluster for one command: the one of this machine, or one that ends with the command.
pub struct Borrowed {
    pub cluster: OwnCluster,
    pub epoch: Epoch,
    /// Whether others may belong to it.
    pub is_lasting: bool,
    _lock: CoordinatorLock,
    _folder: Option<TempDir>,
}

/// A cluster that ends with the command.
pub fn passing(name: &str) -> anyhow::Result<Borrowed> {
    let (cluster, folder) = made_for_now(name)?;
    borrow(cluster, Some(folder))
}

/// The cluster of this machine if there is one, or one that ends with the command.
pub fn lasting_or_passing(name: &str) -> anyhow::Result<Borrowed> {
    let (cluster, folder) = find_or_passing(name)?;
    borrow(cluster, folder)
}

/// The cluster of this machine if there is one, or one that ends with the command; not to be its coordinator.
pub fn find_or_passing(name: &str) -> anyhow::Result<(OwnCluster, Option<TempDir>)> {
    if let Some(cluster) = find(name)? {
        return Ok((cluster, None));
    }
    made_for_now(name).map(|(cluster, folder)| (cluster, Some(folder)))
}

fn made_for_now(name: &str) -> anyhow::Result<(OwnCluster, TempDir)> {
    let folder = tempfile::tempdir().context("there is no room for a temporary folder")?;
    let state = StateDir::open(folder.path().join(name))?;
    Ok((
        OwnCluster::open_or_create(state, name, NODE_LIFETIME)?,
        folder,
    ))
}

fn borrow(cluster: OwnCluster, folder: Option<TempDir>) -> anyhow::Result<Borrowed> {
    let (epoch, lock) = cluster.next_start()?;
    Ok(Borrowed {
        cluster,
        epoch,
        is_lasting: folder.is_none(),
        _lock: lock,
        _folder: folder,
    })
}

impl Borrowed {
    /// Where its state is, if it ends with the command.
    pub fn folder(&self) -> Option<&std::path::Path> {
        self._folder.as_ref().map(TempDir::path)
    }
}
