//! What a step allocates: its messages, and nothing while layers are computed.

#[allow(dead_code)] // shared with other tests
mod tiny;

use potluck_gguf::{Gguf, ModelShape};
use potluck_kernels::{Kernels, Pool};
use potluck_proto::{KvCacheType, Run, Sampling, SeqId, Step};
use potluck_worker::{FileSource, Stage, StageConfig, StageLimits, WeightStorage};
use tiny::{ARCHITECTURES, N_LAYERS, TinyModel};

/// Tokens before the steps that are counted: buffers have their size, and the page of the cache has room.
const WARM_UP: u32 = 140;

fn stage(file: &[u8], n_layers: u32, kv_cache: KvCacheType) -> Stage {
    let gguf = Gguf::parse(file).unwrap();
    let shape = ModelShape::from_metadata(gguf.metadata()).unwrap();
    let config = StageConfig {
        shape,
        span: N_LAYERS - n_layers..N_LAYERS,
        limits: StageLimits {
            context_tokens: 300,
            max_sequences: 2,
            max_step_tokens: 256,
            memory_budget_bytes: None,
        },
        kv_cache,
        weights: WeightStorage::Packed,
    };
    Stage::load(
        config,
        &FileSource::new(&gguf),
        Kernels::detect(),
        Pool::new(1),
        Default::default(),
        &mut |_, _| {},
    )
    .unwrap()
}

/// Tokens `pos .. pos + n` of a sequence.
fn step(pos: u32, n: u32) -> Step {
    Step::of_run(Run {
        seq: SeqId(1),
        pos,
        tokens: (pos..pos + n).map(|token| token % 7).collect(),
        rollback: false,
        sampling: Some(Sampling::greedy()),
    })
}

/// Allocations of one step of one token.
fn n_allocations(stage: &mut Stage, d_model: usize) -> u64 {
    let row = |n: u32| vec![0.25; n as usize * d_model];
    let is_first = stage.config().is_first();
    let input = |n| if is_first { Vec::new() } else { row(n) };
    assert!(
        stage
            .step(&step(0, WARM_UP), &input(WARM_UP))
            .faults
            .is_empty()
    );
    let one = input(1);
    for pos in WARM_UP..WARM_UP + 3 {
        stage.step(&step(pos, 1), &one);
    }
    let next = step(WARM_UP + 3, 1);
    allocation_counter::measure(|| {
        let output = stage.step(&next, &one);
        assert!(output.faults.is_empty());
    })
    .count_total
}

#[test]
fn layers_allocate_nothing() {
    for architecture in ARCHITECTURES {
        let file = TinyModel::new(architecture).to_bytes();
        for kv_cache in [KvCacheType::F16, KvCacheType::Q8_0] {
            let d_model = tiny::D_MODEL as usize;
            let counts = [1, N_LAYERS - 1]
                .map(|n_layers| n_allocations(&mut stage(&file, n_layers, kv_cache), d_model));
            assert_eq!(counts[0], counts[1], "{architecture}: one layer, and more");
            assert!(counts[0] < 16, "{architecture}: {counts:?}");
        }
    }
}
