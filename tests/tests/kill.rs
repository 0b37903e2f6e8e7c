//! Machines that vanish: what the user is told, how soon, and that the rest goes on.
#![cfg(unix)]

use std::time::{Duration, Instant};

use potluck_tests::cluster::{Cluster, Coordinator, Worker};
use potluck_tests::http::Events;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::{PATIENCE, invoke, wait_until_gone};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A machine that is gone is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

/// A machine that hangs, connections and all, is noticed within this time.
const HANG_NOTICED_WITHIN: Duration = Duration::from_millis(3500);

/// The end of a program that was asked to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn the_first_worker_is_killed_in_the_middle_of_an_answer() {
    a_worker_is_killed_in_the_middle_of_an_answer(0);
}

#[test]
fn the_last_worker_is_killed_in_the_middle_of_an_answer() {
    a_worker_is_killed_in_the_middle_of_an_answer(1);
}

fn a_worker_is_killed_in_the_middle_of_an_answer(stage: usize) {
    let cluster = Cluster::default();
    let (coordinator, mut workers) = pair(&cluster);
    let name = stage_name(&coordinator, stage);
    let answer = long_answer(&coordinator);
    let since = coordinator.now();

    let killed_at = Instant::now();
    workers
        .iter_mut()
        .find(|(held, _)| *held == name)
        .expect("it")
        .1
        .process
        .kill();
    says_that_it_was_lost(&last_event(answer), &name);
    assert!(
        killed_at.elapsed() < NOTICED_WITHIN,
        "the client waited {:?}",
        killed_at.elapsed()
    );
    let (lost, at) = coordinator
        .process
        .event("worker_lost", since, NOTICED_WITHIN);
    assert_eq!(lost["name"], name.as_str());
    eprintln!(
        "worker {name} noticed as lost after {:?}: {}",
        at - killed_at,
        lost["why"]
    );
    assert!(at - killed_at < NOTICED_WITHIN);

    let status = coordinator.until("without it", NOTICED_WITHIN, |status| {
        status["workers"]
            .as_array()
            .is_some_and(|workers| workers.len() == 1)
    });
    assert_ne!(status["state"], "ready", "{status:#}");
    let refused = coordinator.http.chat("Are you there?", json!({}));
    assert_eq!(refused.status, 503, "{refused:?}");

    let _again = cluster.worker(&name, &[]);
    coordinator.ready(since);
    coordinator
        .http
        .chat("Are you there?", json!({"max_tokens": 4}))
        .ok();
}

#[test]
fn a_worker_that_hangs_is_given_up_and_taken_back_when_it_wakes() {
    let cluster = Cluster::default();
    let (coordinator, workers) = pair(&cluster);
    let name = stage_name(&coordinator, 1);
    let answer = long_answer(&coordinator);
    let since = coordinator.now();

    let hangs = &workers
        .iter()
        .find(|(held, _)| *held == name)
        .expect("it")
        .1;
    let hung_at = Instant::now();
    hangs.process.signal(Signal::STOP);
    let (lost, at) =
        coordinator
            .process
            .event("worker_lost", since, HANG_NOTICED_WITHIN + NOTICED_WITHIN);
    eprintln!(
        "worker {name} noticed as hanging after {:?}: {}",
        at - hung_at,
        lost["why"]
    );
    assert_eq!(lost["name"], name.as_str());
    assert!(
        at - hung_at < HANG_NOTICED_WITHIN,
        "noticed after {:?}",
        at - hung_at
    );
    says_that_it_was_lost(&last_event(answer), &name);

    hangs.process.signal(Signal::CONT);
    coordinator.ready(since);
    coordinator
        .http
        .chat("Are you there?", json!({"max_tokens": 4}))
        .ok();
}

#[test]
fn ctrl_c_ends_a_server_in_the_middle_of_an_answer() {
    let cluster = Cluster::default();
    let (mut coordinator, mut workers) = pair(&cluster);
    let answer = long_answer(&coordinator);
    coordinator.process.signal(Signal::INT);
    drop(answer);
    let status = coordinator.process.wait(ENDS_WITHIN);
    assert!(
        status.success(),
        "a server that was asked to end says {status}"
    );
    // Workers serve whoever comes next, until they are asked to end as well.
    let next = cluster.serve(&model(SMOLLM2), 2, &[]);
    next.ready(0);
    for (name, worker) in &mut workers {
        worker.process.signal(Signal::TERM);
        let status = worker.process.wait(ENDS_WITHIN);
        assert!(status.success(), "worker {name} says {status}");
    }
}

#[test]
fn ctrl_c_ends_a_demo_with_all_its_workers() {
    let demo = long_demo();
    let children = children_of(&demo);
    demo.signal(Signal::INT);
    let done = demo.finish(ENDS_WITHIN);
    assert_eq!(done.status.code(), Some(130), "{done:#?}");
    wait_until_gone(&children, ENDS_WITHIN);
}

#[test]
fn workers_of_a_demo_do_not_outlive_it() {
    let mut demo = long_demo();
    let children = children_of(&demo);
    demo.kill();
    wait_until_gone(&children, ENDS_WITHIN);
}

/// A demo that is answering.
fn long_demo() -> potluck_tests::process::Running {
    let model = model(SMOLLM2).display().to_string();
    let arguments = [
        "demo",
        "--raw",
        "--max-tokens",
        "1900",
        "--model",
        &model,
        "--prompt",
        STORY,
    ];
    let demo = invoke(arguments).start();
    demo.line("the first words", 0, PATIENCE, |line| {
        line.contains("moved").then_some(())
    });
    demo
}

fn children_of(demo: &potluck_tests::process::Running) -> Vec<sysinfo::Pid> {
    let children = demo.children();
    assert_eq!(children.len(), 2, "a demo has two worker processes");
    children
}

const STORY: &str = "Once upon a time there was a village by the sea, and";

/// A coordinator and two workers, ready.
fn pair(cluster: &Cluster) -> (Coordinator, [(&'static str, Worker); 2]) {
    let coordinator = cluster.serve(&model(SMOLLM2), 2, &[]);
    let workers = ["ann", "bob"].map(|name| (name, cluster.worker(name, &[])));
    coordinator.ready(0);
    (coordinator, workers)
}

fn stage_name(coordinator: &Coordinator, stage: usize) -> String {
    let status = coordinator.http.status();
    status["stages"][stage]["worker"]
        .as_str()
        .unwrap_or_else(|| panic!("{status:#}"))
        .to_owned()
}

/// An answer that goes on for a while, of which the first words have come.
fn long_answer(coordinator: &Coordinator) -> Events {
    let question = "Tell me a very long story about the sea, with many chapters.";
    let mut events = coordinator
        .http
        .chat_stream(question, json!({"max_tokens": 2000}));
    let words = events
        .by_ref()
        .filter(|event| event.contains("\"content\""))
        .take(4)
        .count();
    assert_eq!(words, 4, "the answer has begun");
    events
}

/// The rest of a stream up to its last event.
fn last_event(answer: Events) -> Value {
    let last = answer.last().expect("an event after the loss");
    serde_json::from_str(&last)
        .unwrap_or_else(|err| panic!("the last event is not JSON ({err}): {last}"))
}

/// The last event must be an error that a user understands: who was lost, and what to do.
fn says_that_it_was_lost(event: &Value, name: &str) {
    let message = event["error"]["message"]
        .as_str()
        .unwrap_or_else(|| panic!("no error: {event:#}"));
    eprintln!("the client was told: {message}");
    for part in [&format!("worker {name}"), "lost", "send the request again"] {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}
