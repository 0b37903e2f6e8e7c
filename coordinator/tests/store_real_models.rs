//! Real files must open, be cut and be planned: what a tiny model cannot show.
//!
//! Runs on every `.gguf` file of the folder named by `POTLUCK_MODELS` and says so; without it there is nothing to check.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use potluck_coordinator::planner::{Candidate, PlanRequest, plan};
use potluck_coordinator::store::Model;
use potluck_proto::{KvCacheType, NodeId, limits::MAX_MESSAGE_BYTES};

fn models() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("POTLUCK_MODELS") else {
        eprintln!("POTLUCK_MODELS is not set: no real models to open");
        return Vec::new();
    };
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("cannot list {folder:?}: {e}"));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "gguf"));
    assert!(!paths.is_empty(), "no .gguf file in {folder:?}");
    paths
}

fn worker(n: u8) -> Candidate {
    Candidate {
        id: NodeId([n; 16]),
        name: format!("w{n}"),
        address: format!("10.0.0.{n}:7071"),
        memory_budget_bytes: 64 << 30,
        weight_bytes_per_second: 1e10,
        macs_per_second: 1e11,
    }
}

#[test]
fn every_real_model_opens_once_and_is_remembered() {
    let cache = tempfile::tempdir().unwrap();
    for path in models() {
        let start = Instant::now();
        let model =
            Model::open(&path, cache.path(), |_| ()).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let first = start.elapsed();
        let start = Instant::now();
        let again =
            Model::open(&path, cache.path(), |_| panic!("{path:?} was hashed again")).unwrap();
        eprintln!(
            "{}: opened in {first:?}, again in {:?}",
            model.name(),
            start.elapsed()
        );
        assert_eq!(again.model_hash(), model.model_hash());
    }
}

#[test]
fn plans_take_exactly_the_tensors_of_their_manifests() {
    let cache = tempfile::tempdir().unwrap();
    for path in models() {
        let model = Model::open(&path, cache.path(), |_| ()).unwrap();
        for n_workers in 1..=3 {
            let plan = plan(&PlanRequest {
                model: model.cost(KvCacheType::F16),
                context_tokens: 4096,
                max_sequences: 4,
                max_step_tokens: 512,
                workers: (1..=n_workers).map(worker).collect(),
                n_stages: None,
            })
            .unwrap();
            let mut fetched = HashSet::new();
            for stage in &plan.stages {
                let manifest = model.manifest_for(stage.layers.clone()).unwrap();
                assert_eq!(
                    manifest.n_bytes(),
                    stage.weights_bytes,
                    "{path:?} {:?}",
                    stage.layers
                );
                // Names and shapes take a small part of what a message may hold.
                assert!(manifest.tensors.len() * 256 < MAX_MESSAGE_BYTES);
                fetched.extend(manifest.tensors.into_iter().map(|tensor| tensor.name));
            }
            assert_eq!(
                fetched.len(),
                model.tensors().len(),
                "{path:?} over {n_workers}"
            );
        }
    }
}
