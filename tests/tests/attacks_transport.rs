//! Strangers at the ports of a cluster: whatever bytes they send, or do not, the nodes go on among themselves.
//!
//! Every attack comes from an address of its own, as from a machine of its own; only Linux has all of 127.0.0.0/8.
#![cfg(target_os = "linux")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use potluck_link::credential::NodeKey;
use potluck_link::join::join;
use potluck_link::{Role, Target};
use potluck_tests::attacker::{
    ALPN_JOIN, ALPN_NODE, Identity, JoinChannel, Met, client, client_with_long_chain, meet, plain,
    source, until_closed,
};
use potluck_tests::attacks;
use potluck_tests::siege::Siege;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Strangers of one address that a node hears at once.
const STRANGERS: usize = 64;

/// Time in which an honest node is let in, whatever else happens.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_cluster_withstands_strangers_at_its_ports() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        silence_on_many_connections_holds_up_nobody_else,
        silence_on_many_channels_to_join_is_bounded,
        whoever_stops_in_a_handshake_is_hung_up_on,
        garbage_in_place_of_a_handshake_is_hung_up_on,
        a_client_hello_in_single_bytes_is_heard,
        tls_1_2_is_refused,
        other_protocols_over_tls_are_refused,
        http_2_without_tls_gets_no_answer,
        http_1_without_tls_gets_no_answer,
        a_chain_of_100_kb_is_refused,
        half_a_handshake_and_a_reset_leaves_nothing_behind,
        a_member_that_never_speaks_is_held_to_its_share,
        a_member_that_never_reads_holds_up_nobody_else,
    ]);
}

fn silence_on_many_connections_holds_up_nobody_else(siege: &Siege) {
    siege.runtime.block_on(async {
        let mut silent = Vec::new();
        for address in siege.addresses() {
            for _ in 0..2 * STRANGERS {
                silent.push(plain(source(1), address).await.expect("a connection"));
            }
        }
        honest_nodes_get_in(siege).await;
    });
}

fn silence_on_many_channels_to_join_is_bounded(siege: &Siege) {
    siege.runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..2 * STRANGERS {
            let channel = JoinChannel::open(source(2), siege.coordinator_address()).await;
            open.extend(channel.ok());
        }
        assert!(
            open.len() <= STRANGERS,
            "{} strangers of one address are heard at once",
            open.len()
        );
        honest_nodes_get_in(siege).await;
    });
}

/// A machine joins, and a link to every node opens, without delay.
async fn honest_nodes_get_in(siege: &Siege) {
    let start = Instant::now();
    let own = siege.cluster.own();
    let invite = own.invites().make(None, Duration::from_secs(60), vec![]);
    let (invite, key) = (invite.expect("an invite"), NodeKey::generate().unwrap());
    let coordinator = siege.coordinator_address();
    let joined = join(&invite, &coordinator.to_string(), "honest", &key).await;
    let joined = joined.map_err(|err| err.to_string()).expect("it joins");
    own.members().remove(&joined.name).expect("it was there");
    own.admit_members(None).expect("members");
    for worker in [&siege.ann, &siege.bob] {
        let target = Target::any(Role::Worker, &worker.address);
        own.link.connect(&target).await.expect("a link");
    }
    let took = start.elapsed();
    assert!(took < SOON, "honest nodes waited for {took:?}");
}

fn whoever_stops_in_a_handshake_is_hung_up_on(siege: &Siege) {
    let hello = hello(ALPN_NODE);
    let beginnings = [&[][..], &hello[..1], &hello[..hello.len() / 2], &hello[..]];
    siege.runtime.block_on(async {
        let mut ends = tokio::task::JoinSet::new();
        for address in siege.addresses() {
            for beginning in beginnings {
                let beginning = beginning.to_vec();
                ends.spawn(async move {
                    let mut stream = plain(source(3), address).await.expect("a connection");
                    stream.write_all(&beginning).await.expect("a beginning");
                    until_closed(&mut stream).await;
                });
            }
        }
        while let Some(end) = ends.join_next().await {
            end.expect("it is hung up on in time");
        }
    });
}

fn garbage_in_place_of_a_handshake_is_hung_up_on(siege: &Siege) {
    let mut seed = 1u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        let byte = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        std::iter::repeat_with(byte).take(length).collect()
    };
    // A record of the right type whose length or content is wrong is garbage too.
    let mut pieces: Vec<_> = [9, 1000, 70_000].map(&mut garbage).to_vec();
    pieces.push([&[22, 3, 1, 0xff, 0xff], &garbage(70_000)[..]].concat());
    pieces.push([&[22, 3, 1, 0, 200, 1, 0, 0, 196], &garbage(196)[..]].concat());
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            for piece in &pieces {
                say(source(4), address, piece).await;
            }
        }
    });
}

/// Sends bytes, and returns what is answered until the other end hangs up.
async fn say(from: Ipv4Addr, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = plain(from, to).await.expect("a connection");
    // It may hang up at any byte.
    let _ = stream.write_all(bytes).await;
    until_closed(&mut stream).await
}

fn a_client_hello_in_single_bytes_is_heard(siege: &Siege) {
    let config = Arc::new(client(None, ALPN_JOIN));
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let mut tls = ClientConnection::new(config, name).expect("a client");
    let stream = TcpStream::connect(siege.coordinator_address()).expect("a connection");
    stream.set_nodelay(true).expect("single bytes");
    let mut stream = SingleBytes(stream);
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).expect("slow is not wrong");
    }
}

/// Writes one byte at a time.
struct SingleBytes(TcpStream);

impl Write for SingleBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Read for SingleBytes {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

fn tls_1_2_is_refused(siege: &Siege) {
    // RFC 5246: version 1.2, one cipher suite that real servers know, the extensions that they want, and no word of 1.3.
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let mut record = vec![22, 3, 1, 0, body.len() as u8 + 4, 1, 0, 0, body.len() as u8];
    record.extend(body);
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let said = say(source(5), address, &record).await;
            // An alert, fatal: protocol_version.
            assert_eq!(said.first(), Some(&21), "{said:?}");
            assert_eq!(said[said.len() - 2..], [2, 70], "{said:?}");
        }
    });
}

fn other_protocols_over_tls_are_refused(siege: &Siege) {
    siege.runtime.block_on(async {
        for protocol in [&b"http/1.1"[..], b"h2c", b"potluck-join/2"] {
            for address in siege.addresses() {
                let met = meet(source(6), address, client(None, protocol)).await;
                assert!(matches!(met, Met::Broken(_)), "{met:?}");
            }
        }
        for worker in &siege.addresses()[1..] {
            let met = meet(source(6), *worker, client(None, ALPN_JOIN)).await;
            assert!(
                matches!(met, Met::Broken(_)),
                "nobody joins at a worker: {met:?}"
            );
        }
    });
}

fn http_2_without_tls_gets_no_answer(siege: &Siege) {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    no_answer(siege, preface);
}

fn http_1_without_tls_gets_no_answer(siege: &Siege) {
    no_answer(
        siege,
        b"GET /potluck/v1/status HTTP/1.1\r\nhost: localhost\r\n\r\n",
    );
}

/// Nothing but an alert of TLS.
fn no_answer(siege: &Siege, bytes: &[u8]) {
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let said = say(source(7), address, bytes).await;
            assert!(said.len() <= 7, "{}", String::from_utf8_lossy(&said));
        }
    });
}

fn a_chain_of_100_kb_is_refused(siege: &Siege) {
    let credential = siege.cluster.own().local_worker().expect("a credential");
    let identity = Identity::of(&credential);
    let more = 100_000 / credential.authority().len();
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let met = meet(source(8), address, client_with_long_chain(&identity, more)).await;
            assert!(matches!(met, Met::Broken(_)), "{met:?}");
        }
    });
}

fn half_a_handshake_and_a_reset_leaves_nothing_behind(siege: &Siege) {
    let hello = hello(ALPN_NODE);
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            for _ in 0..2 * STRANGERS {
                let mut stream = plain(source(9), address).await.expect("a connection");
                stream.write_all(&hello).await.expect("a beginning");
                let mut first = [0; 1];
                stream.read_exact(&mut first).await.expect("it is heard");
                // Closing sends a reset instead of what is left.
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).expect("a reset");
            }
            let met = meet(source(9), address, client(None, ALPN_NODE)).await;
            let said = met.words();
            assert!(said.contains("CertificateRequired"), "it is heard: {said}");
        }
    });
}

/// What a client says first.
fn hello(protocol: &[u8]) -> Vec<u8> {
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let tls = ClientConnection::new(Arc::new(client(None, protocol)), name);
    let mut hello = Vec::new();
    tls.expect("a client").write_tls(&mut hello).expect("bytes");
    hello
}

/// A member of the cluster that the test plays.
fn member(siege: &Siege, name: &str) -> Identity {
    let credential = siege.cluster.own().local_worker().expect("a credential");
    let members = siege.cluster.own().members();
    members.add(credential.id().node, name).expect("a place");
    Identity::of(&credential)
}

/// Connects once the nodes have heard that the member belongs to them.
async fn admitted(from: Ipv4Addr, to: SocketAddr, identity: &Identity) -> Met {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match meet(from, to, client(Some(identity), ALPN_NODE)).await {
            Met::Refused(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            met => return met,
        }
    }
}

fn a_member_that_never_speaks_is_held_to_its_share(siege: &Siege) {
    let mute = member(siege, "mute");
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let mut open = vec![admitted(source(10), address, &mute).await.welcomed()];
            let why = loop {
                assert!(open.len() <= STRANGERS, "{} are open", open.len());
                match meet(source(10), address, client(Some(&mute), ALPN_NODE)).await {
                    Met::Welcomed(stream) => open.push(*stream),
                    refused => break refused.words().to_owned(),
                }
            };
            assert!(why.contains("too many connections of this node"), "{why}");
        }
        honest_nodes_get_in(siege).await;
    });
    siege
        .cluster
        .own()
        .members()
        .remove("mute")
        .expect("it is there");
}

fn a_member_that_never_reads_holds_up_nobody_else(siege: &Siege) {
    let deaf = member(siege, "deaf");
    siege.runtime.block_on(async {
        for address in siege.addresses() {
            let mut stream = admitted(source(11), address, &deaf).await.welcomed();
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            stream.write_all(preface).await.expect("a beginning");
            // Every ping is answered, so answers pile up where nobody reads: 17 MB of them, or less if it hangs up first.
            let pings = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].repeat(1000);
            let flood = async {
                for _ in 0..1000 {
                    stream.write_all(&pings).await?;
                }
                io::Result::Ok(())
            };
            let _ = tokio::time::timeout(SOON, flood).await;
            honest_nodes_get_in(siege).await;
        }
    });
    siege
        .cluster
        .own()
        .members()
        .remove("deaf")
        .expect("it is there");
}
