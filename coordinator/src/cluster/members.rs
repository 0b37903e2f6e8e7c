//! Who belongs to the cluster: the list that decides, whatever certificates are about. A file, so that a command can change it
//! while the coordinator runs.

use std::time::SystemTime;

use potluck_link::authority::unix_seconds;
use potluck_link::state_dir::{Stamp, StateDir, StateError};
use potluck_proto::{NodeId, bytes_of, hex_of};
use serde::{Deserialize, Serialize};

/// Name of the file in the cluster's state directory.
const FILE_NAME: &str = "members.json";

/// Nodes of one cluster.
const MAX_MEMBERS: usize = 1024;

/// Addresses that are remembered of one node.
const MAX_ADDRESSES: usize = 8;

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    #[serde(with = "node_hex")]
    pub node: NodeId,
    /// Name for people, of which there is one each.
    pub name: String,
    /// Seconds since 1970.
    pub joined_at: u64,
    /// `host:port` where it was last.
    pub addresses: Vec<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct List {
    members: Vec<Member>,
}

/// A list that cannot be changed as asked.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The file.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody is called that.
    #[error("no node of this cluster is called `{asked}`; there {there}")]
    Unknown {
        /// The name or id.
        asked: String,
        /// Those that are.
        there: String,
    },
    /// It is full.
    #[error("the cluster has {MAX_MEMBERS} nodes already; remove some with `potluck nodes remove`")]
    Full,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Members {
    state: StateDir,
}

impl Members {
    pub(super) fn new(state: StateDir) -> Self {
        Members { state }
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Member>, StateError> {
        let list = self.state.read::<List>(FILE_NAME)?.unwrap_or_default();
        Ok(list.members)
    }

    /// Which version of the list there is.
    pub fn stamp(&self) -> Option<Stamp> {
        self.state.stamp(FILE_NAME)
    }

    /// Adds a node, or finds it there. Returns the name that it goes by: the one wanted, with a number if it is taken.
    pub fn add(&self, node: NodeId, wanted: &str) -> Result<String, MembersError> {
        self.state.update(FILE_NAME, |list: &mut List| {
            let members = &mut list.members;
            if let Some(member) = members.iter().find(|member| member.node == node) {
                return Ok(member.name.clone());
            }
            if members.len() >= MAX_MEMBERS {
                return Err(MembersError::Full);
            }
            let is_free = |name: &String| members.iter().all(|member| member.name != *name);
            let numbered = (2..).map(|number| format!("{wanted}-{number}"));
            let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
            let name = names.find(is_free).unwrap_or_default();
            members.push(Member {
                node,
                name: name.clone(),
                joined_at: unix_seconds(SystemTime::now()),
                addresses: Vec::new(),
            });
            members.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(name)
        })
    }

    /// Strikes a node off, by its name or the beginning of its id.
    pub fn remove(&self, asked: &str) -> Result<Member, MembersError> {
        self.state.update(FILE_NAME, |list: &mut List| {
            let members = &mut list.members;
            let by_name = members.iter().position(|member| member.name == asked);
            let has_id =
                |member: &Member| asked.len() >= 8 && hex_of(&member.node.0).starts_with(asked);
            match by_name.or_else(|| members.iter().position(has_id)) {
                Some(index) => Ok(members.remove(index)),
                None => Err(MembersError::Unknown {
                    asked: asked.to_owned(),
                    there: names(members),
                }),
            }
        })
    }

    /// Remembers where a node is. Nothing is written if that is known.
    pub fn remember(&self, node: NodeId, addresses: &[String]) -> Result<(), StateError> {
        let addresses: Vec<_> = addresses.iter().take(MAX_ADDRESSES).cloned().collect();
        let is_news = |member: &Member| member.node == node && member.addresses != addresses;
        if !self.list()?.iter().any(is_news) {
            return Ok(());
        }
        self.state.update(FILE_NAME, |list: &mut List| {
            let member = list.members.iter_mut().find(|member| member.node == node);
            if let Some(member) = member {
                member.addresses = addresses;
            }
            Ok(())
        })
    }
}

fn names(members: &[Member]) -> String {
    let names: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
    match names.is_empty() {
        true => "is none".into(),
        false => format!("are {}", names.join(", ")),
    }
}

mod node_hex {
    use super::{NodeId, bytes_of, hex_of};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(node: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex_of(&node.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        let digits = String::deserialize(deserializer)?;
        bytes_of(&digits)
            .map(NodeId)
            .ok_or_else(|| D::Error::custom("not the id of a node"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_and_go_under_names_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let members = Members::new(StateDir::open(folder.path().join("home")).unwrap());
        let node = |n: u8| NodeId([n; 16]);
        assert_eq!(members.add(node(1), "pi").unwrap(), "pi");
        assert_eq!(members.add(node(1), "pie").unwrap(), "pi", "it is there");
        assert_eq!(members.add(node(2), "pi").unwrap(), "pi-2");
        let before = members.stamp();
        members.remember(node(2), &["10.0.0.2:1".into()]).unwrap();
        assert_ne!(members.stamp(), before);
        let before = members.stamp();
        members.remember(node(2), &["10.0.0.2:1".into()]).unwrap();
        assert_eq!(members.stamp(), before, "that was known");

        let error = members.remove("mac").unwrap_err().to_string();
        assert!(error.contains("pi, pi-2"), "{error}");
        assert!(members.remove("01").is_err(), "too short for an id");
        assert_eq!(members.remove("01010101").unwrap().name, "pi");
        assert_eq!(members.remove("pi-2").unwrap().node, node(2));
        assert_eq!(members.list().unwrap(), []);
    }
}
