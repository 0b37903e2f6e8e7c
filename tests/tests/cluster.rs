//! A coordinator and its workers: found, given their layers, asked; and what moves over the network for that.

use std::fs;
use std::path::Path;
use std::time::Duration;

use potluck_gguf::{Gguf, Mapped, TensorPlace, span_of};
use potluck_tests::cluster::{Cluster, Moved, Ready};
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::{PATIENCE, invoke};
use serde_json::{Value, json};

const QUESTION: &str = "What is the capital of France?";

#[test]
fn workers_are_found_given_their_layers_and_asked() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let coordinator = cluster.serve(&model, 2, &[]);
    let _ann = cluster.worker("ann", &[]);
    let _bob = cluster.worker("bob", &[]);
    let ready = coordinator.ready(0);

    let spans = spans(&ready);
    assert_eq!(spans.len(), 2, "both workers take part: {ready:?}");
    for (name, from, to) in &spans {
        let bytes = bytes_of_layers(&model, *from, *to);
        let fetched_only = Moved {
            fetched_bytes: bytes,
            cached_bytes: 0,
        };
        assert_eq!(
            ready.moved[name], fetched_only,
            "{name} fetches its span and nothing else"
        );
        let stored: u64 = cluster.stored(name).iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(stored, bytes, "{name} keeps its span and nothing else");
    }

    let answer = coordinator
        .http
        .chat(QUESTION, json!({"max_tokens": 24}))
        .ok();
    let alone = answer_of_one_process(&model, 24);
    assert_eq!(
        answer["choices"][0]["message"]["content"], alone["text"],
        "{answer:#}"
    );

    let status = coordinator.http.status();
    assert_eq!(status["state"], "ready");
    assert_eq!(
        status["stages"].as_array().map(Vec::len),
        Some(2),
        "{status:#}"
    );
}

#[test]
fn a_second_start_moves_no_weights() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let first = {
        let coordinator = cluster.serve(&model, 1, &[]);
        let _worker = cluster.worker("ann", &[]);
        coordinator.ready(0).moved["ann"]
    };
    let coordinator = cluster.serve(&model, 1, &[]);
    let _worker = cluster.worker("ann", &[]);
    let second = coordinator.ready(0).moved["ann"];
    assert_eq!(
        second,
        Moved {
            fetched_bytes: 0,
            cached_bytes: first.fetched_bytes
        }
    );
}

#[test]
fn a_damaged_tensor_is_noticed_and_fetched_again() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let answer = {
        let coordinator = cluster.serve(&model, 1, &[]);
        let _worker = cluster.worker("ann", &[]);
        coordinator.ready(0);
        coordinator
            .http
            .chat(QUESTION, json!({"max_tokens": 12}))
            .ok()
    };
    let (path, n_bytes) = cluster
        .stored("ann")
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .expect("weights");
    let mut bytes = fs::read(&path).expect("a tensor");
    bytes[1000] ^= 0x10;
    fs::write(&path, &bytes).expect("damage");

    let coordinator = cluster.serve(&model, 1, &[]);
    let _worker = cluster.worker("ann", &[]);
    let moved = coordinator.ready(0).moved["ann"];
    assert_eq!(
        moved.fetched_bytes, n_bytes,
        "the damaged tensor and no other"
    );
    let again = coordinator
        .http
        .chat(QUESTION, json!({"max_tokens": 12}))
        .ok();
    assert_eq!(again["choices"], answer["choices"]);
    bytes[1000] ^= 0x10;
    assert!(
        fs::read(&path).expect("a tensor") == bytes,
        "it is on the disk as it was"
    );
}

/// A worker with less memory than the model needs takes no part in a plan, but hands on what is on its disk.
const TOO_SMALL: [&str; 2] = ["--memory-limit", "64"];

#[test]
fn a_newcomer_takes_weights_from_everybody() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let all_bytes = fill_disk(&cluster, &model, "ann");
    copy_disk(&cluster, "ann", "bob");

    let coordinator = cluster.serve(&model, 1, &[]);
    let _small = ["ann", "bob"].map(|name| cluster.worker(name, &TOO_SMALL));
    coordinator.until("of two workers", PATIENCE, |status| {
        status["workers"].as_array().is_some_and(|w| w.len() == 2)
    });
    let since = coordinator.now();
    let _carol = cluster.worker("carol", &[]);
    let ready = coordinator.ready(since);

    let names: Vec<_> = ready.moved.keys().collect();
    assert_eq!(names, ["carol"], "{ready:?}");
    let sent = &ready.sent["carol"];
    for name in ["ann", "bob", "coordinator"] {
        assert!(sent.get(name).is_some_and(|bytes| *bytes > 0), "{sent:?}");
    }
    assert_eq!(sent.values().sum::<u64>(), all_bytes, "{sent:?}");
    same_weights(&cluster, "ann", "carol");
}

#[test]
fn what_is_damaged_on_a_disk_reaches_nobody_else() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    fill_disk(&cluster, &model, "ann");
    copy_disk(&cluster, "ann", "right");
    for (path, _) in cluster.stored("ann") {
        damage(&path);
    }

    let coordinator = cluster.serve(&model, 1, &[]);
    let _ann = cluster.worker("ann", &TOO_SMALL);
    coordinator.until("down", PATIENCE, |status| status["state"] == "down");
    let since = coordinator.now();
    let _carol = cluster.worker("carol", &[]);
    let ready = coordinator.ready(since);

    let from: Vec<_> = ready.sent["carol"].keys().collect();
    assert_eq!(from, ["coordinator"], "ann sends nothing that is damaged");
    same_weights(&cluster, "right", "carol");
    let left = cluster.stored("ann").len();
    let all = cluster.stored("right").len();
    assert!(left < all, "what was asked for is gone: {left} of {all}");
}

#[test]
fn a_liar_is_named_and_the_model_is_right() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    fill_disk(&cluster, &model, "ann");
    copy_disk(&cluster, "ann", "right");
    let coordinator = cluster.serve(&model, 1, &[]);
    let _ann = cluster.worker("ann", &TOO_SMALL);
    coordinator.until("down", PATIENCE, |status| status["state"] == "down");
    let since = coordinator.now();
    let carol = cluster.worker("carol", &[]);
    let ready = coordinator.ready(since);
    assert!(ready.sent["carol"].contains_key("ann"), "{ready:?}");
    drop(carol);

    // Tensors that ann has found to be right and sent before change on its disk.
    for (path, _) in cluster.stored("ann") {
        damage(&path);
    }
    let since = coordinator.now();
    let _dave = cluster.worker("dave", &[]);
    let (damaged, _) = coordinator
        .process
        .event("weights_damaged", since, PATIENCE);
    assert_eq!(damaged["worker"], "dave", "{damaged}");
    assert_eq!(damaged["source"], "ann", "{damaged}");
    let tensor = damaged["tensor"].as_str().expect("a tensor");
    assert!(tensor.ends_with(".weight"), "{damaged}");
    coordinator.ready(since);
    same_weights(&cluster, "right", "dave");
}

/// Has the worker `name` fetch the whole model. Returns its bytes.
fn fill_disk(cluster: &Cluster, model: &Path, name: &str) -> u64 {
    let coordinator = cluster.serve(model, 1, &[]);
    let _worker = cluster.worker(name, &[]);
    coordinator.ready(0).moved[name].fetched_bytes
}

fn copy_disk(cluster: &Cluster, from: &str, to: &str) {
    let (from_disk, to_disk) = (cluster.disk(from), cluster.disk(to));
    for (path, _) in cluster.stored(from) {
        let copy = to_disk.join(path.strip_prefix(&from_disk).expect("a file of that disk"));
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        fs::copy(&path, &copy).expect("a copy");
    }
}

/// Flips a bit in every part of a tensor.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a tensor");
    for part in bytes.chunks_mut(1 << 16) {
        part[0] ^= 0x10;
    }
    fs::write(path, &bytes).expect("damage");
}

/// Two disks hold the same weights.
fn same_weights(cluster: &Cluster, right: &str, other: &str) {
    let (right_disk, other_disk) = (cluster.disk(right), cluster.disk(other));
    assert_eq!(cluster.stored(right).len(), cluster.stored(other).len());
    for (path, _) in cluster.stored(right) {
        let name = path.strip_prefix(&right_disk).expect("a file of that disk");
        let read = |path: &Path| fs::read(path).expect("a tensor");
        let same = read(&path) == read(&other_disk.join(name));
        assert!(same, "{} of {other}", name.display());
    }
}

#[test]
fn workers_of_one_machine_share_its_disk() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let coordinator = cluster.serve(&model, 2, &[]);
    let _workers = ["ann", "bob"].map(|name| cluster.worker_on("shared", name, &[]));
    let ready = coordinator.ready(0);

    let (mut fetched, mut needed) = (0, 0);
    for (name, from, to) in spans(&ready) {
        let (moved, bytes) = (ready.moved[&name], bytes_of_layers(&model, from, to));
        assert_eq!(
            moved.fetched_bytes + moved.cached_bytes,
            bytes,
            "{name}: {moved:?}"
        );
        fetched += moved.fetched_bytes;
        needed += bytes;
    }
    // Both need the embedding, which is fetched once.
    let stored: u64 = cluster
        .stored("shared")
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    assert_eq!(fetched, stored);
    assert!(
        stored < needed,
        "{stored} bytes are stored where {needed} are needed"
    );
}

#[test]
fn workers_can_be_named_where_there_is_no_mdns() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let ann = cluster.worker("ann", &["--no-mdns"]);
    let bob = cluster.worker("bob", &["--no-mdns"]);
    let join = format!("{},{}", ann.address, bob.address);
    let coordinator = cluster.serve(&model, 2, &["--no-mdns", "--join", &join]);
    let ready = coordinator.ready(0);
    assert_eq!(ready.moved.len(), 2, "{ready:?}");
    coordinator
        .http
        .chat(QUESTION, json!({"max_tokens": 4}))
        .ok();
}

#[test]
fn workers_of_another_cluster_are_left_alone() {
    let (model, ours, theirs) = (model(SMOLLM2), Cluster::default(), Cluster::default());
    let _stranger = theirs.worker("stranger", &[]);
    let _ann = ours.worker("ann", &[]);
    let coordinator = ours.serve(&model, 1, &[]);
    let ready = coordinator.ready(0);
    assert_eq!(ready.moved.keys().collect::<Vec<_>>(), ["ann"]);
    let status = coordinator.http.status();
    assert_eq!(
        status["workers"].as_array().map(Vec::len),
        Some(1),
        "{status:#}"
    );
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let small = cluster.worker("small", &["--memory-limit", "64"]);
    let says_why = |text: &str| {
        for part in ["does not fit", "weights", "KV cache", "small 64.0 MiB"] {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
    };

    let coordinator = cluster.serve(&model, 1, &[]);
    let status = coordinator.until("down", PATIENCE, |status| status["state"] == "down");
    says_why(status["why"].as_str().expect("a reason"));
    let refused = coordinator.http.chat(QUESTION, json!({}));
    assert_eq!(refused.status, 503, "{refused:?}");
    says_why(
        refused.json()["error"]["message"]
            .as_str()
            .expect("a message"),
    );
    assert!(cluster.stored("small").is_empty(), "nothing was fetched");

    let model = model.display().to_string();
    let plan = [
        "plan",
        "--no-worker",
        "--no-mdns",
        "--join",
        &small.address,
        "--model",
        &model,
    ];
    says_why(&cluster.command(plan).finish().refusal());

    // A second worker of the same size is not enough either, one with room is.
    let _large = cluster.worker("large", &[]);
    coordinator.ready(0);
    coordinator
        .http
        .chat(QUESTION, json!({"max_tokens": 2}))
        .ok();
}

#[test]
fn a_coordinator_without_workers_says_what_it_waits_for() {
    let (model, cluster) = (model(SMOLLM2), Cluster::default());
    let coordinator = cluster.serve(&model, 2, &[]);
    let _ann = cluster.worker("ann", &[]);
    let waits = |status: &Value| {
        status["why"]
            .as_str()
            .is_some_and(|why| why.contains("2 worker(s), 1 here"))
    };
    let status = coordinator.until("waiting for the second", Duration::from_secs(20), waits);
    assert_eq!(status["state"], "waiting_for_workers", "{status:#}");
    let refused = coordinator.http.chat(QUESTION, json!({}));
    assert_eq!(refused.status, 503, "{refused:?}");
    // It waits without computing: one that looked all the time would use as much as passes.
    let before = coordinator.process.cpu_time();
    std::thread::sleep(Duration::from_secs(3));
    let used = coordinator.process.cpu_time() - before;
    assert!(used < Duration::from_secs(1), "{used:?} of 3 s");
}

/// The same question without a cluster.
fn answer_of_one_process(model: &Path, n_tokens: u32) -> Value {
    let (model, n_tokens) = (model.display().to_string(), n_tokens.to_string());
    let flags = [
        "--no-mdns",
        "--json",
        "--model",
        &model,
        "--max-tokens",
        &n_tokens,
    ];
    invoke(["run", QUESTION].iter().chain(&flags))
        .finish()
        .json()
}

/// Who holds which layers, from first to behind the last.
fn spans(ready: &Ready) -> Vec<(String, u64, u64)> {
    let stages = ready.plan["stages"].as_array().expect("stages");
    let span = |stage: &Value| {
        let layer = |i: usize| stage["layers"][i].as_u64().expect("a layer");
        (
            stage["name"].as_str().expect("a name").to_owned(),
            layer(0),
            layer(1),
        )
    };
    stages.iter().map(span).collect()
}

/// Bytes of the tensors that a worker needs for layers `from` to `to`, counted in the model's file. The last layers come with
/// the output head, which in this model is the embedding once more.
fn bytes_of_layers(model: &Path, from: u64, to: u64) -> u64 {
    let map = Mapped::open(model).expect("the model");
    let gguf = Gguf::parse(map.bytes()).expect("a model");
    let n_layers = gguf
        .tensors()
        .iter()
        .filter_map(|tensor| match span_of(tensor.name) {
            TensorPlace::Layer(layer) => Some(u64::from(layer) + 1),
            _ => None,
        });
    let is_last = n_layers.max() == Some(to);
    let needed = gguf
        .tensors()
        .iter()
        .filter(|tensor| match (span_of(tensor.name), tensor.name) {
            (TensorPlace::Layer(layer), _) => (from..to).contains(&u64::from(layer)),
            (_, "token_embd.weight") => from == 0 || is_last,
            (_, "output_norm.weight") => is_last,
            (_, name) => panic!("who needs {name}?"),
        });
    needed.map(|tensor| tensor.n_bytes).sum()
}
