//! Members of a cluster that mean harm: a worker with a certificate, a place on the list and a link to everybody; and whoever has
//! got hold of the coordinator's own credential and brings old plans.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use potluck_link::credential::NodeKey;
use potluck_link::{Link, Role, Target, grpc_server, link_listener};
use potluck_proto::wire::cluster_client::ClusterClient;
use potluck_proto::wire::stage_client::StageClient;
use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::wire::worker_server::{Worker, WorkerServer};
use potluck_proto::{InstanceId, PROTOCOL, wire};
use potluck_tests::attacks;
use potluck_tests::cluster::Cluster;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::siege::Siege;
use potluck_tests::transcript::Stream;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

/// How long a hostile member waits until it has been heard.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_cluster_withstands_members_that_mean_harm() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        steps_are_taken_from_the_stage_before_only,
        plans_of_the_past_are_refused,
        results_are_not_given_twice,
        a_certificate_is_renewed_for_its_own_key_only,
        an_announcement_of_nonsense_is_answered_with_reasons,
        announcements_at_once_are_tried_one_at_a_time,
        announcements_of_a_hundred_processes_hide_nobody,
        three_hundred_requests_at_once_are_all_answered,
        messages_beyond_the_limit_are_refused,
        machines_that_cannot_exist_are_not_used,
        a_wild_name_is_shown_tame,
    ]);
}

/// A member that the test plays.
fn member(cluster: &Cluster, name: &str) -> Link {
    let credential = cluster.own().local_worker().expect("a credential");
    let members = cluster.own().members();
    members.add(credential.id().node, name).expect("a place");
    Link::new(credential).expect("a link")
}

fn leave(siege: &Siege, name: &str) {
    siege
        .cluster
        .own()
        .members()
        .remove(name)
        .expect("it is there");
}

/// A link to a node, once that has heard that the member belongs to the cluster.
async fn channel(cluster: &Cluster, link: &Link, role: Role, to: impl ToString) -> Channel {
    let members = cluster.own().members().list().expect("members");
    link.admit(members.iter().map(|member| member.node));
    let (deadline, target) = (Instant::now() + HEARD_WITHIN, Target::any(role, to));
    loop {
        match link.connect(&target).await {
            Ok(connected) => return connected.channel,
            Err(why) if Instant::now() > deadline => panic!("{why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn desk(cluster: &Cluster, link: &Link) -> ClusterClient<Channel> {
    let place = cluster.own().place().expect("a place");
    ClusterClient::new(channel(cluster, link, Role::Coordinator, &place[0]).await)
}

/// The plan in force, as a worker says it to whoever has the coordinator's credential.
async fn plan_at(siege: &Siege, worker: &str) -> (Channel, wire::Fence) {
    let own = &siege.cluster.own().link;
    let channel = channel(&siege.cluster, own, Role::Worker, worker).await;
    let ask = wire::DescribeRequest { protocol: PROTOCOL };
    let info = WorkerClient::new(channel.clone()).describe(ask).await;
    let serving = info.expect("a description").into_inner().serving;
    (channel, serving.expect("a plan"))
}

fn frame(fence: wire::Fence) -> wire::StepFrame {
    wire::StepFrame {
        fence: Some(fence),
        step_id: 1,
        part: 0,
        n_parts: 1,
        header: Some(wire::StepHeader::default()),
        payload: Default::default(),
    }
}

fn steps_are_taken_from_the_stage_before_only(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        for victim in [&siege.ann.address, &siege.bob.address] {
            let (_, fence) = plan_at(siege, victim).await;
            let channel = channel(&siege.cluster, &mallory, Role::Worker, victim).await;
            let steps = tokio_stream::iter([frame(fence)]);
            let refusal = StageClient::new(channel).steps(steps).await.unwrap_err();
            assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
            assert!(refusal.message().contains("come from"), "{refusal}");
        }
        // The coordinator itself sends steps to the first stage, and to no other.
        let status = siege.coordinator.http.status();
        let second = match status["stages"][1]["worker"].as_str() {
            Some("ann") => &siege.ann.address,
            _ => &siege.bob.address,
        };
        let (channel, fence) = plan_at(siege, second).await;
        let steps = tokio_stream::iter([frame(fence)]);
        let refusal = StageClient::new(channel).steps(steps).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    });
    leave(siege, "mallory");
}

fn plans_of_the_past_are_refused(siege: &Siege) {
    siege.runtime.block_on(async {
        for victim in [&siege.ann.address, &siege.bob.address] {
            let (channel, now) = plan_at(siege, victim).await;
            let older = [
                wire::Fence {
                    epoch: now.epoch - 1,
                    plan_gen: u64::MAX,
                    ..now.clone()
                },
                wire::Fence {
                    plan_gen: now.plan_gen - 1,
                    ..now.clone()
                },
                wire::Fence {
                    cluster_id: vec![9; 16].into(),
                    epoch: u64::MAX,
                    plan_gen: 1,
                },
            ];
            for fence in older {
                let steps = tokio_stream::iter([frame(fence.clone())]);
                let refusal = StageClient::new(channel.clone())
                    .steps(steps)
                    .await
                    .unwrap_err();
                assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
                let ping = wire::ControlRequest {
                    fence: Some(fence),
                    ping: 1,
                    members: Some(wire::Members::default()),
                };
                let mut worker = WorkerClient::new(channel.clone());
                let session = worker.control(tokio_stream::iter([ping])).await;
                let refusal = session.unwrap_err();
                let words = ["older", "belongs to cluster"];
                assert!(
                    words.iter().any(|word| refusal.message().contains(word)),
                    "{refusal}"
                );
            }
        }
    });
}

fn results_are_not_given_twice(siege: &Siege) {
    siege.runtime.block_on(async {
        for victim in [&siege.ann.address, &siege.bob.address] {
            let (channel, fence) = plan_at(siege, victim).await;
            let again = wire::ResultsRequest { fence: Some(fence) };
            let refusal = StageClient::new(channel).results(again).await.unwrap_err();
            assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
        }
    });
}

fn a_certificate_is_renewed_for_its_own_key_only(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        let mut desk = desk(&siege.cluster, &mallory).await;
        let another = NodeKey::generate().expect("a key");
        let coordinators = siege.cluster.own().link.credential().public_key();
        for key in [
            another.public_key().to_vec(),
            coordinators.expect("a key"),
            vec![],
            vec![4; 1 << 20],
        ] {
            let request = wire::RenewRequest {
                public_key: key.into(),
            };
            let refusal = desk.renew(request).await.unwrap_err();
            assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
        }
        let own = mallory.credential().public_key().expect("a key");
        desk.renew(wire::RenewRequest {
            public_key: own.into(),
        })
        .await
        .expect("its own");
    });
    leave(siege, "mallory");
}

fn announcement(addresses: Vec<String>) -> wire::AnnounceRequest {
    wire::AnnounceRequest {
        addresses,
        instance: InstanceId::random().0.to_vec().into(),
    }
}

fn an_announcement_of_nonsense_is_answered_with_reasons(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        let mut desk = desk(&siege.cluster, &mallory).await;
        let nonsense = [
            "",
            "nowhere",
            "\u{1b}[2J:1",
            "a b:1",
            "127.0.0.1:0",
            "127.0.0.1:99999",
        ];
        let mut addresses: Vec<_> = nonsense.map(String::from).to_vec();
        addresses.push("x".repeat(100_000));
        // What answers there is the coordinator and a worker, not the one that announces itself.
        addresses.push(siege.coordinator_address().to_string());
        addresses.push(siege.ann.address.clone());
        addresses.extend((1..10_000).map(|port| format!("127.66.1.1:{port}")));
        let reply = desk
            .announce(announcement(addresses))
            .await
            .expect("an answer")
            .into_inner();
        assert!(reply.reached.len() <= 8, "{}", reply.reached.len());
        assert!(
            reply.reached.iter().all(|tried| !tried.why_not.is_empty()),
            "{reply:?}"
        );
        for instance in [vec![], vec![1; 15], vec![1; 1000]] {
            let request = wire::AnnounceRequest {
                instance: instance.into(),
                ..announcement(vec![])
            };
            let refusal = desk.announce(request).await.unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        }
    });
    leave(siege, "mallory");
}

/// An address where calls are taken and nothing is said, and how many calls there were.
async fn silent_place() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let (address, calls) = (listener.local_addr().expect("an address"), Arc::default());
    let counted: Arc<AtomicUsize> = Arc::clone(&calls);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            held.push(socket);
        }
    });
    (address, calls)
}

fn announcements_at_once_are_tried_one_at_a_time(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        let (address, calls) = silent_place().await;
        let desk = desk(&siege.cluster, &mallory).await;
        let mut asking = JoinSet::new();
        for _ in 0..200 {
            let (mut desk, request) = (desk.clone(), announcement(vec![address.to_string(); 8]));
            asking.spawn(async move { desk.announce(request).await });
        }
        let answers = asking.join_all().await;
        let exhausted = |answer: &&Result<_, Status>| {
            answer
                .as_ref()
                .is_err_and(|status| status.code() == Code::ResourceExhausted)
        };
        let others: Vec<_> = answers.iter().filter(|a| !exhausted(a)).collect();
        assert_eq!(others.len(), 1, "{others:?}");
        // Eight by the desk, and then those who follow up what was announced.
        let n_calls = calls.load(Ordering::Relaxed);
        assert!(
            n_calls <= 64,
            "{n_calls} connections for 200 requests of one worker"
        );
    });
    leave(siege, "mallory");
}

fn announcements_of_a_hundred_processes_hide_nobody(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    let since = siege.coordinator.now();
    siege.runtime.block_on(async {
        let mut desk = desk(&siege.cluster, &mallory).await;
        for port in 1..=100 {
            let refused_there = announcement(vec![format!("127.66.1.2:{port}")]);
            desk.announce(refused_there).await.expect("an answer");
        }
    });
    let _dora = siege.cluster.worker("dora", &[]);
    let is_dora = |line: &str| line.contains("\"dora\"").then_some(());
    siege
        .coordinator
        .process
        .line("that dora was found", since, HEARD_WITHIN, is_dora);
    leave(siege, "mallory");
}

fn three_hundred_requests_at_once_are_all_answered(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        let desk = desk(&siege.cluster, &mallory).await;
        let at_worker = channel(&siege.cluster, &mallory, Role::Worker, &siege.ann.address).await;
        let mut asking = JoinSet::new();
        for _ in 0..300 {
            let (mut desk, mut worker) = (desk.clone(), WorkerClient::new(at_worker.clone()));
            asking
                .spawn(async move { desk.announce(wire::AnnounceRequest::default()).await.err() });
            let ask = wire::DescribeRequest { protocol: PROTOCOL };
            asking.spawn(async move { worker.describe(ask).await.err() });
        }
        let answers = tokio::time::timeout(HEARD_WITHIN, asking.join_all()).await;
        for status in answers.expect("all are answered") {
            let code = status.expect("a refusal").code();
            assert!(
                [Code::InvalidArgument, Code::PermissionDenied].contains(&code),
                "{code}"
            );
        }
    });
    leave(siege, "mallory");
}

fn messages_beyond_the_limit_are_refused(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    siege.runtime.block_on(async {
        let mut desk = desk(&siege.cluster, &mallory).await;
        let huge = announcement(vec!["x".repeat(17 << 20)]);
        let refusal = desk.announce(huge).await.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange, "{refusal}");
        // To a worker, with the credential of the coordinator.
        let (channel, _) = plan_at(siege, &siege.bob.address).await;
        let huge = wire::RefuseRequest {
            why: "x".repeat(17 << 20),
        };
        let refusal = WorkerClient::new(channel).refuse(huge).await.unwrap_err();
        assert_eq!(refusal.code(), Code::OutOfRange, "{refusal}");
    });
    leave(siege, "mallory");
}

/// A worker that says of itself whatever the test wants.
#[derive(Clone)]
struct Liar(Arc<Lies>);

struct Lies {
    info: Mutex<wire::NodeInfo>,
    /// Descriptions that it gives before it falls silent.
    descriptions: AtomicUsize,
    /// What the coordinator told it.
    refusals: Mutex<String>,
}

/// What an honest machine would say.
fn honest() -> wire::NodeInfo {
    wire::NodeInfo {
        protocol: PROTOCOL,
        instance: InstanceId::random().0.to_vec().into(),
        name: "liar".into(),
        version: "1.0".into(),
        arithmetic: 1,
        n_threads: 1,
        memory_budget_bytes: 8 << 30,
        memory_total_bytes: 16 << 30,
        speed: Some(wire::Speed {
            weight_bytes_per_second: 1e10,
            macs_per_second: 1e11,
        }),
        ..Default::default()
    }
}

impl Liar {
    /// Begins to serve. It listens at the address until the runtime ends.
    fn begin(link: &Link, descriptions: usize) -> (Liar, String) {
        let liar = Liar(Arc::new(Lies {
            info: Mutex::new(honest()),
            descriptions: AtomicUsize::new(descriptions),
            refusals: Mutex::default(),
        }));
        let listener = link_listener(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let serving = grpc_server().add_service(WorkerServer::new(liar.clone()));
        tokio::spawn(serving.serve_with_incoming(link.accept(listener)));
        (liar, address)
    }

    fn says(&self, lie: impl FnOnce(&mut wire::NodeInfo)) -> InstanceId {
        let mut info = honest();
        lie(&mut info);
        let instance = InstanceId::try_from(info.instance.as_ref()).expect("an instance");
        *self.0.info.lock().unwrap() = info;
        instance
    }

    /// Announces the process that it last said it is.
    async fn announce(
        &self,
        desk: &mut ClusterClient<Channel>,
        address: &str,
        instance: InstanceId,
    ) {
        let request = wire::AnnounceRequest {
            addresses: vec![address.to_owned()],
            instance: instance.0.to_vec().into(),
        };
        let reply = desk
            .announce(request)
            .await
            .expect("an answer")
            .into_inner();
        assert_eq!(reply.reached[0].why_not, "", "it is there");
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl Worker for Liar {
    type LoadStream = Answers<wire::LoadProgress>;
    type ControlStream = Answers<wire::ControlEvent>;

    async fn describe(
        &self,
        _: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::NodeInfo>, Status> {
        let left = &self.0.descriptions;
        if left.load(Ordering::Relaxed) == 0 {
            std::future::pending::<()>().await;
        }
        left.fetch_sub(1, Ordering::Relaxed);
        Ok(Response::new(self.0.info.lock().unwrap().clone()))
    }

    async fn refuse(
        &self,
        request: Request<wire::RefuseRequest>,
    ) -> Result<Response<wire::RefuseReply>, Status> {
        self.0
            .refusals
            .lock()
            .unwrap()
            .push_str(&request.get_ref().why);
        Ok(Response::new(wire::RefuseReply {}))
    }

    async fn load(
        &self,
        _: Request<wire::LoadRequest>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        Err(Status::unavailable("\u{1b}[2Jnot today\r\n"))
    }

    /// Heartbeats are answered, as an honest worker would.
    async fn control(
        &self,
        request: Request<Streaming<wire::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let (mut pings, (events, stream)) = (request.into_inner(), mpsc::channel(4));
        tokio::spawn(async move {
            while let Ok(Some(ping)) = pings.message().await {
                let pong = wire::Pong {
                    ping: ping.ping,
                    ..Default::default()
                };
                let event = wire::ControlEvent {
                    fence: ping.fence,
                    event: Some(wire::control_event::Event::Pong(pong)),
                };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn machines_that_cannot_exist_are_not_used(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    fn speed(info: &mut wire::NodeInfo, speed: f64) {
        let told = info.speed.as_mut().expect("a speed");
        told.weight_bytes_per_second = speed;
    }
    type Lie = fn(&mut wire::NodeInfo);
    let lies: [(&str, Lie); 8] = [
        ("9223372036854775808 bytes", |info| {
            info.memory_budget_bytes = 1 << 63
        }),
        ("bytes of memory", |info| info.memory_total_bytes = u64::MAX),
        ("speed is NaN", |info| speed(info, f64::NAN)),
        ("speed is inf", |info| speed(info, f64::INFINITY)),
        ("speed is 1000000000000000000000000000000", |info| {
            speed(info, 1e30)
        }),
        ("speed is 0", |info| speed(info, 0.0)),
        ("speed is -1", |info| speed(info, -1.0)),
        ("protocol 4294967295", |info| info.protocol = u32::MAX),
    ];
    siege.runtime.block_on(async {
        let (liar, address) = Liar::begin(&mallory, usize::MAX);
        let mut desk = desk(&siege.cluster, &mallory).await;
        for (words, lie) in lies {
            let instance = liar.says(lie);
            liar.announce(&mut desk, &address, instance).await;
            let deadline = Instant::now() + HEARD_WITHIN;
            while !liar.0.refusals.lock().unwrap().contains(words) {
                let told = liar.0.refusals.lock().unwrap().clone();
                assert!(Instant::now() < deadline, "not told {words}: {told}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let status = siege.coordinator.http.status();
    assert!(!status.to_string().contains("liar"), "{status:#}");
    leave(siege, "mallory");
}

fn a_wild_name_is_shown_tame(siege: &Siege) {
    let mallory = member(&siege.cluster, "mallory");
    let _in_runtime = siege.runtime.enter();
    let (liar, address) = Liar::begin(&mallory, usize::MAX);
    let instance = liar.says(|info| {
        info.name = "\u{1b}[2J\u{1b}]0;owned\u{7}\nready: all is well".into();
        info.version = "1\u{1b}[31m".repeat(1000);
        info.addresses = vec!["\u{1b}:1".into(), "nowhere".into()];
    });
    siege.runtime.block_on(async {
        let mut desk = desk(&siege.cluster, &mallory).await;
        liar.announce(&mut desk, &address, instance).await;
    });
    let status = siege.coordinator.until("found", HEARD_WITHIN, |status| {
        status["workers"].to_string().contains("owned")
    });
    // JSON writes control characters as escapes.
    let shown = status["workers"].to_string();
    assert!(
        !shown.contains("\\u00") && !shown.contains("\\n"),
        "{shown}"
    );
    let member = [
        "nodes",
        "--json",
        "--no-mdns",
        "--wait",
        "0.1",
        "--join",
        &address,
    ];
    let listed = siege.cluster.command(member).finish().succeeded();
    assert!(!listed.stdout.contains("\\u00"), "{listed:#?}");
    leave(siege, "mallory");
    siege.coordinator.until("gone", HEARD_WITHIN, |status| {
        !status["workers"].to_string().contains("owned")
    });
}

#[test]
fn a_worker_that_only_answers_heartbeats_does_not_hold_up_planning() {
    let cluster = Cluster::default();
    let coordinator = cluster.serve(&model(SMOLLM2), 2, &[]);
    let _ann = cluster.worker("ann", &[]);
    let mute = member(&cluster, "mute");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    runtime.block_on(async {
        // One description makes it a member. When the plan is made it is asked again.
        let (liar, address) = Liar::begin(&mute, 1);
        let instance = liar.says(|info| info.name = "mute".into());
        let mut desk = desk(&cluster, &mute).await;
        liar.announce(&mut desk, &address, instance).await;
    });
    let (down, _) = coordinator
        .process
        .event("down", 0, Duration::from_secs(20));
    let why = down["why"].as_str().expect("a reason");
    assert!(
        why.contains("mute cannot load its layers") && why.contains("[2Jnot today"),
        "{why}"
    );
    assert!(!why.contains('\u{1b}') && !why.contains('\n'), "{why:?}");
    // It goes, and another takes its place.
    let removed = ["nodes", "remove", "mute"];
    cluster.command(removed).finish().succeeded();
    let _bob = cluster.worker("bob", &[]);
    coordinator.ready(0);
    coordinator
        .http
        .chat("Hello", json!({"max_tokens": 2}))
        .ok();
    let said = coordinator.process.transcript().text(Stream::Stderr);
    assert!(
        !said.contains("panicked") && !said.contains('\u{1b}'),
        "{said}"
    );
}
