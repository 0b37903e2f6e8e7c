//! `potluck doctor` on networks that are broken in one way each: it must name that cause, and no other.
//!
//! Needs root and network namespaces; skipped with the reason where they are not to be had.
#![cfg(target_os = "linux")]

use potluck_tests::lan::Lan;
use potluck_tests::machine::{Machine, lan, until_ready};
use potluck_tests::process::Running;
use serde_json::Value;

/// What a doctor says that is not good, as `check: status: found -> fix`.
fn complaints(machine: &Machine<'_>, more: &[&str]) -> Vec<String> {
    let run = machine
        .invoke(&[&["doctor", "--json"], more].concat())
        .finish();
    let report: Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|err| panic!("no report ({err}): {run:#?}"));
    let findings = report["findings"].as_array().expect("findings");
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let bad = findings.iter().filter(|finding| finding["status"] != "ok");
    let bad: Vec<_> = bad
        .map(|finding| {
            let [check, status, found, fix] =
                ["check", "status", "found", "fix"].map(|key| text(finding, key));
            format!("{check}: {status}: {found} -> {fix}")
        })
        // How full this machine is does not matter here.
        .filter(|complaint| !complaint.starts_with("disk:") && !complaint.starts_with("memory:"))
        .collect();
    let has_failed = bad.iter().any(|complaint| complaint.contains(": failed: "));
    assert_eq!(report["ok"], !has_failed, "{report:#}");
    assert_eq!(run.status.success(), !has_failed, "{run:#?}");
    bad
}

/// One complaint, with all these parts.
fn only(complaints: &[String], parts: &[&str]) {
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
    for part in parts {
        assert!(
            complaints[0].contains(part),
            "`{part}` is missing in: {}",
            complaints[0]
        );
    }
}

/// A coordinator and a worker that has joined, which runs if asked for.
fn pair(lan: &Lan) -> (Machine<'_>, Machine<'_>, Running) {
    let (attic, kitchen) = (Machine::new(lan, 0), Machine::new(lan, 1));
    let (coordinator, invite) = attic.serve(1, &[]);
    kitchen.join(&invite, "kitchen", &[]);
    (attic, kitchen, coordinator)
}

#[test]
fn nothing_is_wrong_where_nothing_is_wrong() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, coordinator) = pair(&lan);
    assert_eq!(
        complaints(&kitchen, &[]),
        Vec::<String>::new(),
        "before the worker runs"
    );
    let _worker = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    for machine in [&kitchen, &attic] {
        assert_eq!(complaints(machine, &[]), Vec::<String>::new());
    }
}

#[test]
fn a_machine_of_no_cluster_is_told_how_to_join() {
    let Some(lan) = lan(1) else { return };
    let alone = Machine::new(&lan, 0);
    only(
        &complaints(&alone, &[]),
        &["membership: warning", "potluck join INVITE"],
    );
}

#[test]
fn multicast_that_does_not_pass_is_named() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, coordinator) = pair(&lan);
    let _worker = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    lan.block_multicast();
    for machine in [&kitchen, &attic] {
        only(
            &complaints(machine, &[]),
            &[
                "discovery: warning",
                "multicast does not pass",
                "5353",
                "AP isolation",
            ],
        );
    }
}

#[test]
fn a_coordinator_that_does_not_run_is_named() {
    let Some(lan) = lan(2) else { return };
    let (_attic, kitchen, coordinator) = pair(&lan);
    drop(coordinator);
    only(
        &complaints(&kitchen, &[]),
        &["coordinator: failed", "refused", "potluck serve"],
    );
}

#[test]
fn packets_that_are_dropped_are_named() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, _coordinator) = pair(&lan);
    lan.block_multicast();
    // What the coordinator's machine answers gets lost, as behind a firewall.
    attic.host.ip(&[
        "route",
        "add",
        "blackhole",
        &format!("{}/32", kitchen.host.ip),
    ]);
    only(
        &complaints(&kitchen, &[]),
        &["coordinator: failed", "no answer", "firewall", "7462"],
    );
}

#[test]
fn a_machine_without_a_network_is_told() {
    let Some(lan) = lan(2) else { return };
    let (_attic, kitchen, _coordinator) = pair(&lan);
    kitchen.host.ip(&["addr", "flush", "dev", "eth0"]);
    kitchen.host.set_link("down");
    let said = complaints(&kitchen, &[]);
    assert!(
        said[0].contains("interfaces: failed: no interface with an address"),
        "{said:#?}"
    );
    // Interfaces of containers do not make a network.
    kitchen.host.add_docker();
    let said = complaints(&kitchen, &[]);
    assert!(
        said[0].contains("only interfaces of containers"),
        "{said:#?}"
    );
    assert!(said[0].contains("docker0"), "{said:#?}");
}

#[test]
fn a_port_that_another_program_uses_is_named() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, coordinator) = pair(&lan);
    let taken = kitchen
        .host
        .run(|| std::net::TcpListener::bind("0.0.0.0:7461").expect("a port"));
    only(
        &complaints(&kitchen, &[]),
        &[
            "port: failed",
            "port 7461 is used by something else",
            "--listen",
        ],
    );
    drop(taken);
    drop(coordinator);
    let taken = attic
        .host
        .run(|| std::net::TcpListener::bind("0.0.0.0:7462").expect("a port"));
    let said = complaints(&attic, &[]).join("\n");
    assert!(
        said.contains("port: failed: port 7462 is used by something else"),
        "{said}"
    );
    drop(taken);
}

#[test]
fn a_worker_that_listens_where_nobody_reaches_it_is_named() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, coordinator) = pair(&lan);
    let worker = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    drop(worker);
    let _hidden = kitchen.worker(&["--listen", "127.0.0.1:7461", "--no-mdns"]);
    only(
        &complaints(&kitchen, &[]),
        &["way back: failed", "does not reach this machine", "7461"],
    );
    only(
        &complaints(&attic, &[]),
        &["worker: failed", "worker kitchen is not reached", "refused"],
    );
}

#[test]
fn a_machine_that_was_removed_is_told() {
    let Some(lan) = lan(2) else { return };
    let (attic, kitchen, _coordinator) = pair(&lan);
    attic
        .invoke(&["nodes", "remove", "kitchen"])
        .finish()
        .succeeded();
    only(
        &complaints(&kitchen, &[]),
        &["coordinator: failed", "removed", "potluck join --replace"],
    );
}

#[test]
fn a_copied_identity_is_named() {
    let Some(lan) = lan(3) else { return };
    let (attic, kitchen, coordinator) = pair(&lan);
    let copy = Machine::new(&lan, 2);
    copy_folder(&kitchen.path("state"), &copy.path("state"));
    let _first = kitchen.worker(&[]);
    until_ready(&coordinator, 0);
    let second = copy.worker(&[]);
    // The second is refused, and its user learns why.
    second.line(
        "why it is refused",
        0,
        potluck_tests::process::PATIENCE,
        |line| {
            line.contains("another process with the identity of this machine")
                .then_some(())
        },
    );
    let said = complaints(&attic, &[]).join("\n");
    assert!(
        said.contains("identity: failed: 2 processes have the identity"),
        "{said}"
    );
    assert!(
        said.contains("10.77.0.2:7461") && said.contains("10.77.0.3:7461"),
        "{said}"
    );
    attic.chat("Who are you?");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(done.expect("cp").success());
}
