//! A cluster under attack: two workers that answer, and after every attack the question whether they still do.

use std::net::SocketAddr;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster::{Cluster, Coordinator, Worker};
use crate::models::{SMOLLM2, model};
use crate::transcript::Stream;

const QUESTION: &str = "What is the capital of France?";

/// Tokens of the answer that must stay the same.
const N_TOKENS: u32 = 8;

/// An attack: it panics unless it was refused or contained.
pub type Attack = fn(&Siege);

/// A cluster under attack.
pub struct Siege {
    pub cluster: Cluster,
    pub coordinator: Coordinator,
    pub ann: Worker,
    pub bob: Worker,
    /// For the attacker's end.
    pub runtime: Runtime,
    before: String,
}

impl Siege {
    /// Starts a cluster and asks it a question. `flags` are for all of its processes.
    pub fn begin(flags: &[&str]) -> Siege {
        let cluster = Cluster::default();
        let coordinator = cluster.serve(&model(SMOLLM2), 2, flags);
        let (ann, bob) = (cluster.worker("ann", flags), cluster.worker("bob", flags));
        coordinator.ready(0);
        let runtime = Runtime::new().expect("threads");
        let mut siege = Siege {
            cluster,
            coordinator,
            ann,
            bob,
            runtime,
            before: String::new(),
        };
        siege.before = siege.answer();
        siege
    }

    /// Runs attacks one after another, and looks after each of them whether all is well.
    pub fn withstands(&self, attacks: &[(&str, Attack)]) {
        for (name, attack) in attacks {
            eprintln!("attack: {}", name.replace('_', " "));
            attack(self);
            self.is_well(name);
        }
    }

    /// Where the coordinator listens for its nodes.
    pub fn coordinator_address(&self) -> SocketAddr {
        let place = self.cluster.own().place().expect("a place");
        place[0].parse().expect("an address")
    }

    /// Where all three nodes listen.
    pub fn addresses(&self) -> [SocketAddr; 3] {
        let worker = |worker: &Worker| worker.address.parse().expect("an address");
        [
            self.coordinator_address(),
            worker(&self.ann),
            worker(&self.bob),
        ]
    }

    /// The cluster is ready, answers as before, and nothing in it has broken down.
    pub fn is_well(&self, after: &str) {
        let status = self.coordinator.http.status();
        assert_eq!(status["state"], "ready", "after {after}: {status:#}");
        assert_eq!(self.answer(), self.before, "after {after}");
        for process in [
            &self.coordinator.process,
            &self.ann.process,
            &self.bob.process,
        ] {
            let said = process.transcript().text(Stream::Stderr);
            assert!(!said.contains("panicked"), "after {after}: {said}");
            let shown = said + &process.transcript().text(Stream::Stdout);
            assert!(!shown.contains('\u{1b}'), "after {after}: {shown:?}");
        }
    }

    fn answer(&self) -> String {
        let options = json!({"max_tokens": N_TOKENS});
        let reply = self.coordinator.http.chat(QUESTION, options).ok();
        reply["choices"][0]["message"]["content"].to_string()
    }
}

/// Attacks with their names, for `Siege::withstands`.
#[macro_export]
macro_rules! attacks {
    ($($attack:ident),* $(,)?) => {
        &[$((stringify!($attack), $attack as $crate::siege::Attack)),*]
    };
}
