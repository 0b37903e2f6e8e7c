//! Which nodes are admitted, and the connections that are open: when a node is struck off the list, its connections end.

use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use potluck_proto::NodeId;

use crate::peer::{PeerId, Role};

/// Connections that one node may have open: a stage has a handful.
const MAX_PER_NODE: usize = 64;

/// The list and the connections. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Connections {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    admitted: HashSet<NodeId>,
    open: HashMap<u64, Open>,
    next: u64,
}

struct Open {
    peer: PeerId,
    /// A second handle on the socket, with which it can be closed from here.
    socket: socket2::Socket,
}

/// A connection that is counted as open until this is dropped.
pub(crate) struct Guard {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// Why a node may not talk to this one, if it may not. Coordinators always may: only the machine that keeps the authority
    /// has a certificate of that role.
    pub fn refusal(&self, peer: &PeerId) -> Option<&'static str> {
        match peer.role == Role::Coordinator || self.state().admitted.contains(&peer.node) {
            true => None,
            false => Some(
                "this node is not on the cluster's list: it was removed, or never joined; run `potluck join` with a new invite",
            ),
        }
    }

    /// Replaces the list. Connections of workers that are not on it end.
    pub fn admit(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let mut state = self.state();
        state.admitted = nodes.into_iter().collect();
        let State { admitted, open, .. } = &mut *state;
        for connection in open.values() {
            let peer = connection.peer;
            if peer.role == Role::Worker && !admitted.contains(&peer.node) {
                tracing::info!(%peer, "connection of a node that is not admitted any more is closed");
                // It may be closed already.
                let _ = connection.socket.shutdown(Shutdown::Both);
            }
        }
    }

    /// Counts a connection, unless the node has too many.
    pub fn open(&self, peer: PeerId, socket: socket2::Socket) -> Option<Guard> {
        let mut state = self.state();
        let n_open = state.open.values().filter(|open| open.peer == peer).count();
        if n_open >= MAX_PER_NODE {
            return None;
        }
        state.next += 1;
        let number = state.next;
        state.open.insert(number, Open { peer, socket });
        Some(Guard {
            connections: self.clone(),
            number,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.connections.state().open.remove(&self.number);
    }
}
