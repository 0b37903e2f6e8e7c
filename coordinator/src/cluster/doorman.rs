//! Lets machines in that come with an invite. Whoever asks is a stranger: one message, checked in an order that tells a stranger
//! nothing, and few tries.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use potluck_link::Joins;
use potluck_link::invite::MAX_NAME_BYTES;
use potluck_link::join::{JoinStream, is_signed, issued_to_wire};
use potluck_link::peer::node_id;
use potluck_link::{Interfaces, Role};
use potluck_proto::{NodeId, PROTOCOL, wire};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::identity::OwnCluster;
use super::invites::Refusal;

/// Failed tries of one address within the window, after which it must wait.
const MAX_FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose failures are counted. With more at once somebody plays with us, and everyone waits.
const MAX_ADDRESSES: usize = 1024;

/// Lets machines in.
pub(super) struct Doorman {
    pub cluster: OwnCluster,
    /// Where this coordinator listens.
    pub interfaces: Interfaces,
    pub listening: std::net::SocketAddr,
    /// Told when somebody has joined.
    pub news: mpsc::Sender<NodeId>,
}

impl Doorman {
    /// Serves until nobody can ask any more.
    pub async fn run(self, mut joins: Joins) {
        let (doorman, failures) = (Arc::new(self), Arc::new(Failures::default()));
        while let Some(stream) = joins.recv().await {
            let (doorman, failures) = (Arc::clone(&doorman), Arc::clone(&failures));
            tokio::spawn(async move { doorman.serve(stream, &failures).await });
        }
    }

    async fn serve(&self, mut stream: JoinStream, failures: &Failures) {
        let address = stream.address;
        let request = match stream.request().await {
            Ok(request) => request,
            Err(error) => {
                tracing::info!(%address, %error, "a machine that asked to join sent no request");
                return;
            }
        };
        let outcome = match failures.must_wait(address.ip()) {
            true => Err(format!(
                "too many failed tries from this address; wait {} s",
                FAILURE_WINDOW.as_secs()
            )),
            false => self.decide(&stream, &request).await,
        };
        let outcome = match outcome {
            Ok(accepted) => {
                tracing::info!(%address, name = accepted.name, "a machine joined");
                wire::join_reply::Outcome::Accepted(accepted)
            }
            Err(why) => {
                failures.count(address.ip());
                tracing::warn!(%address, why, "a machine that asked to join was refused");
                wire::join_reply::Outcome::Refused(why)
            }
        };
        let reply = wire::JoinReply {
            outcome: Some(outcome),
        };
        if let Err(error) = stream.reply(&reply).await {
            tracing::info!(%address, %error, "a machine that asked to join did not take its answer");
        }
    }

    async fn decide(
        &self,
        stream: &JoinStream,
        request: &wire::JoinRequest,
    ) -> Result<wire::JoinAccepted, String> {
        if request.protocol.abs_diff(PROTOCOL) > 1 {
            return Err(format!(
                "the machine speaks protocol {}, the coordinator {PROTOCOL}; update the older of the two",
                request.protocol
            ));
        }
        let transcript = stream.transcript(request);
        if !is_signed(&request.public_key, &transcript, &request.signature) {
            return Err("the request is not signed by its key".into());
        }
        let node = node_id(&request.public_key);
        let invites = self.cluster.invites();
        let (id, proof) = (request.invite_id.clone(), request.proof.clone());
        let redeemed =
            blocking(move || invites.redeem(&id, node, |key| key.is_proof(&transcript, &proof)));
        let given = redeemed
            .await
            .map_err(|refusal: Refusal| refusal.to_string())?;
        let wanted = given.unwrap_or_else(|| printable(&request.name));
        self.let_in(node, &request.public_key, wanted).await
    }

    async fn let_in(
        &self,
        node: NodeId,
        public_key: &[u8],
        wanted: String,
    ) -> Result<wire::JoinAccepted, String> {
        let (cluster, members) = (&self.cluster, self.cluster.members());
        let authority = cluster.authority();
        let issued = authority
            .issue(Role::Worker, public_key, cluster.lifetime())
            .map_err(|err| err.to_string())?;
        let name = blocking(move || members.add(node, &wanted))
            .await
            .map_err(|err| err.to_string())?;
        // Whoever listens for the news also looks at the list by itself.
        let _ = self.news.try_send(node);
        let reach = self.interfaces.reach(self.listening);
        Ok(wire::JoinAccepted {
            issued: Some(issued_to_wire(&issued)),
            authority: authority.certificate().to_vec().into(),
            cluster_name: cluster.name.clone(),
            coordinator_addresses: reach.iter().map(ToString::to_string).collect(),
            name,
        })
    }
}

/// Disk work, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
    }
}

/// A name as it may stand in a terminal.
pub(super) fn printable(name: &str) -> String {
    let allowed = |c: &char| !c.is_control() && !c.is_whitespace();
    let mut printable: String = name.chars().filter(allowed).collect();
    while printable.len() > MAX_NAME_BYTES {
        printable.pop();
    }
    match printable.is_empty() {
        true => "worker".into(),
        false => printable,
    }
}

/// Failed tries, by address.
#[derive(Default)]
struct Failures(Mutex<HashMap<IpAddr, Vec<Instant>>>);

impl Failures {
    fn must_wait(&self, ip: IpAddr) -> bool {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, times| {
            times.retain(|time| time.elapsed() < FAILURE_WINDOW);
            !times.is_empty()
        });
        failures.len() >= MAX_ADDRESSES
            || failures
                .get(&ip)
                .is_some_and(|times| times.len() >= MAX_FAILURES)
    }

    fn count(&self, ip: IpAddr) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = failures.entry(ip).or_default();
        if times.len() < MAX_FAILURES {
            times.push(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_too_often_waits_a_minute() {
        let failures = Failures::default();
        let (ip, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..MAX_FAILURES {
            assert!(!failures.must_wait(ip));
            failures.count(ip);
        }
        assert!(failures.must_wait(ip));
        assert!(!failures.must_wait(other));
        tokio::time::advance(FAILURE_WINDOW).await;
        assert!(!failures.must_wait(ip));
    }

    #[test]
    fn names_cannot_steer_a_terminal() {
        for (name, want) in [
            ("pi", "pi"),
            ("\u{1b}[31mred", "[31mred"),
            (" \n", "worker"),
            ("", "worker"),
        ] {
            assert_eq!(printable(name), want);
        }
        assert_eq!(printable(&"é".repeat(100)).len(), MAX_NAME_BYTES);
    }
}
