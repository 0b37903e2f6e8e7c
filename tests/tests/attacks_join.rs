//! Machines that want to join without being invited, and machines in the middle of one that is: nobody gets in who should not,
//! and no secret gets out.
//!
//! Every attack comes from an address of its own, as from a machine of its own, because failures are counted by address; only
//! Linux has all of 127.0.0.0/8.
#![cfg(target_os = "linux")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD;
use potluck_link::Role;
use potluck_link::authority::Authority;
use potluck_link::credential::{Credential, NodeKey, provider};
use potluck_link::invite::Invite;
use potluck_link::join::join;
use potluck_link::peer::node_id;
use potluck_proto::{PROTOCOL, wire};
use potluck_tests::attacker::{ALPN_JOIN, Answer, JoinChannel, source};
use potluck_tests::attacks;
use potluck_tests::process::{PATIENCE, Running, invoke};
use potluck_tests::siege::Siege;
use prost::Message;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_cluster_withstands_uninvited_machines() {
    let siege = Siege::begin(&[]);
    siege.withstands(attacks![
        a_wrong_secret_is_refused,
        a_request_of_another_channel_is_refused,
        an_invite_lets_in_one_machine,
        of_eight_at_once_one_gets_in,
        an_expired_invite_is_refused,
        an_unknown_invite_is_refused,
        guessing_voids_the_invite,
        whoever_fails_often_waits_and_others_do_not,
        a_message_of_any_length_is_hung_up_on,
        a_message_that_is_none_is_hung_up_on,
        a_request_without_its_keys_signature_is_refused,
        a_key_that_is_no_point_is_refused,
        a_name_cannot_steer_a_terminal,
        another_protocol_is_refused_naming_both,
        a_man_in_the_middle_with_his_own_authority_gets_no_proof,
        a_man_in_the_middle_who_passes_bytes_on_reads_no_secret,
    ]);
}

fn invite(siege: &Siege, ttl: Duration) -> Invite {
    let made = siege.cluster.own().invites().make(None, ttl, vec![]);
    made.expect("an invite")
}

fn key() -> NodeKey {
    NodeKey::generate().expect("a key")
}

/// A channel from a machine that has not been seen before.
async fn stranger(siege: &Siege) -> JoinChannel {
    static NEXT: AtomicU8 = AtomicU8::new(30);
    let from = source(NEXT.fetch_add(1, Ordering::Relaxed));
    let channel = JoinChannel::open(from, siege.coordinator_address()).await;
    channel.expect("a channel")
}

/// Asks as an honest machine would.
async fn ask(siege: &Siege, invite: &Invite, key: &NodeKey) -> Answer {
    let channel = stranger(siege).await;
    let request = channel.request(invite, key, "guest");
    channel.ask(&request).await
}

/// Asks with a request that was damaged after it was made.
async fn ask_damaged(
    siege: &Siege,
    invite: &Invite,
    damage: impl FnOnce(&mut wire::JoinRequest),
) -> Answer {
    let channel = stranger(siege).await;
    let mut request = channel.request(invite, &key(), "guest");
    damage(&mut request);
    channel.ask(&request).await
}

fn is_member(siege: &Siege, key: &NodeKey) -> bool {
    let members = siege.cluster.own().members().list().expect("members");
    let node = node_id(key.public_key());
    members.iter().any(|member| member.node == node)
}

fn a_wrong_secret_is_refused(siege: &Siege) {
    let (invite, other) = (invite(siege, HOUR), invite(siege, HOUR));
    siege.runtime.block_on(async {
        let channel = stranger(siege).await;
        let key = key();
        let mut request = channel.request(&invite, &key, "guest");
        request.proof = channel.request(&other, &key, "guest").proof;
        let answer = channel.ask(&request).await;
        assert!(
            answer.refused().contains("secret of this invite is wrong"),
            "{answer:?}"
        );
        assert!(!is_member(siege, &key));
        ask(siege, &invite, &key).await.accepted();
    });
}

fn a_request_of_another_channel_is_refused(siege: &Siege) {
    let invite = invite(siege, HOUR);
    siege.runtime.block_on(async {
        let (overheard, other) = (stranger(siege).await, stranger(siege).await);
        let key = key();
        let request = overheard.request(&invite, &key, "guest");
        let answer = other.ask(&request).await;
        assert!(answer.refused().contains("not signed"), "{answer:?}");
        // Signed for this channel by a thief's own key, with the proof of the other.
        let thief = stranger(siege).await;
        let mut stolen = thief.request(&invite, &NodeKey::generate().unwrap(), "guest");
        stolen.proof = request.proof.clone();
        let answer = thief.ask(&stolen).await;
        assert!(answer.refused().contains("wrong"), "{answer:?}");
        overheard.ask(&request).await.accepted();
    });
}

fn an_invite_lets_in_one_machine(siege: &Siege) {
    let (invite, first, second) = (invite(siege, HOUR), key(), key());
    siege.runtime.block_on(async {
        ask(siege, &invite, &first).await.accepted();
        let answer = ask(siege, &invite, &second).await;
        assert!(answer.refused().contains("used already"), "{answer:?}");
        assert!(!is_member(siege, &second));
        // Its answer may be lost on the way: the same machine gets it again.
        ask(siege, &invite, &first).await.accepted();
    });
}

fn of_eight_at_once_one_gets_in(siege: &Siege) {
    let (invite, keys) = (invite(siege, HOUR), [(); 8].map(|()| key()));
    siege.runtime.block_on(async {
        let mut prepared = Vec::new();
        for key in &keys {
            let channel = stranger(siege).await;
            let request = channel.request(&invite, key, "crowd");
            prepared.push((channel, request));
        }
        let mut asking = tokio::task::JoinSet::new();
        for (channel, request) in prepared {
            asking.spawn(async move { channel.ask(&request).await });
        }
        let answers = asking.join_all().await;
        let n_in = answers
            .iter()
            .filter(|a| matches!(a, Answer::Accepted(_)))
            .count();
        assert_eq!(n_in, 1, "{answers:?}");
        let used = |a: &&Answer| matches!(a, Answer::Refused(why) if why.contains("used already"));
        assert_eq!(answers.iter().filter(used).count(), 7, "{answers:?}");
    });
    assert_eq!(keys.iter().filter(|key| is_member(siege, key)).count(), 1);
}

fn an_expired_invite_is_refused(siege: &Siege) {
    let (invite, key) = (invite(siege, Duration::ZERO), key());
    let answer = siege.runtime.block_on(ask(siege, &invite, &key));
    assert!(answer.refused().contains("expired"), "{answer:?}");
    assert!(!is_member(siege, &key));
}

fn an_unknown_invite_is_refused(siege: &Siege) {
    let (mut invite, key) = (invite(siege, HOUR), key());
    invite.secret = potluck_link::invite::Secret::random().expect("a secret");
    let answer = siege.runtime.block_on(ask(siege, &invite, &key));
    assert!(answer.refused().contains("not known here"), "{answer:?}");
}

fn guessing_voids_the_invite(siege: &Siege) {
    let invite = invite(siege, HOUR);
    siege.runtime.block_on(async {
        for _ in 0..5 {
            let guess = |request: &mut wire::JoinRequest| request.proof = vec![7; 32].into();
            let answer = ask_damaged(siege, &invite, guess).await;
            assert!(answer.refused().contains("wrong"), "{answer:?}");
        }
        let key = key();
        let answer = ask(siege, &invite, &key).await;
        assert!(answer.refused().contains("void"), "{answer:?}");
        assert!(!is_member(siege, &key));
    });
}

fn whoever_fails_often_waits_and_others_do_not(siege: &Siege) {
    let (invite, spent) = (invite(siege, HOUR), invite(siege, Duration::ZERO));
    siege.runtime.block_on(async {
        let from_one = async |invite: &Invite| {
            let channel = JoinChannel::open(source(29), siege.coordinator_address()).await;
            let channel = channel.expect("a channel");
            let request = channel.request(invite, &key(), "guest");
            channel.ask(&request).await
        };
        for _ in 0..5 {
            let answer = from_one(&spent).await;
            assert!(answer.refused().contains("expired"), "{answer:?}");
        }
        let answer = from_one(&invite).await;
        assert!(answer.refused().contains("wait 60 s"), "{answer:?}");
        ask(siege, &invite, &key()).await.accepted();
    });
}

fn a_message_of_any_length_is_hung_up_on(siege: &Siege) {
    siege.runtime.block_on(async {
        for length in [u32::MAX, i32::MAX as u32, (16 << 10) + 1] {
            let mut message = length.to_le_bytes().to_vec();
            message.extend([7; 20_000]);
            let answer = stranger(siege).await.say(&message).await;
            assert!(matches!(answer, Answer::Nothing), "{answer:?}");
        }
    });
}

fn a_message_that_is_none_is_hung_up_on(siege: &Siege) {
    let mut long = wire::JoinRequest {
        name: "x".repeat(15_000),
        ..Default::default()
    }
    .encode_to_vec();
    long.truncate(10_000);
    siege.runtime.block_on(async {
        for body in [
            vec![0xff; 100],
            vec![0x0a, 0x7f, 1],
            vec![0x2a, 2, 0xc3, 0x28],
            long,
        ] {
            let message = [&(body.len() as u32).to_le_bytes()[..], &body].concat();
            let answer = stranger(siege).await.say(&message).await;
            assert!(matches!(answer, Answer::Nothing), "{answer:?}");
        }
        // An empty message is one, and asks for nothing.
        let answer = stranger(siege).await.say(&[0; 4]).await;
        assert!(answer.refused().contains("protocol 0"), "{answer:?}");
    });
}

fn a_request_without_its_keys_signature_is_refused(siege: &Siege) {
    let invite = invite(siege, HOUR);
    siege.runtime.block_on(async {
        let other = key();
        type Damage<'a> = Box<dyn FnOnce(&mut wire::JoinRequest) + 'a>;
        let damages: [Damage; 4] = [
            Box::new(|r| r.signature.clear()),
            Box::new(|r| r.signature = other.sign(b"something").unwrap().into()),
            Box::new(|r| r.public_key = other.public_key().to_vec().into()),
            Box::new(|r| r.name = "another name".into()),
        ];
        for damage in damages {
            let answer = ask_damaged(siege, &invite, damage).await;
            assert!(answer.refused().contains("not signed"), "{answer:?}");
        }
        // None of that was a try at the secret.
        ask(siege, &invite, &key()).await.accepted();
    });
}

fn a_key_that_is_no_point_is_refused(siege: &Siege) {
    let invite = invite(siege, HOUR);
    let uncompressed = |fill: u8| [&[4], &[fill; 64][..]].concat();
    siege.runtime.block_on(async {
        for public_key in [
            vec![],
            vec![4],
            uncompressed(0),
            uncompressed(0xff),
            vec![2; 33],
            vec![7; 9000],
        ] {
            let damage = |request: &mut wire::JoinRequest| request.public_key = public_key.into();
            let answer = ask_damaged(siege, &invite, damage).await;
            assert!(answer.refused().contains("not signed"), "{answer:?}");
        }
    });
}

fn a_name_cannot_steer_a_terminal(siege: &Siege) {
    let invite = invite(siege, HOUR);
    let accepted = siege.runtime.block_on(async {
        let channel = stranger(siege).await;
        let wild = format!("\u{1b}[2J\r\n\0evil \u{9b}{}", "é".repeat(500));
        let request = channel.request(&invite, &key(), &wild);
        channel.ask(&request).await.accepted()
    });
    assert!(accepted.name.starts_with("[2Jevilé"), "{:?}", accepted.name);
    assert!(accepted.name.len() <= 64, "{:?}", accepted.name);
    let listed = siege
        .cluster
        .command(["nodes", "--wait", "0", "--no-mdns"])
        .finish()
        .succeeded();
    assert!(listed.stdout.contains("[2Jevil"), "{listed:#?}");
    let plain = |c: char| !c.is_control() || c == '\n';
    assert!(listed.stdout.chars().all(plain), "{listed:#?}");
}

fn another_protocol_is_refused_naming_both(siege: &Siege) {
    let invite = invite(siege, HOUR);
    siege.runtime.block_on(async {
        for protocol in [PROTOCOL + 98, u32::MAX] {
            let damage = |request: &mut wire::JoinRequest| request.protocol = protocol;
            let answer = ask_damaged(siege, &invite, damage).await;
            let why = answer.refused();
            for number in [protocol, PROTOCOL] {
                assert!(why.contains(&number.to_string()), "{why}");
            }
        }
    });
}

/// The real program, with an invite that names this address.
fn join_at(invite: &Invite, address: SocketAddr) -> Running {
    let mut invite = invite.clone();
    invite.addresses = vec![address.to_string()];
    invoke(["join", "--no-mdns", "--name", "victim", &invite.to_string()]).start()
}

fn a_man_in_the_middle_with_his_own_authority_gets_no_proof(siege: &Siege) {
    let invite = invite(siege, HOUR);
    let (authority, _) = Authority::create().expect("an authority");
    let own = Credential::issued_by(&authority, Role::Coordinator, HOUR).expect("a credential");
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    let heard = Arc::new(Mutex::new((0, Vec::new())));
    let address = siege.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (heard, acceptor) = (Arc::clone(&heard), TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                heard.lock().unwrap().0 += 1;
                let mut said = Vec::new();
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    let _ = tls.read_to_end(&mut said).await;
                }
                heard.lock().unwrap().1.extend(said);
            }
        });
        address
    });
    let mut victim = join_at(&invite, address);
    // It goes on looking for the right one. Three times it has turned away from the wrong one by then.
    let deadline = Instant::now() + PATIENCE;
    while heard.lock().unwrap().0 < 4 {
        assert!(Instant::now() < deadline, "it does not ask");
        std::thread::sleep(Duration::from_millis(20));
    }
    victim.kill();
    let said = heard.lock().unwrap().1.clone();
    assert!(said.is_empty(), "the victim has said {said:?}");
    let (address, key_of_another) = (address.to_string(), key());
    let asked = join(&invite, &address, "victim", &key_of_another);
    let why = siege.runtime.block_on(asked).err().expect("no").to_string();
    for words in ["not trusted", "another cluster"] {
        assert!(why.contains(words), "{why}");
    }
    // The invite is as good as before.
    siege
        .runtime
        .block_on(async { ask(siege, &invite, &key()).await.accepted() });
}

fn a_man_in_the_middle_who_passes_bytes_on_reads_no_secret(siege: &Siege) {
    let invite = invite(siege, HOUR);
    let passed = Arc::new(Mutex::new(Vec::new()));
    let coordinator = siege.coordinator_address();
    let address = siege.runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let passed = Arc::clone(&passed);
        tokio::spawn(async move {
            while let Ok((victim, _)) = listener.accept().await {
                let coordinator = TcpStream::connect(coordinator).await.expect("a connection");
                let (victim_in, victim_out) = victim.into_split();
                let (coordinator_in, coordinator_out) = coordinator.into_split();
                tokio::spawn(pass(victim_in, coordinator_out, Arc::clone(&passed)));
                tokio::spawn(pass(coordinator_in, victim_out, Arc::clone(&passed)));
            }
        });
        address
    });
    let joined = join_at(&invite, address).finish(PATIENCE).succeeded();
    assert!(joined.stdout.contains("is now victim"), "{joined:#?}");
    let passed = passed.lock().unwrap();
    assert!(
        passed.len() > 1000,
        "the bytes of a handshake and an answer"
    );
    let line = invite.to_string();
    let encoded = line.strip_prefix("pl1:").expect("an invite");
    let bytes = BASE64URL_NOPAD
        .decode(encoded.as_bytes())
        .expect("an invite");
    let secrets = [
        ("the secret", bytes[32..48].to_vec()),
        ("the key of proofs", invite.secret.key().0.to_vec()),
        ("the id", invite.secret.id().to_vec()),
        ("the invite", encoded.as_bytes().to_vec()),
        ("the name", b"victim".to_vec()),
        ("the cluster's name", siege.cluster.name().into()),
    ];
    for (what, secret) in secrets {
        let is_seen = passed.windows(secret.len()).any(|window| window == secret);
        assert!(!is_seen, "{what} is there to be read");
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    passed: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        passed.lock().unwrap().extend(&buffer[..n]);
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
