//! The worker process: measures the machine, listens, advertises itself, and serves one coordinator at a time.

mod control;
mod describe;
mod forward;
mod home;
mod loading;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use potluck_kernels::{Isa, IsaError, Kernels, Pool, ShapeError};
use potluck_link::mdns::{Advertisement, MdnsError};
use potluck_link::member_file::MemberFile;
use potluck_link::weights::WeightsService;
use potluck_link::{Interfaces, Link, grpc_server, link_listener};
use potluck_proto::advert::Advert;
use potluck_proto::wire::stage_server::StageServer;
use potluck_proto::wire::worker_server::WorkerServer;
use potluck_proto::{NodeId, limits};
use tokio::net::TcpListener;

use crate::compute;
use crate::load::WeightStorage;
use crate::probe;
use crate::weights::{CacheError, CacheTensors, WeightCache};
use home::Home;
use service::{Place, Service, Shared};

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name for people.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What it talks to others through.
    pub link: Link,
    /// Interfaces that lead to others.
    pub interfaces: Interfaces,
    /// Where the coordinator was last.
    pub coordinators: Vec<String>,
    /// Where the membership is kept, if it outlives the process.
    pub member_file: Option<MemberFile>,
    /// Directory of the weight cache.
    pub cache_dir: PathBuf,
    /// Threads of the kernels.
    pub n_threads: usize,
    /// Bytes that plans may use; free memory less a reserve if not given.
    pub memory_limit_bytes: Option<u64>,
    /// How weights are held.
    pub weights: WeightStorage,
    /// Find and be found by mDNS.
    pub use_mdns: bool,
}

/// A worker that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another worker using the port? Choose another with --listen, or port 0 for any"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The instruction set asked for does not exist here.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// The speed could not be measured.
    #[error("measuring this machine failed: {0}")]
    Probe(#[from] ShapeError),
    /// The weight cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// mDNS does not work.
    #[error(transparent)]
    Mdns(#[from] MdnsError),
    /// The server broke down.
    #[error("the worker's server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// A thread could not be started.
    #[error("the compute thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// A worker that listens and is advertised, but does not serve yet.
pub struct Node {
    listener: TcpListener,
    service: Service,
    /// Withdrawn when dropped.
    _advertisement: Option<Advertisement>,
    use_mdns: bool,
    shared: Arc<Shared>,
}

impl Node {
    /// Measures the machine, opens the cache, listens and advertises.
    pub async fn bind(config: NodeConfig) -> Result<Node, NodeError> {
        let kernels = Kernels::new(Isa::from_env()?)?;
        let (n_threads, weights) = (config.n_threads, config.weights);
        let measured = tokio::task::spawn_blocking(move || {
            probe::measure(kernels, &Pool::new(n_threads), weights)
        });
        let speed = match measured.await {
            Ok(speed) => speed?,
            Err(join_error) => std::panic::resume_unwind(join_error.into_panic()),
        };
        let cache = WeightCache::open(&config.cache_dir)?;
        let listen_error = |source| NodeError::Listen {
            address: config.listen,
            source,
        };
        let listener = link_listener(config.listen).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let compute = compute::spawn(kernels, config.n_threads).map_err(NodeError::Thread)?;
        let machine = describe::Machine::new(&config, kernels.isa(), speed);
        let own = config.link.id();
        let advert = Advert::new(own.cluster, own.node, machine.instance, false);
        let advertisement = match config.use_mdns {
            true => Some(Advertisement::publish(
                &config.interfaces,
                address,
                &advert,
            )?),
            false => None,
        };
        let home = Home::new(config.member_file, config.coordinators);
        let place = Place {
            listening: address,
            interfaces: config.interfaces,
        };
        let shared = Arc::new(Shared::new(
            (config.link, home),
            machine,
            place,
            cache,
            compute,
        ));
        Ok(Node {
            listener,
            service: Service::new(Arc::clone(&shared)),
            _advertisement: advertisement,
            use_mdns: config.use_mdns,
            shared,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Which node it is.
    pub fn id(&self) -> NodeId {
        self.shared.link.id().node
    }

    /// The speed that it measured.
    pub fn speed(&self) -> probe::Speed {
        self.shared.machine.speed
    }

    /// Bytes a plan may use now.
    pub fn memory_budget_bytes(&self) -> u64 {
        self.shared.memory_budget_bytes()
    }

    /// Serves until `shutdown` completes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Node {
            listener,
            service,
            _advertisement,
            use_mdns,
            shared,
        } = self;
        let worker =
            WorkerServer::new(service.clone()).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let stage = StageServer::new(service).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let weights = WeightsService::server(CacheTensors::new(shared.cache.clone()));
        let serving = grpc_server()
            .add_service(worker)
            .add_service(stage)
            .add_service(weights)
            .serve_with_incoming(shared.link.accept(listener));
        let belonging = async {
            tokio::join!(
                home::look(Arc::clone(&shared), use_mdns),
                home::renew(Arc::clone(&shared))
            )
        };
        // Streams of a ring never end by themselves, so the server is dropped rather than drained.
        tokio::select! {
            result = serving => result?,
            _ = belonging => {}
            () = shutdown => {}
        }
        shared.end_plan();
        Ok(())
    }
}
