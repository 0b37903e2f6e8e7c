//! What the planner promises a stage, a worker must be able to load: it never asks for more than was planned.

use potluck_coordinator::planner::{Candidate, PlanRequest, plan};
use potluck_coordinator::store::Model;
use potluck_gguf::Gguf;
use potluck_kernels::Kernels;
use potluck_proto::{KvCacheType, NodeId};
use potluck_tests::models;
use potluck_worker::{FileSource, StageConfig, StageLimits, WeightStorage};

fn workers(n: u8) -> Vec<Candidate> {
    let worker = |i| Candidate {
        id: NodeId([i; 16]),
        name: format!("w{i}"),
        address: String::new(),
        memory_budget_bytes: 1 << 50,
        weight_bytes_per_second: 1e10,
        macs_per_second: 1e11,
    };
    (0..n).map(worker).collect()
}

#[test]
fn a_stage_never_needs_more_than_was_planned() {
    let wanted = [
        Some(models::model(models::SMOLLM2)),
        models::model_if_wanted(models::GEMMA3),
    ];
    for path in wanted.into_iter().flatten() {
        let model = Model::open(&path, &models::cache(), |_| {}).unwrap();
        let file = std::fs::read(&path).unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        for (n_workers, context_tokens, max_sequences, max_step_tokens, kv_cache) in [
            (1, 512, 1, 512, KvCacheType::F16),
            (2, 2048, 4, 512, KvCacheType::Q8_0),
            (3, 1000, 64, 128, KvCacheType::F16),
            (5, 130, 256, 2048, KvCacheType::Q8_0),
        ] {
            let request = PlanRequest {
                model: model.cost(kv_cache),
                context_tokens,
                max_sequences,
                max_step_tokens,
                workers: workers(n_workers),
                n_stages: Some(usize::from(n_workers)),
            };
            for stage in plan(&request).unwrap().stages {
                let config = StageConfig {
                    shape: model.shape().clone(),
                    span: stage.layers.clone(),
                    limits: StageLimits {
                        context_tokens: context_tokens as usize,
                        max_sequences: max_sequences as usize,
                        max_step_tokens: max_step_tokens as usize,
                        memory_budget_bytes: None,
                    },
                    kv_cache,
                    weights: WeightStorage::Packed,
                };
                let source = FileSource::new(&gguf);
                let needs = config.memory(&source, Kernels::detect()).unwrap();
                let (name, layers) = (model.name(), &stage.layers);
                let case = format!(
                    "{name}, layers {layers:?}, {max_sequences} of {context_tokens} tokens: {needs:?}"
                );
                assert!(
                    needs.total_bytes() <= stage.needed_bytes(),
                    "{case} against {stage:?}"
                );
                assert!(
                    needs.weights_bytes <= stage.weights_bytes + (64 << 10),
                    "{case} against {stage:?}"
                );
            }
        }
    }
}
