//! Joining a cluster with an invite: the coordinator is found, asked, and what it gives is kept.

use std::time::Duration;

use anyhow::{Context, bail};
use potluck_coordinator::dirs;
use potluck_link::credential::{Credential, NodeKey};
use potluck_link::invite::Invite;
use potluck_link::join::{JoinError, Joined, join};
use potluck_link::mdns::{Discovery, discover};
use potluck_link::member_file::{Member, MemberFile};
use tokio::time::Instant;

use super::own_cluster;
use crate::flags::NetworkFlags;

/// Time between two rounds of asking.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Addresses found by mDNS that are tried.
const MAX_ADDRESSES: usize = 32;

/// How to join.
pub struct Joining<'a> {
    pub invite: &'a Invite,
    pub name: &'a str,
    pub network: &'a NetworkFlags,
    /// How long the coordinator is looked for; without an end if not given.
    pub patience: Option<Duration>,
    /// Take the place of a membership in another cluster of the same name.
    pub replace: bool,
}

impl Joining<'_> {
    /// Finds the coordinator, joins, and keeps the membership.
    pub async fn join(&self) -> anyhow::Result<Joined> {
        let key = NodeKey::generate()?;
        let mut discovery = self.search()?;
        let mut found: Vec<String> = Vec::new();
        let deadline = self.patience.map(|patience| Instant::now() + patience);
        let mut last = None;
        loop {
            for address in self.invite.addresses.iter().chain(&found) {
                match join(self.invite, address, self.name, &key).await {
                    Ok(joined) => {
                        self.keep(&joined)?;
                        return Ok(joined);
                    }
                    Err(error @ JoinError::Connect(_)) => last = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            if deadline.is_some_and(|deadline| deadline < Instant::now()) {
                bail!(self.not_found(last));
            }
            // What is found while waiting is asked in the next round.
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => {}
                Some(node) = next(&mut discovery) => {
                    found.extend(node.addresses.iter().map(ToString::to_string));
                    found.sort();
                    found.dedup();
                    // Whoever advertises without end is not the coordinator.
                    let excess = found.len().saturating_sub(MAX_ADDRESSES);
                    found.drain(..excess);
                }
            }
        }
    }

    fn search(&self) -> anyhow::Result<Option<Discovery>> {
        if self.network.no_mdns {
            return Ok(None);
        }
        let wanted = self.invite.cluster().prefix();
        let is_it = move |advert: &potluck_proto::advert::Advert| {
            advert.is_coordinator && advert.cluster == wanted
        };
        Ok(Some(discover(&self.network.interfaces()?, is_it)?))
    }

    fn not_found(&self, last: Option<JoinError>) -> String {
        let tried = match last {
            Some(error) => format!("the last try said: {error}"),
            None => "nothing that could be it was found by mDNS".to_owned(),
        };
        format!(
            "the coordinator of this invite was not reached; {tried}. Is `potluck serve` running there? Where multicast is blocked, \
             name it: --coordinator HOST:PORT"
        )
    }

    fn keep(&self, joined: &Joined) -> anyhow::Result<()> {
        let name = dirs::cluster_name(&joined.cluster_name)
            .context("the coordinator calls its cluster something that is no name")?;
        let file = MemberFile::new(own_cluster::state(&name)?);
        let is_other = file
            .read()?
            .is_some_and(|(_, held)| held.cluster() != joined.credential.cluster());
        if !is_other || self.replace {
            return Ok(file.keep(joined)?);
        }
        // The invite has been used, so the new membership is kept beside the other one.
        let digits = joined.credential.cluster().to_string();
        let short: String = name.chars().take(20).collect();
        let name = format!("{short}-{digits}");
        eprintln!(
            "this machine belongs to another cluster called `{}`; it knows the new one as `{name}`: potluck worker --cluster {name}",
            joined.cluster_name
        );
        Ok(MemberFile::new(own_cluster::state(&name)?).keep(joined)?)
    }
}

async fn next(discovery: &mut Option<Discovery>) -> Option<potluck_link::mdns::Found> {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}

/// A cluster that this machine belongs to.
pub struct Membership {
    /// What the cluster is called on this machine.
    pub local_name: String,
    pub file: MemberFile,
    pub member: Member,
    pub credential: Credential,
}

/// The memberships of this machine, or the one in the cluster called `only`.
pub fn memberships(only: Option<&str>) -> anyhow::Result<Vec<Membership>> {
    let mut memberships = Vec::new();
    for name in own_cluster::names(only)? {
        let file = MemberFile::new(own_cluster::state(&name)?);
        if let Some((member, credential)) = file.read()? {
            memberships.push(Membership {
                local_name: name,
                file,
                member,
                credential,
            });
        }
    }
    Ok(memberships)
}
