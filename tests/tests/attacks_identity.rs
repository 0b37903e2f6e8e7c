//! Machines that claim to belong to a cluster, or to be more in it than they are: no node lets them in.
//!
//! Every attack comes from an address of its own, as from a machine of its own; only Linux has all of 127.0.0.0/8.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant, SystemTime};

use potluck_link::authority::{Authority, StoredAuthority};
use potluck_link::credential::{Credential, NodeKey, StoredCredential, pem};
use potluck_link::{Expect, Link, PeerId, Role, Target};
use potluck_proto::wire::cluster_client::ClusterClient;
use potluck_proto::wire::stage_client::StageClient;
use potluck_proto::wire::worker_client::WorkerClient;
use potluck_proto::{PROTOCOL, wire};
use potluck_tests::attacker::{ALPN_NODE, Forgery, Identity, Met, client, meet, source};
use potluck_tests::attacks;
use potluck_tests::siege::Siege;
use potluck_tests::transcript::Stream;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_cluster_withstands_false_identities() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        nobody_without_a_certificate,
        nobody_who_vouches_for_himself,
        nobody_of_another_cluster_under_the_right_name,
        nobody_who_only_shows_the_right_authority,
        no_certificate_that_has_expired,
        no_certificate_before_its_time,
        no_name_of_another_form,
        no_certificate_of_the_api,
        no_stolen_chain_without_its_key,
        nobody_who_is_not_on_the_list,
        a_worker_does_not_command_workers,
        a_worker_is_not_taken_for_the_coordinator,
        the_coordinator_does_not_speak_for_a_worker,
        no_session_is_resumed,
        a_removed_node_is_cut_off_everywhere_and_stays_out,
        a_copied_identity_is_refused_and_told_so,
    ]);
}

/// The cluster's authority with its key: what a forger would need.
fn authority(siege: &Siege) -> StoredAuthority {
    let stored = siege.cluster.own().state().read("authority.json");
    stored.expect("the state").expect("an authority")
}

/// All nodes hang up on this identity, before it has said a word.
fn no_node_lets_in(siege: &Siege, identity: Option<&Identity>, wanted: &str) {
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let met = meet(source(20), address, client(identity, ALPN_NODE)).await;
            assert!(matches!(met, Met::Broken(_)), "{met:?}");
            assert!(met.words().contains(wanted), "{}", met.words());
        }
    });
}

fn nobody_without_a_certificate(siege: &Siege) {
    no_node_lets_in(siege, None, "CertificateRequired");
}

fn nobody_who_vouches_for_himself(siege: &Siege) {
    let authority = authority(siege);
    let forgery = Forgery {
        authority: None,
        ..Forgery::by(&authority)
    };
    no_node_lets_in(siege, Some(&forgery.make(&siege.cluster)), "");
}

fn nobody_of_another_cluster_under_the_right_name(siege: &Siege) {
    let (_, other) = Authority::create().expect("an authority");
    let forged = Forgery::by(&other).make(&siege.cluster);
    no_node_lets_in(siege, Some(&forged), "");
    // A node of another cluster, as that cluster made it.
    let other = Authority::from_stored(&other).expect("an authority");
    let foreign = Credential::issued_by(&other, Role::Coordinator, HOUR).expect("a credential");
    no_node_lets_in(siege, Some(&Identity::of(&foreign)), "");
    let why = link_refused(siege, foreign);
    assert!(why.contains("belongs to another cluster"), "{why}");
}

fn nobody_who_only_shows_the_right_authority(siege: &Siege) {
    let (_, other) = Authority::create().expect("an authority");
    for role in [Role::Worker, Role::Coordinator] {
        let forgery = Forgery {
            shown: authority(siege).certificate,
            role,
            ..Forgery::by(&other)
        };
        no_node_lets_in(siege, Some(&forgery.make(&siege.cluster)), "");
    }
}

fn no_certificate_that_has_expired(siege: &Siege) {
    let authority = authority(siege);
    let forgery = Forgery {
        not_before: SystemTime::now() - 2 * HOUR,
        not_after: SystemTime::now() - HOUR,
        ..Forgery::by(&authority)
    };
    out_of_time(siege, &forgery);
}

fn no_certificate_before_its_time(siege: &Siege) {
    let authority = authority(siege);
    let forgery = Forgery {
        not_before: SystemTime::now() + HOUR,
        not_after: SystemTime::now() + 2 * HOUR,
        ..Forgery::by(&authority)
    };
    out_of_time(siege, &forgery);
}

/// Refused, and the words that an honest machine with a wrong clock gets to see name the clock.
fn out_of_time(siege: &Siege, forgery: &Forgery) {
    let identity = listed(siege, forgery.make(&siege.cluster), "late");
    no_node_lets_in(siege, Some(&identity), "CertificateExpired");
    let credential = Credential::from_stored(identity.stored).expect("a credential");
    let why = link_refused(siege, credential);
    assert!(why.contains("clock"), "{why}");
    siege
        .cluster
        .own()
        .members()
        .remove("late")
        .expect("it is there");
}

/// Why the coordinator cannot be reached with this credential, as the program says it.
fn link_refused(siege: &Siege, credential: Credential) -> String {
    let link = Link::new(credential).expect("a link");
    let target = Target::any(Role::Coordinator, siege.coordinator_address());
    let connected = siege.runtime.block_on(link.connect(&target));
    connected.expect_err("it is refused").to_string()
}

fn listed(siege: &Siege, identity: Identity, name: &str) -> Identity {
    let members = siege.cluster.own().members();
    members.add(identity.id.node, name).expect("a place");
    identity
}

fn no_name_of_another_form(siege: &Siege) {
    let authority = authority(siege);
    let (cluster, node) = (siege.cluster.own().id(), [7; 16]);
    let good = PeerId {
        cluster,
        role: Role::Coordinator,
        node: potluck_proto::NodeId(node),
    };
    let foreign = PeerId {
        cluster: potluck_proto::ClusterId([9; 16]),
        ..good
    };
    let good = good.uri();
    for names in [
        vec![good.replace("coordinator", "admin")],
        vec![good.replace("coordinator", "Coordinator")],
        vec![good.clone(), good.clone()],
        vec![good.clone(), "https://example.org/".into()],
        vec![format!("{good}/")],
        vec![foreign.uri()],
    ] {
        let forgery = Forgery {
            names,
            ..Forgery::by(&authority)
        };
        no_node_lets_in(siege, Some(&forgery.make(&siege.cluster)), "");
    }
}

fn no_certificate_of_the_api(siege: &Siege) {
    let own = siege.cluster.own().authority();
    let names = ["localhost".to_owned()];
    let api = own.issue_for_api(&names, &[], HOUR).expect("a certificate");
    let key = data_encoding::BASE64.encode(api.key.secret_der());
    let identity = Identity {
        id: siege.cluster.own().link.id(),
        stored: StoredCredential {
            role: Role::Worker,
            key: format!("-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n"),
            certificate: pem(&api.certificate),
            authority: authority(siege).certificate,
            issued_at: 0,
            expires_at: u64::MAX,
        },
    };
    no_node_lets_in(siege, Some(&identity), "");
}

fn no_stolen_chain_without_its_key(siege: &Siege) {
    let coordinators = Identity::of(siege.cluster.own().link.credential());
    no_node_lets_in(siege, Some(&coordinators.with_another_key()), "");
}

fn nobody_who_is_not_on_the_list(siege: &Siege) {
    let credential = siege.cluster.own().local_worker().expect("a credential");
    let identity = Identity::of(&credential);
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let met = meet(source(21), address, client(Some(&identity), ALPN_NODE)).await;
            assert!(matches!(met, Met::Refused(_)), "{met:?}");
            assert!(
                met.words().contains("is not on the cluster's list"),
                "{met:?}"
            );
        }
    });
}

/// A member that the test plays, and a way to speak to others as it.
fn member(siege: &Siege, name: &str) -> (Identity, Link) {
    let credential = siege.cluster.own().local_worker().expect("a credential");
    let identity = listed(siege, Identity::of(&credential), name);
    (identity, Link::new(credential).expect("a link"))
}

/// Waits until the nodes have heard of a member.
async fn channel(siege: &Siege, link: &Link, to: &str) -> Channel {
    let members = siege.cluster.own().members().list().expect("members");
    link.admit(members.iter().map(|member| member.node));
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let role = match to == siege.coordinator_address().to_string() {
            true => Role::Coordinator,
            false => Role::Worker,
        };
        match link.connect(&Target::any(role, to)).await {
            Ok(connected) => return connected.channel,
            Err(why) if Instant::now() > deadline => panic!("{why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn denied<T>(answer: Result<T, Status>, what: &str) {
    let status = answer.err().unwrap_or_else(|| panic!("{what} was allowed"));
    assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
}

fn a_worker_does_not_command_workers(siege: &Siege) {
    let (_, link) = member(siege, "bossy");
    siege.runtime.block_on(async {
        for victim in [&siege.ann, &siege.bob] {
            let channel = channel(siege, &link, &victim.address).await;
            let mut worker = WorkerClient::new(channel.clone());
            let ask = wire::DescribeRequest { protocol: PROTOCOL };
            denied(worker.describe(ask).await, "Describe");
            denied(worker.load(wire::LoadRequest::default()).await, "Load");
            let why = "go home".into();
            denied(worker.refuse(wire::RefuseRequest { why }).await, "Refuse");
            let nobody = wire::ControlRequest {
                fence: Some(wire::Fence {
                    cluster_id: siege.cluster.own().id().0.to_vec().into(),
                    epoch: u64::MAX,
                    plan_gen: u64::MAX,
                }),
                ping: 1,
                members: Some(wire::Members::default()),
            };
            denied(
                worker.control(tokio_stream::iter([nobody])).await,
                "Control",
            );
            let mut stage = StageClient::new(channel);
            denied(
                stage.results(wire::ResultsRequest { fence: None }).await,
                "Results",
            );
        }
    });
    siege
        .cluster
        .own()
        .members()
        .remove("bossy")
        .expect("it is there");
}

fn a_worker_is_not_taken_for_the_coordinator(siege: &Siege) {
    // A worker looks for its coordinator where another worker listens.
    let (_, link) = member(siege, "lost");
    siege.runtime.block_on(async {
        channel(siege, &link, &siege.ann.address).await;
        let target = Target {
            addresses: vec![siege.ann.address.clone()],
            expect: Expect::Any(Role::Coordinator),
        };
        let why = link.connect(&target).await.expect_err("a worker answers");
        assert!(
            why.to_string().contains("a coordinator was expected"),
            "{why}"
        );
    });
    siege
        .cluster
        .own()
        .members()
        .remove("lost")
        .expect("it is there");
}

fn the_coordinator_does_not_speak_for_a_worker(siege: &Siege) {
    // With the coordinator's own credential: even that asks only what a coordinator may ask.
    let link = siege.cluster.own().link.clone();
    siege.runtime.block_on(async {
        let at = siege.coordinator_address().to_string();
        let mut desk = ClusterClient::new(channel(siege, &link, &at).await);
        denied(
            desk.announce(wire::AnnounceRequest::default()).await,
            "Announce",
        );
        let key = NodeKey::generate().expect("a key");
        let public_key = key.public_key().to_vec().into();
        denied(desk.renew(wire::RenewRequest { public_key }).await, "Renew");
    });
}

fn no_session_is_resumed(siege: &Siege) {
    let (identity, link) = member(siege, "again");
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            channel(siege, &link, &address.to_string()).await;
            let met = meet(source(22), address, client(Some(&identity), ALPN_NODE)).await;
            let stream = met.welcomed();
            let tickets = stream.get_ref().1.tls13_tickets_received();
            assert_eq!(
                tickets, 0,
                "a ticket would let it in without its certificate"
            );
        }
    });
    siege
        .cluster
        .own()
        .members()
        .remove("again")
        .expect("it is there");
}

fn a_removed_node_is_cut_off_everywhere_and_stays_out(siege: &Siege) {
    let (identity, link) = member(siege, "mallory");
    siege.runtime.block_on(async {
        let mut open = Vec::new();
        for address in siege.addresses() {
            channel(siege, &link, &address.to_string()).await;
            let met = meet(source(23), address, client(Some(&identity), ALPN_NODE)).await;
            open.push(met.welcomed());
        }
        let remove = ["nodes", "remove", "mallory"];
        siege.cluster.command(remove).finish().succeeded();
        let removed = Instant::now();
        let mut ends = JoinSet::new();
        for mut stream in open {
            ends.spawn(async move {
                let mut rest = Vec::new();
                let end = stream.read_to_end(&mut rest);
                tokio::time::timeout(Duration::from_secs(5), end)
                    .await
                    .is_ok()
            });
        }
        assert!(
            ends.join_all().await.iter().all(|ended| *ended),
            "all connections end"
        );
        let took = removed.elapsed();
        assert!(took < Duration::from_secs(1), "after {took:?}");
        for address in siege.addresses() {
            let met = meet(source(23), address, client(Some(&identity), ALPN_NODE)).await;
            assert!(met.words().contains("it was removed"), "{met:?}");
        }
    });
}

fn a_copied_identity_is_refused_and_told_so(siege: &Siege) {
    let since = siege.coordinator.now();
    let copy = siege.cluster.worker("ann", &[]);
    let limit = Duration::from_secs(15);
    let told = |line: &str| {
        let words = [
            "another process with the identity",
            "copied",
            "potluck join",
        ];
        words.iter().all(|word| line.contains(word)).then_some(())
    };
    copy.process.line("why it is not used", 0, limit, told);
    siege
        .coordinator
        .process
        .line("that there are two", since, limit, |line| {
            line.contains("a second worker with the same identity is refused")
                .then_some(())
        });
    let status = siege.coordinator.http.status();
    let workers = status["workers"].as_array().expect("workers");
    assert_eq!(workers.len(), 2, "{status:#}");
    assert!(
        !siege
            .ann
            .process
            .transcript()
            .text(Stream::Stderr)
            .contains("copied")
    );
}
