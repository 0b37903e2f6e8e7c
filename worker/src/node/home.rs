//! The worker's side of belonging to a cluster: it tells the coordinator where it is when nobody controls it, and renews its
//! certificate before that runs out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use potluck_link::authority::unix_seconds;
use potluck_link::join::issued_from_wire;
use potluck_link::mdns::{Discovery, Found, discover};
use potluck_link::member_file::MemberFile;
use potluck_link::{ConnectError, Expect, Link, Role, Target};
use potluck_proto::wire;
use potluck_proto::wire::cluster_client::ClusterClient;
use tokio::time::MissedTickBehavior;

use super::service::Shared;

/// How often a worker that nobody controls looks for its coordinator.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// How long an answer may take: the coordinator tries the worker's addresses meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A renewal that failed is tried again after this long.
const RENEW_RETRY: Duration = Duration::from_secs(5);

/// Clocks that differ by more than this will make trouble with certificates.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(12 * 3600);

/// Coordinator addresses that are kept.
const MAX_COORDINATORS: usize = 8;

/// Where the coordinator may be, and where that is kept.
pub struct Home {
    file: Option<MemberFile>,
    coordinators: Mutex<Vec<String>>,
}

impl Home {
    /// Begins with the addresses that are known. Without a file nothing is kept: the worker ends with its coordinator.
    pub fn new(file: Option<MemberFile>, coordinators: Vec<String>) -> Self {
        Home {
            file,
            coordinators: Mutex::new(coordinators),
        }
    }

    fn coordinators(&self) -> Vec<String> {
        self.coordinators
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The coordinator says where it listens. Nothing is kept that is known already.
    pub fn learn(&self, link: &Link, addresses: &[String]) {
        let addresses: Vec<_> = addresses.iter().take(MAX_COORDINATORS).cloned().collect();
        let mut held = self
            .coordinators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !addresses.is_empty() && *held != addresses {
            *held = addresses;
            self.keep(link, &held);
        }
    }

    fn keep(&self, link: &Link, coordinators: &[String]) {
        let kept = self
            .file
            .as_ref()
            .map(|file| file.update(link.credential(), coordinators));
        if let Some(Err(error)) = kept {
            tracing::warn!(%error, "the worker's membership could not be kept");
        }
    }
}

/// Looks for the coordinator while nobody controls the worker, for ever.
pub(super) async fn look(shared: Arc<Shared>, use_mdns: bool) {
    let mut discovery = use_mdns.then(|| search(&shared)).flatten();
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut found = Vec::new();
    let mut said = String::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(node) = next(&mut discovery) => {
                // Anybody can say that he is the coordinator; too many addresses would keep the right one from being tried.
                let addresses = node.addresses.iter().take(MAX_COORDINATORS);
                found = addresses.map(ToString::to_string).collect();
            }
        }
        if shared.is_controlled() {
            said.clear();
            continue;
        }
        // Anybody may be found, so what the coordinator itself said comes first.
        let mut addresses = shared.home.coordinators();
        addresses.extend(found.iter().cloned());
        if addresses.is_empty() {
            continue;
        }
        let why = match announce(&shared, &addresses).await {
            Ok(reply) => {
                shared
                    .home
                    .learn(&shared.link, &reply.coordinator_addresses);
                judge(&reply)
            }
            Err(error) => Some(error.to_string()),
        };
        // The user of this machine should know, once for each kind of trouble.
        if let Some(why) = why.filter(|why| *why != said) {
            tracing::error!(why, "this worker is not in use");
            said = why;
        }
    }
}

fn search(shared: &Shared) -> Option<Discovery> {
    let own = shared.link.id().cluster.prefix();
    discover(&shared.place.interfaces, move |advert| {
        advert.is_coordinator && advert.cluster == own
    })
    .map_err(|error| tracing::warn!(%error, "the coordinator cannot be looked for"))
    .ok()
}

async fn next(discovery: &mut Option<Discovery>) -> Option<Found> {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => std::future::pending().await,
    }
}

/// What a user should know of how the coordinator tried to reach this worker.
fn judge(reply: &wire::AnnounceReply) -> Option<String> {
    let ours = unix_seconds(SystemTime::now());
    let apart = Duration::from_secs(ours.abs_diff(reply.unix_seconds));
    if apart > CLOCK_TOLERANCE {
        return Some(format!(
            "this machine's clock and the coordinator's are {} h apart; set the wrong one",
            apart.as_secs() / 3600
        ));
    }
    match reply.reached.iter().all(|tried| !tried.why_not.is_empty()) {
        true => reply.reached.first().map(|tried| {
            format!(
                "it cannot connect back to {} ({}); open the worker's port in this machine's firewall",
                tried.address, tried.why_not
            )
        }),
        false => None,
    }
}

/// Tells the coordinator where this worker is.
async fn announce(
    shared: &Shared,
    addresses: &[String],
) -> Result<wire::AnnounceReply, AnnounceError> {
    let mut client = coordinator(&shared.link, addresses).await?;
    let request = wire::AnnounceRequest {
        addresses: shared.place.addresses(),
        instance: shared.machine.instance.0.to_vec().into(),
    };
    Ok(in_time(client.announce(request)).await?)
}

/// Why the coordinator could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// No link.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It did not answer as it should.
    #[error("the coordinator answers: {0}")]
    Answer(#[from] StatusMessage),
}

/// The words of a status.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StatusMessage(String);

/// The cluster service of the coordinator, wherever it is.
async fn coordinator(
    link: &Link,
    addresses: &[String],
) -> Result<ClusterClient<tonic::transport::Channel>, ConnectError> {
    let target = Target {
        addresses: addresses.to_vec(),
        expect: Expect::Any(Role::Coordinator),
    };
    Ok(ClusterClient::new(link.connect(&target).await?.channel))
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, StatusMessage> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(StatusMessage(status.message().to_owned())),
        Err(_) => Err(StatusMessage("nothing, in time".into())),
    }
}

/// Renews the certificate when two thirds of its life are over, for ever.
pub(super) async fn renew(shared: Arc<Shared>) {
    let Shared { link, home, .. } = &*shared;
    loop {
        // Waking up every hour also notices a machine that has slept.
        let due = link.credential().renew_in(SystemTime::now());
        tokio::time::sleep(due.min(Duration::from_secs(3600))).await;
        if !link.credential().renew_in(SystemTime::now()).is_zero() {
            continue;
        }
        match renew_once(link, &home.coordinators()).await {
            Ok(()) => {
                tracing::info!("the certificate was renewed");
                home.keep(link, &home.coordinators());
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate could not be renewed yet");
                tokio::time::sleep(RENEW_RETRY).await;
            }
        }
    }
}

async fn renew_once(link: &Link, addresses: &[String]) -> Result<(), AnnounceError> {
    let wrong = |why: String| AnnounceError::Answer(StatusMessage(why));
    let public_key = (link.credential().public_key()).map_err(|err| wrong(err.to_string()))?;
    let mut client = coordinator(link, addresses).await?;
    let request = wire::RenewRequest {
        public_key: public_key.into(),
    };
    let reply = in_time(client.renew(request)).await?;
    let issued = issued_from_wire(reply.issued).ok_or_else(|| wrong("no certificate".into()))?;
    link.credential()
        .renew(&issued)
        .map_err(|err| wrong(err.to_string()))
}
