//! What a worker does with a peer that breaks the rules: every case is refused or contained, and the process goes on.
//!
//! The peer here is written against the generated messages, so it can say what the coordinator never would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use potluck_coordinator::store::{Model, ModelTensors};
use potluck_link::dial::peer_to_wire;
use potluck_link::weights::WeightsService;
use potluck_link::{Link, Target, grpc_server, link_listener};
use potluck_proto::wire::stage_client::StageClient;
use potluck_proto::wire::weights_client::WeightsClient;
use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::{PROTOCOL, limits, wire};
use potluck_tests::cluster::Cluster;
use potluck_tests::models;
use potluck_tests::process::{PATIENCE, Running};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A worker process and a peer's connection to it.
struct Bench {
    worker: Running,
    address: SocketAddr,
    control: WorkerClient<Channel>,
    data: StageClient<Channel>,
    cached: WeightsClient<Channel>,
    /// A real weights server.
    weights: wire::Peer,
    model: Arc<Model>,
    _cluster: Cluster,
    link: Link,
}

impl Bench {
    async fn new() -> Bench {
        let cluster = Cluster::default();
        let worker = cluster.worker("ann", &["--no-mdns"]);
        let members = cluster.own().admit_members(None).unwrap();
        let link = cluster.own().link.clone();
        let target = Target::node(cluster.node(members[0].node), [&worker.address]);
        let channel = link.connect(&target).await.unwrap().channel;
        let path = models::model("smollm2-135m-instruct-q4_1");
        let model = Arc::new(Model::open(&path, &models::cache(), |_| {}).unwrap());
        Bench {
            address: worker.address.parse().unwrap(),
            worker: worker.process,
            control: WorkerClient::new(channel.clone()),
            data: StageClient::new(channel.clone()),
            cached: WeightsClient::new(channel),
            weights: serve_weights(&link, Arc::clone(&model)),
            model,
            _cluster: cluster,
            link,
        }
    }

    /// A load of the last two layers that a worker should accept.
    fn good_load(&self, epoch: u64, plan_gen: u64) -> wire::LoadRequest {
        let n_layers = self.model.shape().n_layers;
        wire::LoadRequest {
            fence: Some(self.fence(epoch, plan_gen)),
            manifest: Some(
                self.model
                    .manifest_for(n_layers - 2..n_layers)
                    .unwrap()
                    .to_wire(),
            ),
            layer_from: n_layers - 2,
            layer_to: n_layers,
            context_tokens: 64,
            max_sequences: 2,
            max_step_tokens: 16,
            next: None,
            previous: Some(peer_to_wire(self.link.id(), &[])),
            sources: vec![self.weights.clone()],
            kv_cache_type: 0,
        }
    }

    fn fence(&self, epoch: u64, plan_gen: u64) -> wire::Fence {
        wire::Fence {
            cluster_id: self.link.id().cluster.0.to_vec().into(),
            epoch,
            plan_gen,
        }
    }

    async fn load(&mut self, request: wire::LoadRequest) -> Result<wire::Ready, Status> {
        let mut progress = self.control.load(request).await?.into_inner();
        while let Some(message) = progress.message().await? {
            if let Some(wire::load_progress::Stage::Ready(ready)) = message.stage {
                return Ok(ready);
            }
        }
        Err(Status::aborted("the load ended without a word"))
    }

    /// Sends frames as one stream and waits for the worker to close it.
    async fn send(&mut self, frames: Vec<wire::StepFrame>) -> Result<(), Status> {
        self.data
            .steps(tokio_stream::iter(frames))
            .await
            .map(|_| ())
    }

    async fn describe(&mut self) -> wire::NodeInfo {
        let request = wire::DescribeRequest { protocol: PROTOCOL };
        self.control
            .describe(request)
            .await
            .expect("the worker lives")
            .into_inner()
    }
}

fn serve_weights(link: &Link, model: Arc<Model>) -> wire::Peer {
    let listener = link_listener(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = WeightsService::server(ModelTensors::new([model]));
    tokio::spawn(
        grpc_server()
            .add_service(service)
            .serve_with_incoming(link.accept(listener)),
    );
    peer_to_wire(link.id(), &[address])
}

/// One token of a sequence, into a stage in the middle.
fn frame(fence: wire::Fence, pos: u32, payload: Vec<u8>) -> wire::StepFrame {
    let run = wire::Run {
        seq: 1,
        pos,
        tokens: 1u32.to_le_bytes().to_vec().into(),
        rollback: false,
        sampling: Some(wire::Sampling {
            top_p: 1.0,
            repeat_penalty: 1.0,
            ..Default::default()
        }),
    };
    wire::StepFrame {
        fence: Some(fence),
        step_id: 0,
        part: 0,
        n_parts: 1,
        header: Some(wire::StepHeader {
            runs: vec![run],
            release: vec![],
            stage_us: vec![],
        }),
        payload: payload.into(),
    }
}

fn hidden(value: f32, n: usize) -> Vec<u8> {
    value.to_le_bytes().repeat(n)
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_that_make_no_sense_are_refused_with_a_reason() {
    let mut bench = Bench::new().await;
    type Damage = fn(&mut wire::LoadRequest);
    let cases: [(&str, Damage, &str); 13] = [
        ("no fence", |r| r.fence = None, "fence"),
        (
            "a short cluster id",
            |r| r.fence.as_mut().unwrap().cluster_id = vec![1; 3].into(),
            "cluster_id",
        ),
        ("no manifest", |r| r.manifest = None, "manifest"),
        ("layers beyond the model", |r| r.layer_to += 1, "layers"),
        ("no layers", |r| r.layer_from = r.layer_to, "layers"),
        ("no next stage in the middle", |r| r.layer_to -= 1, "next"),
        (
            "no room for a token",
            |r| r.context_tokens = 0,
            "context_tokens",
        ),
        (
            "steps of any length",
            |r| r.max_step_tokens = u32::MAX,
            "max_step_tokens",
        ),
        (
            "a source that is no node",
            |r| r.sources[0].node_id = vec![1; 3].into(),
            "node_id",
        ),
        (
            "a source that is no address",
            |r| r.sources[0].addresses = vec!["nowhere".into()],
            "nowhere",
        ),
        ("nobody who sends steps", |r| r.previous = None, "previous"),
        (
            "a tensor too few",
            |r| drop(r.manifest.as_mut().unwrap().tensors.pop()),
            "no tensor",
        ),
        (
            "a hash of another length",
            |r| r.manifest.as_mut().unwrap().tensors[0].hash = vec![0; 5].into(),
            "hash",
        ),
    ];
    for (what, damage, wanted) in cases {
        let mut request = bench.good_load(1, 1);
        damage(&mut request);
        let refusal = bench.load(request).await.expect_err(what);
        assert!(refusal.message().contains(wanted), "{what}: {refusal}");
    }
    let mut request = bench.good_load(1, 1);
    request.manifest.as_mut().unwrap().tensors[0].hash = vec![7; 32].into();
    let refusal = bench
        .load(request)
        .await
        .expect_err("a tensor that nobody has");
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal}");

    let ready = bench
        .load(bench.good_load(1, 1))
        .await
        .expect("a good load after all that");
    assert!(ready.fetched_bytes > 0);
    let before = wire::DescribeRequest {
        protocol: PROTOCOL - 1,
    };
    let described = bench.control.describe(before).await;
    described.expect("the version before this one is spoken to");
    let other_version = bench
        .control
        .describe(wire::DescribeRequest { protocol: 99 })
        .await
        .unwrap_err();
    assert!(
        other_version.message().contains("99")
            && other_version.message().contains(&PROTOCOL.to_string())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_or_foreign_does_no_harm() {
    let mut bench = Bench::new().await;
    bench
        .load(bench.good_load(2, 5))
        .await
        .expect("a first plan");
    for (epoch, plan_gen) in [(2, 4), (1, 9)] {
        let refusal = bench
            .load(bench.good_load(epoch, plan_gen))
            .await
            .unwrap_err();
        assert!(refusal.message().contains("older"), "{refusal}");
    }
    let d_model = bench.model.shape().d_model as usize;
    let stale = bench
        .send(vec![frame(bench.fence(2, 4), 0, hidden(0.1, d_model))])
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition, "{stale}");

    // A plan of another cluster is refused, whoever brings it.
    let (_pings, requests) = {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender
            .send(wire::ControlRequest {
                fence: Some(bench.fence(2, 5)),
                ping: 1,
                members: None,
            })
            .await
            .unwrap();
        (sender, receiver)
    };
    let mut session = bench
        .control
        .control(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    assert!(session.message().await.unwrap().is_some(), "the first pong");
    let mut foreign = bench.good_load(3, 1);
    foreign.fence.as_mut().unwrap().cluster_id = vec![9; 16].into();
    let refusal = bench.load(foreign).await.unwrap_err();
    assert!(
        refusal.message().contains("belongs to cluster"),
        "{refusal}"
    );
    assert!(
        bench.describe().await.serving.is_some(),
        "the plan in force goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules_end_their_stream_and_nothing_else() {
    let mut bench = Bench::new().await;
    let current = bench.fence(1, 1);
    let now = || current.clone();
    bench.load(bench.good_load(1, 1)).await.expect("a plan");
    let d_model = bench.model.shape().d_model as usize;
    let good = || frame(now(), 0, hidden(0.1, d_model));
    let with = |damage: fn(&mut wire::StepFrame)| {
        let mut frame = good();
        damage(&mut frame);
        frame
    };
    let cases = [
        ("no fence", with(|f| f.fence = None)),
        ("no header", with(|f| f.header = None)),
        ("a second part without a first", with(|f| f.part = 1)),
        (
            "payload of another width",
            frame(now(), 0, hidden(0.1, d_model + 1)),
        ),
        ("no payload", frame(now(), 0, Vec::new())),
        (
            "more than a frame holds",
            frame(now(), 0, vec![0; limits::MAX_FRAME_BYTES + 4]),
        ),
        ("a million parts", with(|f| f.n_parts = 1_000_000)),
        (
            "tokens that are no ids",
            with(|f| f.header.as_mut().unwrap().runs[0].tokens = vec![1, 2, 3].into()),
        ),
        (
            "no tokens",
            with(|f| f.header.as_mut().unwrap().runs[0].tokens.clear()),
        ),
        (
            "a position beyond all",
            with(|f| f.header.as_mut().unwrap().runs[0].pos = u32::MAX),
        ),
        (
            "a temperature that is none",
            with(|f| {
                f.header.as_mut().unwrap().runs[0]
                    .sampling
                    .as_mut()
                    .unwrap()
                    .temperature = f32::NAN;
            }),
        ),
        (
            "one sequence twice",
            with(|f| {
                let header = f.header.as_mut().unwrap();
                header.runs.push(header.runs[0].clone());
            }),
        ),
    ];
    for (what, frame) in cases {
        let refusal = bench.send(vec![frame]).await.expect_err(what);
        let expected = [
            Code::InvalidArgument,
            Code::OutOfRange,
            Code::FailedPrecondition,
            Code::ResourceExhausted,
        ];
        assert!(expected.contains(&refusal.code()), "{what}: {refusal}");
    }

    // Faults of a run are told, and the next run is computed.
    let request = wire::ResultsRequest { fence: Some(now()) };
    let mut results = bench
        .data
        .clone()
        .results(request)
        .await
        .unwrap()
        .into_inner();
    let taken = bench
        .data
        .clone()
        .results(wire::ResultsRequest { fence: Some(now()) })
        .await
        .unwrap_err();
    assert_eq!(taken.code(), Code::FailedPrecondition, "{taken}");
    let gap = frame(now(), 7, hidden(0.1, d_model));
    let nan = frame(now(), 0, hidden(f32::NAN, d_model));
    bench.send(vec![gap, nan, good()]).await.unwrap();
    let mut answered = Vec::new();
    for _ in 0..3 {
        let result = tokio::time::timeout(PATIENCE, results.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        answered.push(result.runs.first().and_then(|run| run.token).is_some());
    }
    assert_eq!(answered, [false, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_hands_on_what_it_has_and_nothing_else() {
    let mut bench = Bench::new().await;
    let load = bench.good_load(1, 1);
    let tensors = load.manifest.clone().unwrap().tensors;
    let ready = bench.load(load).await.expect("a plan");
    let sent: Vec<_> = ready.sent.iter().map(|sent| sent.n_bytes).collect();
    assert_eq!(sent, [ready.fetched_bytes], "all from the one source");

    let unknown = vec![7; 32];
    let mut hashes: Vec<_> = tensors.iter().map(|tensor| tensor.hash.clone()).collect();
    hashes.push(unknown.clone().into());
    let reply = bench.cached.have(wire::HaveRequest { hashes }).await;
    let bitmap = reply.unwrap().into_inner().bitmap;
    let n_there: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!(n_there as usize, tensors.len());

    let fetch = |hash: &[u8], offset, n_bytes| wire::FetchRequest {
        hash: hash.to_vec().into(),
        offset,
        n_bytes,
    };
    let tensor = tensors.iter().max_by_key(|tensor| tensor.n_bytes).unwrap();
    let part = fetch(&tensor.hash, 1000, limits::MAX_FRAME_BYTES as u64 + 1);
    let mut chunks = bench.cached.fetch(part).await.unwrap().into_inner();
    let mut n_bytes = 0;
    while let Some(chunk) = chunks.message().await.unwrap() {
        assert!(chunk.data.len() <= limits::MAX_FRAME_BYTES);
        n_bytes += chunk.data.len();
    }
    assert_eq!(n_bytes, limits::MAX_FRAME_BYTES + 1);
    let refusals = [
        (fetch(&unknown, 0, 0), Code::NotFound),
        (fetch(&[1, 2], 0, 0), Code::InvalidArgument),
        (fetch(&tensor.hash, u64::MAX, 1), Code::OutOfRange),
        (fetch(&tensor.hash, 1, u64::MAX), Code::OutOfRange),
    ];
    for (request, code) in refusals {
        let status = bench.cached.fetch(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
    }
    let too_many = wire::HaveRequest {
        hashes: vec![tensor.hash.clone(); limits::MAX_TENSORS + 1],
    };
    let status = bench.cached.have(too_many).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    bench.describe().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_computed_is_reported_to_the_coordinator() {
    let mut bench = Bench::new().await;
    for fence in [None, Some(wire::Fence::default())] {
        let first = wire::ControlRequest {
            fence,
            ping: 1,
            members: None,
        };
        let refusal = bench.control.control(tokio_stream::iter([first])).await;
        let refusal = refusal.expect_err("a session of no plan");
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    }
    bench.load(bench.good_load(1, 1)).await.expect("a plan");
    let (pings, requests) = tokio::sync::mpsc::channel(1);
    let first = wire::ControlRequest {
        fence: Some(bench.fence(1, 1)),
        ping: 1,
        members: Some(wire::Members {
            node_ids: vec![vec![].into(), vec![1; 15].into(), vec![0; 1 << 20].into()],
            coordinator_addresses: vec!["nowhere".into(); 1000],
        }),
    };
    pings.send(first).await.unwrap();
    let requests = ReceiverStream::new(requests);
    let mut events = bench.control.control(requests).await.unwrap().into_inner();
    let d_model = bench.model.shape().d_model as usize;
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let frame = frame(bench.fence(1, 1), 0, hidden(value, d_model));
        bench.send(vec![frame]).await.expect("a stream");
        let fault = loop {
            let event = tokio::time::timeout(PATIENCE, events.message()).await;
            let event = event
                .expect("an event in time")
                .unwrap()
                .expect("a session");
            if let Some(wire::control_event::Event::RunFault(fault)) = event.event {
                break fault;
            }
        };
        assert_eq!(fault.fault(), wire::Fault::NotFinite, "{fault:?}");
        assert_eq!(fault.seq, 1, "{fault:?}");
    }
    bench.describe().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_protocol_disturb_nobody() {
    let mut bench = Bench::new().await;
    let silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(bench.address).unwrap())
        .collect();
    let mut seed = 1u64;
    for length in [1usize, 9, 100, 70_000] {
        let mut stream = TcpStream::connect(bench.address).unwrap();
        let garbage: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(length)
        .collect();
        // The worker may hang up at any byte.
        let _ = stream.write_all(&garbage);
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let _ = stream.read(&mut [0; 64]);
    }
    bench
        .load(bench.good_load(1, 1))
        .await
        .expect("the worker lives and loads");
    bench.describe().await;
    drop(silent);
    assert!(bench.worker.children().is_empty());
    // A port that was in use is free again when the worker is gone.
    let address = bench.address;
    bench.worker.kill();
    drop(TcpListener::bind(address).expect("the port is free"));
}
