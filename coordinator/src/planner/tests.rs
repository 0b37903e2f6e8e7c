//! Tables of plans that a person can check by hand, and properties against trying every cut.

use proptest::prelude::*;

use super::cost::SpanCosts;
use super::*;

const MIB: u64 = 1 << 20;

fn layer(bytes: u64) -> LayerCost {
    LayerCost {
        bytes,
        kv_bytes_per_position: 1024,
        macs: bytes,
    }
}

fn model(layer_mib: &[u64]) -> ModelCost {
    ModelCost {
        name: "tiny".to_owned(),
        layers: layer_mib.iter().map(|mib| layer(mib * MIB)).collect(),
        embedding_bytes: 40 * MIB,
        head_bytes: MIB,
        tied_output: true,
        shared_bytes: 0,
        scratch: ScratchCost {
            bytes_per_token: 4096,
            bytes_per_sample: 200_000,
            bytes_per_kept_token: 0,
            bytes_per_position: 0,
        },
    }
}

fn worker(n: u8, memory_mib: u64, gb_per_second: f64) -> Candidate {
    Candidate {
        id: NodeId([n; 16]),
        name: format!("w{n}"),
        address: format!("10.0.0.{n}:7071"),
        memory_budget_bytes: memory_mib * MIB,
        weight_bytes_per_second: gb_per_second * 1e9,
        macs_per_second: gb_per_second * 1e10,
    }
}

fn request(model: ModelCost, workers: Vec<Candidate>) -> PlanRequest {
    PlanRequest {
        model,
        context_tokens: 1000,
        max_sequences: 2,
        max_step_tokens: 512,
        workers,
        n_stages: None,
    }
}

/// First layer and one past the last of every stage.
fn layers(plan: &Plan) -> Vec<(u32, u32)> {
    plan.stages
        .iter()
        .map(|stage| (stage.layers.start, stage.layers.end))
        .collect()
}

#[test]
fn one_worker_takes_everything_and_holds_a_tied_embedding_once() {
    let plan = plan(&request(model(&[10; 6]), vec![worker(1, 4096, 10.0)])).unwrap();
    assert_eq!(layers(&plan), [(0, 6)]);
    let stage = &plan.stages[0];
    assert_eq!(stage.weights_bytes, (60 + 40 + 1) * MIB);
    // 1 000 positions take 8 blocks.
    assert_eq!(stage.kv_bytes, 6 * 2 * 1024 * 1024);
    assert_eq!(stage.scratch_bytes, 16 * MIB + 512 * 4096 + 2 * 200_000);
}

#[test]
fn the_head_counts_as_work_of_the_last_stage() {
    // Layers of 10 MiB and a head of 41: equal speeds meet at 7 + 3 layers (70 MiB against 71).
    let plan = plan(&request(
        model(&[10; 10]),
        vec![worker(1, 4096, 10.0), worker(2, 4096, 10.0)],
    ))
    .unwrap();
    assert_eq!(layers(&plan), [(0, 7), (7, 10)]);
    assert_eq!(plan.stages[0].weights_bytes, (70 + 40) * MIB);
    assert_eq!(plan.stages[1].weights_bytes, (30 + 40 + 1) * MIB);
}

#[test]
fn noise_in_the_speeds_moves_no_layer() {
    let cut = |speed: f64| {
        let workers = vec![worker(1, 4096, 10.0), worker(2, 4096, speed)];
        layers(&plan(&request(model(&[10; 30]), workers)).unwrap())
    };
    assert_eq!(cut(9.0), cut(10.0));
    assert_eq!(cut(11.5), cut(10.0));
    assert_ne!(cut(20.0), cut(10.0));
}

#[test]
fn faster_workers_get_more_layers_and_memory_is_a_wall() {
    let mut untied = model(&[10; 12]);
    (untied.tied_output, untied.embedding_bytes) = (false, 0);
    let fast = worker(1, 4096, 20.0);
    let plan_of = |memory| {
        let workers = vec![fast.clone(), worker(2, memory, 10.0)];
        layers(&plan(&request(untied.clone(), workers)).unwrap())
    };
    assert_eq!(plan_of(4096), [(0, 8), (8, 12)]);
    // 16 MiB fixed, 2.4 of buffers, 1 of head and 2 of KV a layer: two layers fit into 44 MiB.
    assert_eq!(plan_of(44), [(0, 10), (10, 12)]);
}

#[test]
fn more_workers_than_layers_leaves_some_out_and_says_so() {
    let workers = (1..=4).map(|n| worker(n, 4096, 10.0)).collect();
    let plan = plan(&request(model(&[10; 3]), workers)).unwrap();
    assert_eq!(layers(&plan), [(0, 1), (1, 2), (2, 3)]);
    assert!(plan.explain().contains("Not used: w"), "{plan}");
}

#[test]
fn a_worker_that_can_hold_nothing_is_passed_by() {
    let workers = vec![
        worker(1, 4096, 10.0),
        worker(2, 0, 10.0),
        worker(3, 4096, 10.0),
    ];
    let plan = plan(&request(model(&[10; 10]), workers)).unwrap();
    assert_eq!(
        plan.stages
            .iter()
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>(),
        ["w1", "w3"]
    );
    assert!(plan.to_string().contains("Not used: w2"), "{plan}");
}

#[test]
fn a_stage_count_is_kept_or_refused() {
    let with = |n_stages| {
        let workers = (1..=3).map(|n| worker(n, 4096, n.into())).collect();
        plan(&PlanRequest {
            n_stages: Some(n_stages),
            ..request(model(&[10; 10]), workers)
        })
    };
    assert_eq!(with(2).unwrap().stages.len(), 2);
    // The fastest of the three is alone the best single stage.
    assert_eq!(with(1).unwrap().stages[0].name, "w3");
    for wanted in [0, 4] {
        let error = with(wanted).unwrap_err();
        assert!(error.to_string().ends_with("ask for 1 to 3"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_a_way_out() {
    let tight = |context_tokens| PlanRequest {
        context_tokens,
        ..request(model(&[10; 10]), vec![worker(1, 200, 10.0)])
    };
    let error = plan(&tight(1 << 20)).unwrap_err();
    let text = error.to_string();
    for part in [
        "tiny does not fit: for 2 sequences of 1048576 tokens it needs at least 20.2 GiB",
        "weights 141 MiB, KV cache 20.0 GiB",
        "the workers offer 200 MiB (w1 200 MiB)",
        "What fits: a context of 2048 tokens.",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    plan(&tight(2048)).unwrap();
    plan(&tight(2049)).unwrap_err();
}

#[test]
fn pieces_that_are_too_small_are_told_from_too_little_memory() {
    let of = |memory: u64| {
        let workers = (1..=3).map(|n| worker(n, memory, 10.0)).collect();
        plan(&request(model(&[100, 100]), workers))
            .unwrap_err()
            .to_string()
    };
    assert!(of(10).contains("At least 2"), "{}", of(10));
    assert!(of(110).contains("not in these pieces"), "{}", of(110));
}

#[test]
fn nonsense_requests_are_refused() {
    assert_eq!(
        plan(&request(model(&[1]), vec![])),
        Err(PlanError::NoWorkers)
    );
    let one = vec![worker(1, 4096, 1.0)];
    for n_layers in [0, MAX_PLANNED_LAYERS + 1] {
        let error = plan(&request(model(&vec![1; n_layers]), one.clone())).unwrap_err();
        assert!(matches!(error, PlanError::LayerCount { .. }), "{error}");
    }
    let crowd = vec![worker(1, 4096, 1.0); MAX_STAGES + 1];
    let error = plan(&request(model(&[1]), crowd)).unwrap_err();
    assert!(matches!(error, PlanError::TooManyWorkers { .. }), "{error}");
}

#[test]
fn sizes_beyond_all_machines_do_not_overflow() {
    let mut huge = model(&[1; 4]);
    for layer in &mut huge.layers {
        *layer = LayerCost {
            bytes: u64::MAX,
            kv_bytes_per_position: u64::MAX,
            macs: u64::MAX,
        };
    }
    (huge.embedding_bytes, huge.head_bytes) = (u64::MAX, u64::MAX);
    let mut workers = vec![worker(1, 0, f64::NAN), worker(2, 0, 1.0)];
    workers[0].memory_budget_bytes = u64::MAX;
    let mut request = request(huge, workers);
    (request.context_tokens, request.max_sequences) = (u32::MAX, u32::MAX);
    let outcome = plan(&request);
    assert!(!format!("{outcome:?}").is_empty());
}

#[test]
fn a_plan_reads_well_and_serialises() {
    let mut workers = vec![worker(1, 4096, 10.0), worker(2, 512, 1.0)];
    (workers[0].name, workers[1].name) = ("pc".to_owned(), "old-laptop".to_owned());
    let plan = plan(&request(model(&[10; 10]), workers)).unwrap();
    let want = "\
tiny: 10 layers in 2 stages, for 2 sequences of up to 1000 tokens

worker      layers   weights  KV cache   buffers    needed  offered  ms/token
pc             0-8   130 MiB  18.0 MiB  18.0 MiB   166 MiB  4.0 GiB      9.44
old-laptop     9-9  51.0 MiB   2.0 MiB  18.4 MiB  71.4 MiB  512 MiB     53.48

The slowest stage is old-laptop: 53.48 ms of 62.91 ms per token.
One answer alone: at most 16 tokens/s, before the network and a long context take their share.
Several answers at once keep all stages busy: a step every 53.48 ms.
Without old-laptop the slowest stage would take 14.78 ms instead of 53.48 ms.
";
    assert_eq!(plan.explain(), want, "\n{plan}");
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["stages"][1]["layers"], serde_json::json!([9, 10]));
    assert_eq!(json["stages"][0]["worker"], "01".repeat(16));
}

/// Value of a list of spans by the same rules as the planner: slowest stage, then sum of squares.
fn worth(
    costs: &SpanCosts,
    request: &PlanRequest,
    speeds: &[f64],
    cut: &[Cut],
) -> Option<(u64, u128)> {
    let times: Option<Vec<u64>> = cut
        .iter()
        .map(|cut| {
            let fits = costs.memory(&cut.layers).needed_bytes()
                <= request.workers[cut.worker].memory_budget_bytes;
            let seconds = costs.read_bytes(&cut.layers) as f64 / speeds[cut.worker];
            fits.then_some((seconds * 1e9).round() as u64)
        })
        .collect();
    let times = times?;
    let squares = times
        .iter()
        .map(|&ns| u128::from(ns) * u128::from(ns))
        .sum();
    Some((times.into_iter().max()?, squares))
}

/// Every way to give layers `from..` to some of the workers `first..`.
fn every_cut(first: usize, n_workers: usize, from: usize, n_layers: usize) -> Vec<Vec<Cut>> {
    if from == n_layers {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for worker in first..n_workers {
        for to in from + 1..=n_layers {
            for rest in every_cut(worker + 1, n_workers, to, n_layers) {
                let head = Cut {
                    worker,
                    layers: from..to,
                };
                all.push(std::iter::once(head).chain(rest).collect());
            }
        }
    }
    all
}

prop_compose! {
    fn any_request()(
        layer_mib in prop::collection::vec(1u64..40, 1..7),
        workers in prop::collection::vec((0u64..260, 1u32..40), 1..5),
        tied_output in any::<bool>(),
        embedding_mib in 0u64..40,
        context_tokens in 1u32..3000,
        max_sequences in 1u32..4,
        n_stages in prop::option::of(1usize..5),
    ) -> PlanRequest {
        let mut model = model(&layer_mib);
        (model.tied_output, model.embedding_bytes) = (tied_output, embedding_mib * MIB);
        let workers: Vec<Candidate> = workers
            .into_iter()
            .zip(1..)
            .map(|((memory, speed), n)| worker(n, memory, speed.into()))
            .collect();
        let most = workers.len().min(layer_mib.len());
        PlanRequest {
            context_tokens,
            max_sequences,
            n_stages: n_stages.map(|n| n.min(most)),
            ..request(model, workers)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_are_the_best_of_all_cuts(request in any_request()) {
        let costs = SpanCosts::new(&request);
        let speeds = speed::evened(request.workers.iter().map(|w| w.weight_bytes_per_second));
        let feasible: Vec<_> = every_cut(0, request.workers.len(), 0, costs.n_layers())
            .into_iter()
            .filter(|cut| request.n_stages.is_none_or(|n| n == cut.len()))
            .filter_map(|cut| Some((cut.len(), worth(&costs, &request, &speeds, &cut)?)))
            .collect();
        let most = feasible.iter().map(|(n_stages, _)| *n_stages).max();
        let best = feasible.iter().filter(|(n, _)| Some(*n) == most).map(|(_, worth)| *worth).min();

        match plan(&request) {
            Err(error) => {
                prop_assert!(matches!(error, PlanError::DoesNotFit(_)), "{error}");
                prop_assert_eq!(best, None);
            }
            Ok(plan) => {
                let index = |stage: &StagePlan| usize::from(stage.worker.0[0]) - 1;
                let cut: Vec<Cut> = plan.stages.iter().map(|stage| Cut {
                    worker: index(stage),
                    layers: stage.layers.start as usize..stage.layers.end as usize,
                }).collect();
                prop_assert_eq!(Some(cut.len()), most);
                prop_assert_eq!(worth(&costs, &request, &speeds, &cut), best);
            }
        }
    }

    #[test]
    fn plans_cover_all_layers_once_within_budgets(request in any_request()) {
        let Ok(plan) = plan(&request) else { return Ok(()) };
        let mut next = 0;
        for stage in &plan.stages {
            prop_assert_eq!(stage.layers.start, next);
            prop_assert!(!stage.layers.is_empty());
            prop_assert!(stage.needed_bytes() <= stage.memory_budget_bytes);
            next = stage.layers.end;
        }
        prop_assert_eq!(next as usize, request.model.layers.len());
        prop_assert_eq!(super::plan(&request).unwrap(), plan);
    }
}

#[test]
fn kept_outputs_and_angles_are_counted_where_they_are_held() {
    let mut model = model(&[10; 4]);
    model.scratch.bytes_per_kept_token = 256;
    model.scratch.bytes_per_position = 64;
    let workers = vec![worker(1, 4096, 10.0), worker(2, 4096, 10.0)];
    let mut request = request(model, workers);
    request.n_stages = Some(2);
    let plan = plan(&request).unwrap();
    let always = 16 * MIB + 512 * 4096 + 1000 * 64;
    assert_eq!(plan.stages[0].scratch_bytes, always + 2 * 512 * 256);
    assert_eq!(plan.stages[1].scratch_bytes, always + 2 * 200_000);
}
