//! The command line that scripts depend on: every flag and its variable, and the keys of what is printed as JSON.

use std::collections::BTreeSet;

use potluck_tests::cluster::Cluster;
use potluck_tests::models::{SMOLLM2, model};
use potluck_tests::process::invoke;
use serde_json::{Value, json};

const COMMANDS: [&str; 12] = [
    "demo", "serve", "invite", "join", "worker", "run", "plan", "nodes", "status", "keys", "eval",
    "bench",
];

/// Commands of commands.
const INNER_COMMANDS: [[&str; 2]; 3] = [["keys", "add"], ["keys", "ls"], ["keys", "rm"]];

/// Flags that are only ever typed.
const WITHOUT_VARIABLE: [&str; 3] = ["--help", "--version", "--json"];

#[test]
fn every_command_explains_its_flags_and_their_variables() {
    let overview = invoke(["--help"]).finish().succeeded().stdout;
    for command in COMMANDS {
        assert!(
            overview.contains(&format!("  {command} ")),
            "{command} is missing in: {overview}"
        );
        if command != "keys" {
            explains_its_flags(&[command]);
        }
    }
    for command in INNER_COMMANDS {
        explains_its_flags(&command);
    }
}

fn explains_its_flags(command: &[&str]) {
    let help = invoke(command.iter().chain(&["--help"]));
    let help = help.finish().succeeded().stdout;
    let (_, options) = help.split_once("\nOptions:\n").expect("options");
    let flags = flags(options);
    assert!(flags.len() > 2, "{command:?} has flags: {help}");
    for (flag, text) in flags {
        if !WITHOUT_VARIABLE.contains(&flag.as_str()) {
            assert!(
                text.contains("[env: POTLUCK_"),
                "{command:?} {flag} has no variable: {text}"
            );
        }
    }
}

/// Each flag with the text that explains it. A flag's text begins on the line that names it.
fn flags(options: &str) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in options.lines() {
        let words = line.trim_start();
        if words.starts_with('-') {
            let flag = words
                .split([' ', ','])
                .find(|word| word.starts_with("--"))
                .expect("a long flag");
            flags.push((flag.to_owned(), String::new()));
        }
        if let Some((_, text)) = flags.last_mut() {
            text.push_str(line);
        }
    }
    flags
}

#[test]
fn a_variable_does_what_its_flag_does() {
    let model = model(SMOLLM2);
    let by_flag = [
        "run",
        "Once",
        "--raw",
        "--no-mdns",
        "--max-tokens",
        "3",
        "--json",
        "--model",
    ];
    let by_flag = invoke(
        by_flag
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([model.as_os_str()]),
    )
    .finish()
    .json();
    let by_variable = invoke(["run", "Once", "--json"])
        .env("POTLUCK_RAW", "1")
        .env("POTLUCK_NO_MDNS", "true")
        .env("POTLUCK_MAX_TOKENS", "3")
        .env("POTLUCK_MODEL", &model)
        .finish()
        .json();
    assert_eq!(
        by_flag["tokens"].as_array().map(Vec::len),
        Some(3),
        "{by_flag}"
    );
    assert_eq!(by_variable["tokens"], by_flag["tokens"]);
}

#[test]
fn what_is_printed_as_json_has_its_keys() {
    let (cluster, model) = (Cluster::default(), model(SMOLLM2));
    let path = model.display().to_string();
    let coordinator = cluster.serve(&model, 1, &[]);
    let worker = cluster.worker("ann", &[]);
    coordinator.ready(0);

    let nodes = cluster
        .command(["nodes", "--json", "--no-mdns"])
        .finish()
        .json();
    has_keys(
        &nodes[0],
        "address arithmetic id isa joined_at last_addresses macs_per_second memory_budget_bytes memory_total_bytes name online \
         platform protocol serving threads version weight_bytes_per_second",
    );
    assert_eq!(
        (&nodes[0]["name"], &nodes[0]["serving"]),
        (&json!("ann"), &json!(true))
    );

    let found = cluster.command(["nodes", "--json"]).finish().json();
    assert_eq!(found[0]["id"], nodes[0]["id"], "by mDNS as well: {found}");

    let http = coordinator.http.address.to_string();
    let status = invoke(["status", "--json", "--http", &http])
        .finish()
        .json();
    has_keys(&status, "model running stages state waiting why workers");
    has_keys(
        &status["workers"][0],
        "address bytes id isa layers macs_per_second memory_budget_bytes memory_total_bytes name state threads version \
         weight_bytes_per_second",
    );
    has_keys(&status["stages"][0], "bytes layers worker");
    let said = invoke(["status", "--http", &http])
        .finish()
        .succeeded()
        .stdout;
    assert!(said.contains("ready") && said.contains("ann"), "{said}");

    let plan = [
        "plan",
        "--json",
        "--no-mdns",
        "--no-worker",
        "--join",
        &worker.address,
        "--model",
        &path,
    ];
    let plan = cluster.command(plan).finish().json();
    has_keys(
        &plan,
        "context_tokens explanation max_sequences model stages",
    );
    has_keys(
        &plan["stages"][0],
        "address kv_bytes layers memory_budget_bytes name predicted_decode_us predicted_prefill_us_per_token \
         scratch_bytes weights_bytes worker",
    );
    assert_eq!(plan["stages"][0]["layers"], json!([0, 30]));
}

#[test]
fn a_bench_measures_what_it_was_asked_for() {
    let path = model(SMOLLM2).display().to_string();
    let arguments = [
        "--prompt",
        "16,32",
        "--generate",
        "4",
        "--batch",
        "1,2",
        "--repeat",
        "1",
        "--model",
        &path,
    ];
    let report = invoke(["bench", "--json"].iter().chain(&arguments))
        .finish()
        .json();
    has_keys(
        &report,
        "int8_macs_per_second isa load_seconds memory model read_bytes_per_second results rounds threads",
    );
    has_keys(
        &report["memory"],
        "file_bytes kv_bytes scratch_bytes weights_bytes",
    );
    assert!(
        report["read_bytes_per_second"].as_f64() > Some(0.0),
        "{report}"
    );
    let measured: Vec<_> = report["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| {
            has_keys(
                result,
                "batch depth limit_tokens_per_second test tokens tokens_per_second",
            );
            for speed in ["tokens_per_second", "limit_tokens_per_second"] {
                assert!(result[speed].as_f64() > Some(0.0), "{result}");
            }
            (
                result["test"].as_str().expect("a test"),
                &result["tokens"],
                &result["batch"],
            )
        })
        .collect();
    let (one, two) = (&json!(1), &json!(2));
    let four = &json!(4);
    let expected = [
        ("prefill", &json!(16), one),
        ("prefill", &json!(32), one),
        ("decode", four, one),
        ("decode", four, two),
    ];
    assert_eq!(measured, expected);
    let peer = ["bench", "--peer", "no/llama-bench", "--model", &path];
    let refused = invoke(peer).finish().refusal();
    assert!(refused.contains("llama-bench"), "{refused}");
}

#[test]
fn the_events_of_a_server_have_their_keys() {
    let (cluster, model) = (Cluster::default(), model(SMOLLM2));
    let coordinator = cluster.serve(&model, 1, &[]);
    let mut worker = cluster.worker("ann", &[]);
    coordinator.ready(0);
    worker.process.kill();
    let keys = [
        ("worker_found", "address event name"),
        ("planned", "event plan"),
        (
            "loaded",
            "cached_bytes event fetched_bytes from load_ms name",
        ),
        ("ready", "event ring_us"),
        ("worker_lost", "event name why"),
        ("down", "event why"),
    ];
    for (kind, keys) in keys {
        let (event, _) = coordinator
            .process
            .event(kind, 0, potluck_tests::process::PATIENCE);
        has_keys(&event, keys);
    }
}

/// The object has exactly these keys.
fn has_keys(value: &Value, keys: &str) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"));
    let found: BTreeSet<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(
        found,
        keys.split_whitespace().collect::<BTreeSet<_>>(),
        "{value:#}"
    );
}
