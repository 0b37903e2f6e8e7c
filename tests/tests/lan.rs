//! Several machines on one network: found, joined with one line, split over, and nothing to be read on the wire.
//!
//! Needs root and network namespaces; skipped with the reason where they are not to be had.
#![cfg(target_os = "linux")]

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use potluck_coordinator::store::Model;
use potluck_coordinator::text::{AddBos, Special, Tokenizer};
use potluck_tests::lan::Host;
use potluck_tests::machine::{Machine, api, lan, until_ready};
use potluck_tests::models::{self, SMOLLM2, model};
use potluck_tests::process::{PATIENCE, invoke};
use potluck_tests::transcript::Stream;

/// A machine finds another within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(2);

/// Something nobody would say by chance.
const CANARY: &str = "The violet walrus negotiates seventeen umbrellas beneath Reykjavik.";

/// An invite without the addresses in it: the coordinator must be found.
fn without_addresses(invite: &str) -> &str {
    invite.split('@').next().expect("an invite")
}

fn answer_of_one_process(question: &str) -> String {
    let model = model(SMOLLM2).display().to_string();
    let flags = [
        "--no-mdns",
        "--json",
        "--max-tokens",
        "16",
        "--model",
        &model,
    ];
    let answer = invoke(["run", question].iter().chain(&flags))
        .finish()
        .json();
    answer["text"].as_str().expect("a text").to_owned()
}

#[test]
fn machines_are_found_joined_and_keep_their_secrets() {
    let Some(lan) = lan(4) else { return };
    let [attic, kitchen, office, cellar] = [0, 1, 2, 3].map(|i| Machine::new(&lan, i));
    // Two machines have the same address on an interface that leads nowhere.
    attic.host.add_docker();
    kitchen.host.add_docker();
    let (coordinator, first) = attic.serve(3, &[]);

    let mut workers = Vec::new();
    for (machine, name, invite) in [
        (&kitchen, "kitchen", first),
        (&office, "office", attic.invite()),
        (&cellar, "cellar", attic.invite()),
    ] {
        let began = Instant::now();
        let joined = machine.join(without_addresses(&invite), name, &[]);
        assert_eq!(joined["name"], name, "{joined}");
        // The coordinator was found by mDNS, and the machine let in.
        let took = began.elapsed();
        eprintln!("{name} found the coordinator and joined in {took:?}");
        assert!(took < FOUND_WITHIN, "{name} joined after {took:?}");
        let since = coordinator.transcript().len();
        let worker = machine.worker(&[]);
        let started = Instant::now();
        let (found, at) = coordinator.event("worker_found", since, PATIENCE);
        let took = at.saturating_duration_since(started);
        eprintln!(
            "{name} was found {took:?} after it listened, at {}",
            found["address"]
        );
        assert!(took < FOUND_WITHIN, "{name} was found after {took:?}");
        let ip = machine.host.ip.to_string();
        let address = found["address"].as_str().expect("an address");
        assert!(address.starts_with(&ip), "{address} is not {ip}");
        workers.push(worker);
    }
    let plan = until_ready(&coordinator, 0);
    assert_eq!(
        plan["plan"]["stages"].as_array().map(Vec::len),
        Some(3),
        "{plan:#}"
    );

    let capture = lan.capture();
    assert_eq!(attic.chat(CANARY), answer_of_one_process(CANARY));
    let recording = capture.stop();
    let token_ids = token_ids(CANARY);
    assert!(
        recording.n_bytes() > 100_000,
        "only {} bytes passed",
        recording.n_bytes()
    );
    for (what, secret) in [
        ("the prompt", CANARY.as_bytes()),
        ("a part of the prompt", b"violet walrus"),
        ("the prompt's tokens", &token_ids),
        ("a part of the tokens", &token_ids[16..32]),
        ("the beginning of an HTTP/2 connection", b"PRI * HTTP/2.0"),
        ("a method's name", b"potluck.v1"),
        ("gRPC", b"application/grpc"),
    ] {
        assert!(
            !recording.holds(secret),
            "{what} passed the switch in plaintext"
        );
    }

    // The recording would have seen it.
    let capture = lan.capture();
    let (from, to) = (attic.host.clone(), kitchen.host.clone());
    to.run({
        let (from, ip) = (from.clone(), to.ip);
        move || plain_message(&from, ip, CANARY)
    });
    assert!(
        capture.stop().holds(CANARY.as_bytes()),
        "the recording is deaf"
    );
}

/// Sends a text from one host to another without any protection.
fn plain_message(from: &Host, ip: Ipv4Addr, text: &'static str) {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind((ip, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let from = from.clone();
    let sender = std::thread::spawn(move || {
        from.run(move || {
            let mut stream = std::net::TcpStream::connect((ip, port)).expect("a connection");
            stream.write_all(text.as_bytes()).expect("it is sent");
        });
    });
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut read = String::new();
    stream.read_to_string(&mut read).expect("it arrives");
    sender.join().expect("it was sent");
    assert_eq!(read, text);
}

/// The ids of a text's tokens as they would lie in a message.
fn token_ids(text: &str) -> Vec<u8> {
    let model = Model::open(&model(SMOLLM2), &models::cache(), |_| {}).expect("a model");
    let gguf = model.gguf().expect("a model file");
    let tokenizer = Tokenizer::from_gguf(gguf.metadata()).expect("a tokenizer");
    // Within a chat the text begins after a newline, so its first token is the same.
    let ids = tokenizer
        .encode(text, Special::Text, AddBos::Never)
        .expect("tokens");
    assert!(ids.len() > 8, "{ids:?}");
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

#[test]
fn where_multicast_is_blocked_addresses_do() {
    let Some(lan) = lan(3) else { return };
    lan.block_multicast();
    let [attic, kitchen, office] = [0, 1, 2].map(|i| Machine::new(&lan, i));
    let (coordinator, invite) = attic.serve(1, &[]);
    let alone = without_addresses(&invite);
    let lost = kitchen.invoke(&["join", alone, "--wait", "2s"]);
    let lost = lost.finish().refusal();
    assert!(lost.contains("--coordinator HOST:PORT"), "{lost}");

    // The invite itself says where the coordinator is.
    let at = format!("{}:7462", attic.host.ip);
    assert!(invite.ends_with(&format!("@{at}")), "{invite}");
    office.join(&attic.invite(), "office", &[]);
    let _office = office.worker(&[]);
    until_ready(&coordinator, 0);
    let alone_answer = attic.chat("Who are you?");
    kitchen.join(alone, "kitchen", &["--coordinator", &at]);
    drop(coordinator);

    // A coordinator whose port has moved is found by nobody, and so it must find its workers itself.
    let named = format!("{}:7461,{}:7470", office.host.ip, kitchen.host.ip);
    let more = ["--node-listen", "0.0.0.0:7472", "--join", &named];
    let (coordinator, _) = attic.serve(2, &more);
    let _kitchen = kitchen.worker(&["--listen", "0.0.0.0:7470"]);
    let plan = until_ready(&coordinator, 0);
    assert_eq!(
        plan["plan"]["stages"].as_array().map(Vec::len),
        Some(2),
        "{plan:#}"
    );
    assert_eq!(attic.chat("Who are you?"), alone_answer);
}

#[test]
fn a_machine_that_comes_back_with_another_address_is_found() {
    let Some(lan) = lan(2) else { return };
    let [attic, kitchen] = [0, 1].map(|i| Machine::new(&lan, i));
    let (coordinator, invite) = attic.serve(1, &[]);
    kitchen.join(&invite, "kitchen", &[]);
    let _worker = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    let before = attic.chat("Who are you?");

    let since = coordinator.transcript().len();
    kitchen.host.set_link("down");
    coordinator.event("worker_lost", since, PATIENCE);
    kitchen.host.set_address(Ipv4Addr::new(10, 77, 0, 99));
    kitchen.host.set_link("up");
    let (found, _) = coordinator.event("worker_found", since, PATIENCE);
    let address = found["address"].as_str().expect("an address");
    assert!(address.starts_with("10.77.0.99:"), "{found}");
    coordinator.event("ready", since, PATIENCE);
    assert_eq!(attic.chat("Who are you?"), before);

    // The coordinator moves as well.
    let since = coordinator.transcript().len();
    attic.host.set_link("down");
    coordinator.event("worker_lost", since, PATIENCE);
    attic.host.set_address(Ipv4Addr::new(10, 77, 0, 98));
    attic.host.set_link("up");
    coordinator.event("ready", since, PATIENCE);
    assert_eq!(attic.chat("Who are you?"), before);
}

#[test]
fn a_removed_machine_is_cut_off_at_once() {
    let Some(lan) = lan(3) else { return };
    let [attic, kitchen, office] = [0, 1, 2].map(|i| Machine::new(&lan, i));
    let (coordinator, invite) = attic.serve(2, &[]);
    kitchen.join(&invite, "kitchen", &[]);
    office.join(&attic.invite(), "office", &[]);
    let (removed_worker, _office) = (kitchen.worker(&[]), office.worker(&[]));
    until_ready(&coordinator, 0);

    let since = coordinator.transcript().len();
    attic
        .invoke(&["nodes", "remove", "kitchen"])
        .finish()
        .succeeded();
    let removed = Instant::now();
    let (lost, at) = coordinator.event("worker_lost", since, PATIENCE);
    let took = at.saturating_duration_since(removed);
    assert!(took < Duration::from_secs(1), "{took:?}: {lost}");
    assert!(
        lost["why"]
            .as_str()
            .is_some_and(|why| why.contains("removed")),
        "{lost}"
    );
    // It does not come back by starting again, and its user learns why.
    drop(removed_worker);
    let again = kitchen.worker(&[]);
    again.line("why it is not in use", 0, PATIENCE, |line| {
        (line.contains("not in use") && line.contains("removed")).then_some(())
    });
    let nodes = attic.host.run(|| api().status());
    assert_eq!(
        nodes["workers"].as_array().map(Vec::len),
        Some(1),
        "{nodes:#}"
    );
    let said = coordinator.transcript().text(Stream::Stdout);
    assert_eq!(said.matches("worker_found").count(), 2, "{said}");
    drop(again);
    // It comes back with a new invite.
    let nodes = attic.invoke(&["nodes", "--json"]).finish().json();
    assert_eq!(nodes.as_array().map(Vec::len), Some(1), "{nodes:#}");
    let since = coordinator.transcript().len();
    kitchen.join(&attic.invite(), "kitchen", &["--replace"]);
    let _again = kitchen.worker(&["--listen", "0.0.0.0:7471"]);
    coordinator.event("worker_found", since, PATIENCE);
    coordinator.event("ready", since, PATIENCE);
}

#[test]
fn certificates_are_renewed_while_answers_are_computed() {
    let Some(lan) = lan(2) else { return };
    let [attic, kitchen] = [0, 1].map(|i| Machine::new(&lan, i));
    let (coordinator, invite) = attic.serve(1, &["--certificate-lifetime", "9"]);
    kitchen.join(&invite, "kitchen", &[]);
    let worker = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    let since = coordinator.transcript().len();
    let before = attic.chat("Who are you?");
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        assert_eq!(attic.chat("Who are you?"), before);
    }
    let said = coordinator
        .transcript()
        .text(potluck_tests::transcript::Stream::Stdout);
    assert!(!said.contains("worker_lost"), "{said}");
    // New links are opened with the new certificates.
    drop(worker);
    let _worker = kitchen.worker(&[]);
    coordinator.event("worker_found", since, PATIENCE);
    coordinator.event("ready", since, PATIENCE);
}

#[test]
fn the_api_is_opened_to_the_network_with_a_key_and_the_clusters_certificate() {
    let Some(lan) = lan(2) else { return };
    let [attic, kitchen] = [0, 1].map(|i| Machine::new(&lan, i));
    let refused = attic.invoke(&[
        "serve",
        "--model",
        &model(SMOLLM2).display().to_string(),
        "--listen",
        "0.0.0.0:7460",
    ]);
    let refused = refused.finish().refusal();
    assert!(refused.contains("potluck keys add NAME"), "{refused}");
    let key = attic
        .invoke(&["keys", "add", "ann", "--json"])
        .finish()
        .json();
    let (_coordinator, _) = attic.serve(1, &["--listen", "0.0.0.0:7460"]);

    let ca = kitchen.path("ca.pem");
    let shown = attic.invoke(&["keys", "ca"]).finish().succeeded();
    std::fs::write(&ca, shown.stdout).expect("a file");
    let ca = ca.display().to_string();
    let https = format!("https://{}:7460", attic.host.ip);
    let status = |key: &str, more: &[&str]| {
        let fixed = ["status", "--json", "--http", &https];
        let asked = kitchen.invoke(&[&fixed, more].concat());
        asked.env("POTLUCK_API_KEY", key).finish()
    };
    let key = key["key"].as_str().expect("a key");
    let report = status(key, &["--ca", &ca]).json();
    assert!(report["state"].is_string(), "{report}");
    let wrong = status("pl_00000000_x", &["--ca", &ca]).refusal();
    assert!(wrong.contains("key"), "{wrong}");
    let untrusted = status(key, &[]).refusal();
    assert!(untrusted.contains("potluck keys ca"), "{untrusted}");
}
