//! Forged mDNS records and broken packets on the interface where a cluster looks for its own: they lead nobody astray, and they do
//! not keep machines from finding each other. Everything stays on loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};
use potluck_link::mdns::Advertisement;
use potluck_link::{Interfaces, link_listener};
use potluck_proto::advert::{Advert, SERVICE_TYPE};
use potluck_proto::{ClusterId, InstanceId, NodeId};
use potluck_tests::attacks;
use potluck_tests::cluster::Cluster;
use potluck_tests::process::{PATIENCE, invoke};
use potluck_tests::siege::Siege;
use serde_json::Value;

/// Forged records of one flood.
const N_FORGED: u16 = 300;

#[test]
fn a_cluster_withstands_forged_records() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        a_false_coordinator_gets_no_proof,
        a_flood_of_forged_workers_hides_none,
        records_that_make_no_sense_are_left_alone,
        packets_that_are_none_kill_nobody,
    ]);
}

fn loopback() -> Interfaces {
    Interfaces::choose(Some("lo")).expect("a loopback interface")
}

/// Another cluster's coordinator says that it is ours. A machine that joins must not give it its proof.
fn a_false_coordinator_gets_no_proof(siege: &Siege) {
    let false_one = Cluster::default();
    let _entered = siege.runtime.enter();
    let listener = link_listener(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("its address");
    let (_incoming, mut joins) = false_one.own().link.accept_and_invite(listener);
    let forged = Advert::new(
        siege.cluster.own().id(),
        NodeId([0xee; 16]),
        InstanceId::random(),
        true,
    );
    let _record = Advertisement::publish(&loopback(), address, &forged).expect("a record");

    let made = siege.cluster.command(["invite", "--json"]).finish().json();
    let invite = made["invite"].as_str().expect("an invite");
    let alone = invite.split('@').next().expect("an invite");
    let joined = invoke(["join", "--json", "--name", "cleo", alone])
        .finish()
        .json();
    assert_eq!(joined["cluster"], siege.cluster.name(), "{joined}");
    // Whoever came to the false one was gone before a request: the handshake failed at the pin.
    while let Ok(mut stream) = joins.try_recv() {
        let request = siege.runtime.block_on(stream.request());
        assert!(request.is_err(), "it was told {request:?}");
    }
}

/// One daemon that says whatever it likes.
fn forger() -> ServiceDaemon {
    let daemon = ServiceDaemon::new().expect("a daemon");
    daemon.disable_interface(IfKind::All).expect("no interface");
    daemon
        .enable_interface(IfKind::LoopbackV4)
        .expect("loopback");
    daemon
}

fn say(daemon: &ServiceDaemon, name: &str, at: SocketAddr, txt: &[(&str, String)]) {
    let host = format!("{name}.local.");
    let info = ServiceInfo::new(SERVICE_TYPE, name, &host, at.ip(), at.port(), txt);
    daemon
        .register(info.expect("a record"))
        .expect("it is said");
}

fn a_flood_of_forged_workers_hides_none(siege: &Siege) {
    let daemon = forger();
    for i in 0..N_FORGED {
        let node = NodeId([i.to_le_bytes()[0]; 16]);
        let forged = Advert::new(siege.cluster.own().id(), node, InstanceId::random(), false);
        let at = SocketAddr::from(([127, 0, 0, 1], 20_000 + i));
        say(&daemon, &forged.instance_name(), at, &forged.to_txt());
    }
    let since = siege.coordinator.now();
    let _dora = siege.cluster.worker("dora", &[]);
    let (found, _) = siege
        .coordinator
        .process
        .line("dora", since, PATIENCE, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "worker_found" && event["name"] == "dora").then_some(event)
        });
    assert_eq!(found["name"], "dora");
    let _ = daemon.shutdown();
}

fn records_that_make_no_sense_are_left_alone(siege: &Siege) {
    let daemon = forger();
    let good = Advert::new(
        ClusterId([1; 16]),
        NodeId([2; 16]),
        InstanceId::random(),
        false,
    );
    let with = |key: &'static str, value: String| {
        let mut txt = good.to_txt();
        txt.iter_mut()
            .filter(|(k, _)| *k == key)
            .for_each(|pair| pair.1 = value.clone());
        txt
    };
    let own = siege.cluster.own().id().prefix();
    let own: String = own.iter().map(|byte| format!("{byte:02x}")).collect();
    let cases = [
        with("v", "none".into()),
        with("v", u64::MAX.to_string()),
        with("id", "é".repeat(60)),
        with("instance", String::new()),
        with("role", "admin".into()),
        with("cluster", own[..7].to_owned()),
        with("cluster", "z".repeat(200)),
    ];
    for (i, txt) in cases.iter().enumerate() {
        let at = SocketAddr::from(([127, 0, 0, 1], 30_000 + i as u16));
        say(&daemon, &format!("forged-{i}"), at, txt);
    }
    std::thread::sleep(Duration::from_millis(500));
    let _ = daemon.shutdown();
}

/// Bytes that are no DNS message, or one that contradicts itself, to the group of mDNS.
fn packets_that_are_none_kill_nobody(_: &Siege) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    let socket = socket.expect("a socket");
    socket
        .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
        .expect("loopback");
    socket.set_multicast_loop_v4(true).expect("loopback");
    let socket = UdpSocket::from(socket);
    let mut packets: Vec<Vec<u8>> = vec![vec![], vec![0; 11], vec![0xff; 12], vec![0xff; 9000]];
    // Counts without records, names that point to themselves, lengths beyond the packet.
    packets.push(
        [
            &[0, 0, 0x84, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0][..],
            &[0xc0, 12],
        ]
        .concat(),
    );
    packets.push(
        [
            &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &[0xc0, 12, 0, 12, 0, 1],
        ]
        .concat(),
    );
    packets.push([&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], &[63; 40]].concat());
    packets.push(
        [
            &[
                0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, b'a', 0, 0, 16, 0, 1, 0, 0, 0, 9,
            ][..],
            &[0xff, 0xff, 200, b'v'],
        ]
        .concat(),
    );
    let mut seed = 7u64;
    for length in (12..600).step_by(7) {
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        packets.push(noise.take(length).collect());
    }
    for packet in packets {
        // The system may refuse one that is too long.
        let _ = socket.send_to(&packet, (Ipv4Addr::new(224, 0, 0, 251), 5353));
    }
    std::thread::sleep(Duration::from_millis(300));
}
