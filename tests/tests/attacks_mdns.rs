//! Lies by mDNS: nobody who speaks there is believed, and nobody who speaks there can silence the others.
//!
//! The records are written byte by byte and leave by the loopback interface only. Only Linux has multicast there without setup.
#![cfg(target_os = "linux")]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use potluck_link::Role;
use potluck_link::authority::Authority;
use potluck_link::credential::{Credential, provider};
use potluck_link::invite::Invite;
use potluck_proto::advert::Advert;
use potluck_proto::{InstanceId, NodeId};
use potluck_tests::attacker::ALPN_JOIN;
use potluck_tests::attacks;
use potluck_tests::process::{PATIENCE, invoke};
use potluck_tests::siege::Siege;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// RFC 6762.
const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// How long finding somebody may take: the workers announce themselves every three seconds.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_cluster_withstands_lies_by_mdns() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        packets_that_are_no_dns_are_ignored,
        records_of_another_form_are_ignored,
        addresses_that_lead_nowhere_are_ignored,
        two_thousand_false_workers_hide_no_real_one,
        false_places_of_a_real_worker_do_not_hide_it,
        goodbyes_in_the_name_of_others_cut_off_nobody,
        a_false_coordinator_gets_no_proof,
        a_false_coordinator_does_not_hide_the_real_one_from_a_worker,
    ]);
}

/// Speaks mDNS on the loopback interface.
struct Voice(UdpSocket);

impl Voice {
    fn new() -> Voice {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
        socket.set_reuse_address(true).expect("a shared port");
        socket.set_reuse_port(true).expect("a shared port");
        socket
            .bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, MDNS.port()).into())
            .expect("the port");
        socket
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .expect("loopback");
        socket.set_multicast_loop_v4(true).expect("loopback");
        Voice(socket.into())
    }

    /// Too much at once is dropped by the system, which is no fault of whoever listens.
    fn say(&self, packet: &[u8]) {
        let _ = self.0.send_to(packet, MDNS);
    }

    fn advertise(&self, advert: &Advert, at: SocketAddrV4) {
        let txt: Vec<_> = advert
            .to_txt()
            .map(|(key, value)| format!("{key}={value}"))
            .to_vec();
        self.say(&record(
            &advert.instance_name(),
            &txt,
            &[*at.ip()],
            at.port(),
            120,
        ));
    }
}

/// An answer that tells of one process: PTR, SRV, TXT and its addresses.
fn record(instance: &str, txt: &[String], addresses: &[Ipv4Addr], port: u16, ttl: u32) -> Vec<u8> {
    let service = name("_potluck._tcp.local");
    let (full, host) = (
        [label(instance), service.clone()].concat(),
        name(&format!("{instance}.local")),
    );
    let n_answers = 3 + addresses.len() as u16;
    let mut packet = [0, 0, 0x84, 0, 0, 0].to_vec();
    packet.extend(n_answers.to_be_bytes());
    packet.extend([0; 4]);
    let mut answer = |owner: &[u8], kind: u16, class: u16, data: &[u8]| {
        packet.extend(owner);
        packet.extend(kind.to_be_bytes());
        packet.extend(class.to_be_bytes());
        packet.extend(ttl.to_be_bytes());
        packet.extend((data.len() as u16).to_be_bytes());
        packet.extend(data);
    };
    // Class IN; with the top bit it replaces what was known.
    answer(&service, 12, 1, &full);
    let srv = [&[0; 4], &port.to_be_bytes()[..], &host].concat();
    answer(&full, 33, 0x8001, &srv);
    let txt: Vec<u8> = txt.iter().flat_map(|text| label(text)).collect();
    answer(&full, 16, 0x8001, &txt);
    for address in addresses {
        answer(&host, 1, 0x8001, &address.octets());
    }
    packet
}

fn name(dotted: &str) -> Vec<u8> {
    let mut name: Vec<u8> = dotted.split('.').flat_map(label).collect();
    name.push(0);
    name
}

fn label(text: &str) -> Vec<u8> {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    [&[bytes.len() as u8], bytes].concat()
}

fn false_advert(siege: &Siege, node: NodeId, is_coordinator: bool) -> Advert {
    Advert::new(
        siege.cluster.own().id(),
        node,
        InstanceId::random(),
        is_coordinator,
    )
}

/// A node that nobody has heard of.
fn nobody() -> NodeId {
    NodeId(InstanceId::random().0)
}

/// A real worker is found, under a name that no other has.
fn is_found(siege: &Siege, worker: &str) {
    let since = siege.coordinator.now();
    let _worker = siege.cluster.worker(worker, &[]);
    let quoted = format!("\"{worker}\"");
    let is_it = |line: &str| line.contains(&quoted).then_some(());
    siege
        .coordinator
        .process
        .line("that it was found", since, FOUND_WITHIN, is_it);
}

fn packets_that_are_no_dns_are_ignored(siege: &Siege) {
    let voice = Voice::new();
    let whole = record("potluck-x", &["v=1".into()], &[Ipv4Addr::LOCALHOST], 1, 120);
    for cut in 0..whole.len() {
        voice.say(&whole[..cut]);
    }
    let mut seed = 1u64;
    for at in 0..whole.len() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut damaged = whole.clone();
        damaged[at] = (seed >> 56) as u8;
        voice.say(&damaged);
    }
    let header = |n_answers: u16| {
        [
            &[0, 0, 0x84, 0, 0, 0][..],
            &n_answers.to_be_bytes(),
            &[0; 4],
        ]
        .concat()
    };
    // A name that points to itself, two that point to each other, one beyond the end, labels without an end.
    for rest in [
        &[0xc0, 12][..],
        &[0xc0, 14, 0xc0, 12],
        &[0xff, 0xff],
        &[63; 9000],
    ] {
        for n_answers in [1, u16::MAX] {
            voice.say(&[&header(n_answers)[..], rest].concat());
        }
    }
    voice.say(&[0xff; 9000]);
    is_found(siege, "after-noise");
}

fn records_of_another_form_are_ignored(siege: &Siege) {
    let voice = Voice::new();
    let good = false_advert(siege, nobody(), false).to_txt();
    let good: Vec<_> = good.map(|(key, value)| format!("{key}={value}")).to_vec();
    let with = |index: usize, text: &str| {
        let mut txt = good.clone();
        txt[index] = text.to_owned();
        txt
    };
    let huge: Vec<_> = (0..230)
        .map(|n| format!("k{n}={}", "x".repeat(240)))
        .collect();
    let forms = [
        vec![],
        good[1..].to_vec(),
        with(0, "v="),
        with(0, "v=99999999999999999999"),
        with(1, "cluster=zz"),
        with(2, "id=\u{e9}\u{e9}\u{e9}"),
        with(3, "instance"),
        with(4, "role=king"),
        vec!["=".into(), "==".into(), "\0=\0".into()],
        huge,
    ];
    for (n, txt) in forms.iter().enumerate() {
        voice.say(&record(
            &format!("form-{n}"),
            txt,
            &[Ipv4Addr::LOCALHOST],
            7461,
            120,
        ));
    }
    is_found(siege, "after-forms");
}

fn addresses_that_lead_nowhere_are_ignored(siege: &Siege) {
    let voice = Voice::new();
    let ann = siege.cluster.own().members().list().expect("members")[0].node;
    for (ip, port) in [
        (Ipv4Addr::UNSPECIFIED, siege.coordinator_address().port()),
        (Ipv4Addr::new(224, 0, 0, 251), 5353),
        (Ipv4Addr::BROADCAST, 9),
        (Ipv4Addr::LOCALHOST, 0),
    ] {
        for _ in 0..20 {
            voice.advertise(
                &false_advert(siege, ann, false),
                SocketAddrV4::new(ip, port),
            );
            voice.advertise(
                &false_advert(siege, nobody(), true),
                SocketAddrV4::new(ip, port),
            );
        }
    }
    is_found(siege, "after-nowhere");
}

/// A place where calls are taken and nothing is said: whoever calls waits until it gives up.
fn silent_place(siege: &Siege) -> (SocketAddrV4, Arc<AtomicUsize>) {
    let calls: Arc<AtomicUsize> = Arc::default();
    let counted = Arc::clone(&calls);
    let address = siege.runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                held.push(socket);
            }
        });
        address
    });
    match address {
        SocketAddr::V4(address) => (address, calls),
        SocketAddr::V6(_) => panic!("it was bound to IPv4"),
    }
}

fn two_thousand_false_workers_hide_no_real_one(siege: &Siege) {
    let (voice, (silent, calls)) = (Voice::new(), silent_place(siege));
    for _ in 0..2000 {
        voice.advertise(&false_advert(siege, nobody(), false), silent);
    }
    is_found(siege, "after-crowd");
    assert_eq!(
        calls.load(Ordering::Relaxed),
        0,
        "nodes that never joined are not called"
    );
}

fn false_places_of_a_real_worker_do_not_hide_it(siege: &Siege) {
    let (voice, (silent, calls)) = (Voice::new(), silent_place(siege));
    // The list is written before the worker starts, so the lies are first.
    siege.cluster.worker_state("after-lies");
    let members = siege.cluster.own().members().list().expect("members");
    let victim = members
        .iter()
        .find(|member| member.name == "after-lies")
        .expect("a member");
    for _ in 0..500 {
        voice.advertise(&false_advert(siege, victim.node, false), silent);
    }
    is_found(siege, "after-lies");
    let n_calls = calls.load(Ordering::Relaxed);
    assert!(n_calls <= 64, "{n_calls} calls at a false place");
}

fn goodbyes_in_the_name_of_others_cut_off_nobody(siege: &Siege) {
    let voice = Voice::new();
    let members = siege.cluster.own().members().list().expect("members");
    for member in &members {
        for _ in 0..50 {
            let advert = false_advert(siege, member.node, false);
            let txt: Vec<_> = advert
                .to_txt()
                .map(|(key, value)| format!("{key}={value}"))
                .to_vec();
            voice.say(&record(
                &advert.instance_name(),
                &txt,
                &[Ipv4Addr::LOCALHOST],
                1,
                0,
            ));
        }
    }
    let status = siege.coordinator.http.status();
    let n_stages = status["stages"].as_array().map(Vec::len);
    assert_eq!(n_stages, Some(2), "{status:#}");
}

/// A coordinator of another cluster, and what it was told by whoever called.
fn false_coordinator(siege: &Siege) -> (SocketAddrV4, Arc<AtomicUsize>, Arc<Mutex<Vec<u8>>>) {
    let (authority, _) = Authority::create().expect("an authority");
    let lifetime = Duration::from_secs(3600);
    let own = Credential::issued_by(&authority, Role::Coordinator, lifetime).expect("a credential");
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![ALPN_JOIN.to_vec(), b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (calls, heard) = (
        Arc::<AtomicUsize>::default(),
        Arc::<Mutex<Vec<u8>>>::default(),
    );
    let (counted, listened) = (Arc::clone(&calls), Arc::clone(&heard));
    let address = siege.runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    let mut said = Vec::new();
                    let _ = tls.read_to_end(&mut said).await;
                    listened.lock().unwrap().extend(said);
                }
            }
        });
        address
    });
    match address {
        SocketAddr::V4(address) => (address, calls, heard),
        SocketAddr::V6(_) => panic!("it was bound to IPv4"),
    }
}

fn a_false_coordinator_gets_no_proof(siege: &Siege) {
    let (voice, (address, calls, heard)) = (Voice::new(), false_coordinator(siege));
    let invites = siege.cluster.own().invites();
    // Without an address the coordinator must be found, and anybody can be.
    let invite: Invite = invites
        .make(None, Duration::from_secs(60), vec![])
        .expect("an invite");
    let lies: Vec<_> = (0..5)
        .map(|_| false_advert(siege, nobody(), true))
        .collect();
    let joining = invoke(["join", "--name", "victim", &invite.to_string()]).start();
    // It hears the lies again and again, from its start on.
    for _ in 0..20 {
        lies.iter().for_each(|lie| voice.advertise(lie, address));
        std::thread::sleep(Duration::from_millis(50));
    }
    let joined = joining.finish(PATIENCE).succeeded();
    assert!(joined.stdout.contains("is now victim"), "{joined:#?}");
    let said = heard.lock().unwrap().clone();
    assert!(
        said.is_empty(),
        "the victim has said {said:?} to a false coordinator"
    );
    eprintln!(
        "the false coordinator was called {} times",
        calls.load(Ordering::Relaxed)
    );
    siege
        .cluster
        .own()
        .members()
        .remove("victim")
        .expect("it is there");
}

fn a_false_coordinator_does_not_hide_the_real_one_from_a_worker(siege: &Siege) {
    let (voice, (address, _, heard)) = (Voice::new(), false_coordinator(siege));
    let (silent, _) = silent_place(siege);
    for _ in 0..50 {
        voice.advertise(&false_advert(siege, nobody(), true), address);
        voice.advertise(&false_advert(siege, nobody(), true), silent);
    }
    is_found(siege, "after-kings");
    assert!(
        heard.lock().unwrap().is_empty(),
        "nothing was said to a false coordinator"
    );
}
