//! A fetch from several nodes over real links, some of which do not do as they should.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use potluck_link::authority::{Authority, NODE_LIFETIME};
use potluck_link::credential::Credential;
use potluck_link::weights::{StoredBytes, TensorStore, WeightsService};
use potluck_link::{Expect, Link, Role, Target, grpc_server, link_listener};
use potluck_proto::{ContentHash, Manifest, ManifestTensor, NodeId};
use tempfile::TempDir;
use tonic::Status;

use super::cache::WeightCache;
use super::fetch::fetch_missing;
use super::outcome::{FetchError, Report};

/// Much longer than anything here takes, and shorter than the silence after which a source is given up.
const SOON: Duration = Duration::from_secs(15);

/// What a source does with the bytes that it is asked for.
#[derive(Clone)]
enum Manner {
    Honest,
    /// One bit of every frame is another.
    FlipsBits,
    /// Breaks off after so many bytes.
    StopsAfter(u64),
    /// Says nothing until the other end of this is dropped.
    Silent(Arc<Mutex<std::sync::mpsc::Receiver<()>>>),
}

/// The sources that were asked for bytes. Nobody gets any before all of them were.
#[derive(Default)]
struct Meeting {
    asked: Mutex<HashSet<usize>>,
    news: Condvar,
}

impl Meeting {
    fn wait(&self, source: usize, n_sources: usize) {
        let mut asked = self.asked.lock().unwrap();
        asked.insert(source);
        self.news.notify_all();
        let all = |asked: &mut HashSet<usize>| asked.len() < n_sources;
        let (_asked, waited) = self.news.wait_timeout_while(asked, SOON, all).unwrap();
        assert!(
            !waited.timed_out(),
            "some source was not asked for anything"
        );
    }
}

struct Store {
    tensors: HashMap<ContentHash, Arc<Vec<u8>>>,
    behaviour: Arc<Behaviour>,
}

struct Behaviour {
    number: usize,
    n_sources: usize,
    manner: Manner,
    meeting: Arc<Meeting>,
    served: AtomicU64,
}

struct Held(Arc<Vec<u8>>, Arc<Behaviour>);

impl TensorStore for Store {
    type Tensor = Held;

    fn has(&self, hash: &ContentHash) -> bool {
        self.tensors.contains_key(hash)
    }

    fn find(&self, hash: &ContentHash) -> Result<Option<Held>, Status> {
        let held = |bytes: &Arc<Vec<u8>>| Held(Arc::clone(bytes), Arc::clone(&self.behaviour));
        Ok(self.tensors.get(hash).map(held))
    }
}

impl StoredBytes for Held {
    fn n_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, Status> {
        let behaviour = &self.1;
        behaviour
            .meeting
            .wait(behaviour.number, behaviour.n_sources);
        let mut bytes = self.0[range.start as usize..range.end as usize].to_vec();
        let served = behaviour
            .served
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match &behaviour.manner {
            Manner::Honest => {}
            Manner::FlipsBits => bytes[range.start as usize % 7] ^= 4,
            Manner::StopsAfter(n_bytes) if served < *n_bytes => {}
            Manner::StopsAfter(_) => return Err(Status::unavailable("enough")),
            Manner::Silent(end) => drop(end.lock().unwrap().recv()),
        }
        Ok(bytes.into())
    }
}

/// A cluster with one machine that has no weights yet.
struct Home {
    authority: Authority,
    newcomer: Link,
    disk: TempDir,
    manifest: Manifest,
    tensors: Vec<Arc<Vec<u8>>>,
}

impl Home {
    /// With a large tensor and some that are smaller than a piece, or empty.
    fn new() -> Home {
        let (authority, _) = Authority::create().unwrap();
        let newcomer = node(&authority);
        let sizes = [24 << 20, 5, 100_000, 0, 3 << 20];
        let bytes = |(i, n): (usize, &usize)| -> Vec<u8> {
            (0..*n).map(|at| ((at * 7 + i) >> (at % 5)) as u8).collect()
        };
        let tensors: Vec<_> = sizes.iter().enumerate().map(bytes).map(Arc::new).collect();
        let tensor = |(i, bytes): (usize, &Arc<Vec<u8>>)| ManifestTensor {
            name: format!("tensor-{i}"),
            type_id: 0,
            dims: vec![bytes.len() as u64],
            n_bytes: bytes.len() as u64,
            hash: hash_of(bytes),
        };
        let manifest = Manifest {
            name: "model".into(),
            model_hash: ContentHash([0; 32]),
            metadata: Vec::new(),
            tensors: tensors.iter().enumerate().map(tensor).collect(),
        };
        Home {
            authority,
            newcomer,
            disk: tempfile::tempdir().unwrap(),
            manifest,
            tensors,
        }
    }

    fn cache(&self) -> WeightCache {
        WeightCache::open(self.disk.path()).unwrap()
    }

    /// Nodes that have all tensors, and serve them in these manners.
    fn sources<const N: usize>(&self, manners: [Manner; N]) -> [Target; N] {
        let (meeting, mut number) = (Arc::new(Meeting::default()), 0);
        manners.map(|manner| {
            number += 1;
            let behaviour = Behaviour {
                number,
                n_sources: N,
                manner,
                meeting: Arc::clone(&meeting),
                served: AtomicU64::new(0),
            };
            self.source(behaviour)
        })
    }

    fn source(&self, behaviour: Behaviour) -> Target {
        let link = node(&self.authority);
        link.admit([self.newcomer.id().node]);
        let listener = link_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let tensors = self
            .tensors
            .iter()
            .map(|bytes| (hash_of(bytes), Arc::clone(bytes)));
        let service = WeightsService::server(Store {
            tensors: tensors.collect(),
            behaviour: Arc::new(behaviour),
        });
        let serving = grpc_server().add_service(service);
        tokio::spawn(serving.serve_with_incoming(link.accept(listener)));
        Target::node(link.id(), [address])
    }

    /// Fetches from these sources, which the coordinator has told the newcomer of.
    async fn fetch(&self, sources: &[Target]) -> (Report, Result<(), FetchError>) {
        let node = |source: &Target| match source.expect {
            Expect::Node(peer) => Some(peer.node),
            Expect::Any(_) => None,
        };
        self.newcomer.admit(sources.iter().filter_map(node));
        let (mut report, progress) = (Report::default(), AtomicU64::new(0));
        let cache = self.cache();
        let fetch = fetch_missing(
            &self.newcomer,
            &cache,
            &self.manifest,
            sources,
            &progress,
            &mut report,
        );
        let result = tokio::time::timeout(SOON, fetch).await;
        let result = result.expect("the fetch hangs");
        assert_eq!(progress.load(Ordering::Relaxed), report.fetched_bytes());
        (report, result)
    }

    /// Every tensor is in the cache, and right.
    fn has_everything(&self) {
        for (tensor, bytes) in self.manifest.tensors.iter().zip(&self.tensors) {
            let cached = self.cache().read(&tensor.hash, tensor.n_bytes).unwrap();
            assert!(cached == **bytes, "{}", tensor.name);
        }
    }
}

fn node(authority: &Authority) -> Link {
    Link::new(Credential::issued_by(authority, Role::Worker, NODE_LIFETIME).unwrap()).unwrap()
}

fn hash_of(bytes: &[u8]) -> ContentHash {
    ContentHash(*blake3::hash(bytes).as_bytes())
}

fn id(target: &Target) -> NodeId {
    match target.expect {
        potluck_link::Expect::Node(peer) => peer.node,
        potluck_link::Expect::Any(_) => panic!("a node"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_source_sends_a_part() {
    let home = Home::new();
    let sources = home.sources([Manner::Honest, Manner::Honest, Manner::Honest]);
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    assert_eq!(report.fetched_bytes(), home.manifest.n_bytes());
    assert_eq!((report.cached_bytes, report.damaged.len()), (0, 0));
    for source in &sources {
        assert!(report.sent[&id(source)] > 0, "{report:?}");
    }

    let (report, result) = home.fetch(&[]).await;
    result.unwrap();
    assert_eq!(report.fetched_bytes(), 0);
    assert_eq!(report.cached_bytes, home.manifest.n_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sends_wrong_bytes_is_found_out_and_not_believed() {
    let home = Home::new();
    let sources = home.sources([Manner::Honest, Manner::FlipsBits, Manner::Honest]);
    let liar = id(&sources[1]);
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    assert!(!report.damaged.is_empty());
    for damage in &report.damaged {
        assert_eq!(damage.source, liar, "{report:?}");
        assert!(damage.tensor.starts_with("tensor-"), "{report:?}");
    }

    // A liar is not asked again in the same load.
    std::fs::remove_dir_all(home.disk.path()).unwrap();
    let (cache, mut report) = (home.cache(), report);
    let only_the_liar = &sources[1..2];
    let progress = AtomicU64::new(0);
    let again = fetch_missing(
        &home.newcomer,
        &cache,
        &home.manifest,
        only_the_liar,
        &progress,
        &mut report,
    );
    let error = again.await.unwrap_err();
    assert!(!matches!(error, FetchError::Broken { .. }), "{error}");
    assert_eq!(progress.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_sources_are_wrong_the_tensor_is_named() {
    let home = Home::new();
    let sources = home.sources([Manner::FlipsBits, Manner::FlipsBits]);
    let (report, result) = home.fetch(&sources).await;
    let error = result.unwrap_err();
    assert!(matches!(error, FetchError::WrongBytes { .. }), "{error}");
    assert!(error.to_string().contains("tensor-"), "{error}");
    let liars: HashSet<_> = report.damaged.iter().map(|damage| damage.source).collect();
    assert_eq!(liars.len(), 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_off_is_replaced() {
    let home = Home::new();
    let sources = home.sources([Manner::StopsAfter(5 << 20), Manner::Honest]);
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    assert_eq!(report.fetched_bytes(), home.manifest.n_bytes());
    assert!(report.damaged.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_source_holds_nobody_up() {
    let home = Home::new();
    let (_end, silence) = std::sync::mpsc::channel();
    let silent = Manner::Silent(Arc::new(Mutex::new(silence)));
    let sources = home.sources([silent, Manner::Honest]);
    let start = Instant::now();
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    assert!(start.elapsed() < SOON);
    let sent = HashMap::from([(id(&sources[1]), home.manifest.n_bytes())]);
    assert_eq!(report.sent.into_iter().collect::<HashMap<_, _>>(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_fetch_goes_on_where_it_stopped() {
    let home = Home::new();
    let (before, result) = {
        let sources = home.sources([Manner::StopsAfter(13 << 20)]);
        home.fetch(&sources).await
    };
    let error = result.unwrap_err();
    assert!(matches!(error, FetchError::Broken { .. }), "{error}");
    assert!(before.fetched_bytes() > 0);

    let sources = home.sources([Manner::Honest]);
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    let all = home.manifest.n_bytes();
    assert!(report.fetched_bytes() < all, "{before:?} {report:?}");
    assert_eq!(report.fetched_bytes() + report.cached_bytes, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_on_the_disk_is_nobodys_lie() {
    let home = Home::new();
    let large = &home.manifest.tensors[0];
    let mut part = home
        .cache()
        .begin(&large.hash, large.n_bytes)
        .unwrap()
        .unwrap();
    part.append(&[1; 1000]).unwrap();
    drop(part);
    let sources = home.sources([Manner::Honest, Manner::Honest]);
    let (report, result) = home.fetch(&sources).await;
    result.unwrap();
    home.has_everything();
    assert!(report.damaged.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_reached_is_left_out() {
    let home = Home::new();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Target::node(node(&home.authority).id(), [address])
    };
    let (_, result) = home.fetch(std::slice::from_ref(&nobody)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, FetchError::NoSource { .. }), "{error}");

    let [source] = home.sources([Manner::Honest]);
    let (report, result) = home.fetch(&[nobody, source]).await;
    result.unwrap();
    home.has_everything();
    assert_eq!(report.fetched_bytes(), home.manifest.n_bytes());
}
