//! What a stage promises, on tiny random models of every architecture: the same bits however a sequence is cut up, and
//! every broken rule answered with a fault that leaves the rest alone.

mod tiny;

use potluck_gguf::{Gguf, ModelShape};
use potluck_kernels::{Isa, Kernels, Pool};
use potluck_proto::{KvCacheType, LogitBias, Run, RunResult, Sampling, SeqId, Step};
use potluck_worker::{
    Fault, FileSource, LoadError, Stage, StageConfig, StageLimits, StepOutput, WeightStorage,
};
use tiny::{ARCHITECTURES, D_MODEL, N_LAYERS, N_VOCAB, TinyModel};

const LIMITS: StageLimits = StageLimits {
    context_tokens: 300,
    max_sequences: 3,
    max_step_tokens: 256,
    memory_budget_bytes: None,
};

fn load_span(
    file: &[u8],
    span: std::ops::Range<u32>,
    isa: Isa,
    n_threads: usize,
) -> Result<Stage, LoadError> {
    load_with(file, span, isa, n_threads, LIMITS, KvCacheType::F16)
}

fn load_with(
    file: &[u8],
    span: std::ops::Range<u32>,
    isa: Isa,
    n_threads: usize,
    limits: StageLimits,
    kv_cache: KvCacheType,
) -> Result<Stage, LoadError> {
    let gguf = Gguf::parse(file).unwrap();
    let shape = ModelShape::from_metadata(gguf.metadata())?;
    let config = StageConfig {
        shape,
        span,
        limits,
        kv_cache,
        weights: WeightStorage::Packed,
    };
    let kernels = Kernels::new(isa).unwrap();
    Stage::load(
        config,
        &FileSource::new(&gguf),
        kernels,
        Pool::new(n_threads),
        Default::default(),
        &mut |_, _| {},
    )
}

/// A ring of stages in one thread.
struct Ring(Vec<Stage>);

impl Ring {
    fn new(file: &[u8], cuts: &[u32], isa: Isa, n_threads: usize, kv_cache: KvCacheType) -> Ring {
        let mut bounds = vec![0];
        bounds.extend_from_slice(cuts);
        bounds.push(N_LAYERS);
        let stages = bounds
            .windows(2)
            .map(|w| load_with(file, w[0]..w[1], isa, n_threads, LIMITS, kv_cache).unwrap());
        Ring(stages.collect())
    }

    fn step(&mut self, mut step: Step) -> StepOutput {
        let mut hidden = Vec::new();
        let mut output = None;
        for stage in &mut self.0 {
            let out = stage.step(&step, &hidden);
            step.runs = out.runs.clone();
            hidden = out.hidden.clone();
            output = Some(out);
        }
        output.unwrap()
    }

    /// The answer to a prompt that is sent in chunks of `chunk` tokens.
    fn answer(
        &mut self,
        seq: u64,
        prompt: &[u32],
        chunk: usize,
        n: usize,
        temperature: f32,
    ) -> Vec<u32> {
        let sampling = Sampling {
            temperature,
            seed: 5,
            ..Sampling::greedy()
        };
        let drawn = self.draw(seq, prompt, chunk, n, &sampling);
        drawn.iter().map(|result| result.token.unwrap()).collect()
    }

    /// What comes back with each token of such an answer.
    fn draw(
        &mut self,
        seq: u64,
        prompt: &[u32],
        chunk: usize,
        n: usize,
        sampling: &Sampling,
    ) -> Vec<RunResult> {
        let mut compute = |pos: usize, tokens: &[u32], index: Option<usize>| {
            let run = Run {
                seq: SeqId(seq),
                pos: pos as u32,
                tokens: tokens.to_vec(),
                rollback: false,
                sampling: index.map(|index| Sampling {
                    index: index as u32,
                    ..sampling.clone()
                }),
            };
            self.step(Step::of_run(run)).results.remove(0)
        };
        let mut pos = 0;
        let mut drawn = Vec::new();
        for part in prompt.chunks(chunk) {
            let is_last = pos + part.len() == prompt.len();
            let result = compute(pos, part, is_last.then_some(0));
            drawn.extend(is_last.then_some(result));
            pos += part.len();
        }
        while drawn.len() < n {
            let newest = drawn[drawn.len() - 1].token.unwrap();
            drawn.push(compute(pos, &[newest], Some(drawn.len())));
            pos += 1;
        }
        drawn
    }
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 7 + 3) % N_VOCAB).collect()
}

#[test]
fn an_answer_does_not_depend_on_how_it_was_computed() {
    for architecture in ARCHITECTURES {
        let file = TinyModel::new(architecture).to_bytes();
        let prompt = prompt(150);
        for (temperature, kv_cache) in [
            (0.0, KvCacheType::F16),
            (0.9, KvCacheType::F16),
            (0.9, KvCacheType::Q8_0),
        ] {
            let mut plain = Ring::new(&file, &[], Isa::detect(), 1, kv_cache);
            let want = plain.answer(1, &prompt, 256, 12, temperature);
            for (cuts, threads, chunk, isa) in [
                (&[][..], 2, 64, Isa::detect()),
                (&[2][..], 1, 256, Isa::detect()),
                (&[1, 3][..], 3, 1, Isa::detect()),
                (&[3][..], 2, 100, Isa::Scalar),
            ] {
                let mut ring = Ring::new(&file, cuts, isa, threads, kv_cache);
                let got = ring.answer(1, &prompt, chunk, 12, temperature);
                assert_eq!(
                    got, want,
                    "{architecture} cut at {cuts:?}, {threads} threads, chunks of {chunk}, {isa:?}, {kv_cache}"
                );
            }
        }
    }
}

/// Every option of sampling at once, and the log-probabilities of what it gives.
fn every_option() -> Sampling {
    let never = |token| LogitBias {
        token,
        bias: f32::NEG_INFINITY,
    };
    Sampling {
        seed: 5,
        temperature: 0.9,
        top_k: 40,
        top_p: 0.98,
        repeat_penalty: 1.2,
        penalty_window: 1000,
        logit_bias: (0..N_VOCAB / 2).map(never).collect(),
        top_logprobs: Some(5),
        typical_p: 0.95,
        top_n_sigma: 3.0,
        xtc_probability: 0.5,
        xtc_threshold: 0.05,
        dynatemp_range: 0.5,
        ..Sampling::greedy()
    }
}

#[test]
fn options_and_log_probabilities_do_not_depend_on_how_it_was_computed_either() {
    for architecture in ARCHITECTURES {
        let file = TinyModel::new(architecture).to_bytes();
        let (prompt, options) = (prompt(70), every_option());
        let ring = |cuts: &[u32], isa| Ring::new(&file, cuts, isa, 2, KvCacheType::F16);
        let want = ring(&[], Isa::detect()).draw(1, &prompt, 256, 12, &options);
        for result in &want {
            assert!(
                result.token.unwrap() >= N_VOCAB / 2,
                "the others are forbidden"
            );
            let logprobs = result.logprobs.as_ref().unwrap();
            assert_eq!(logprobs.top.len(), 5);
            assert!(logprobs.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
            assert!(logprobs.drawn <= logprobs.top[0].logprob);
        }
        for (cuts, chunk, isa) in [(&[2][..], 256, Isa::detect()), (&[1, 3], 7, Isa::Scalar)] {
            let got = ring(cuts, isa).draw(1, &prompt, chunk, 12, &options);
            assert_eq!(got, want, "{architecture} cut at {cuts:?}, {isa:?}");
        }
        // A log that is sent again, as when a worker was lost, goes on with what would have come.
        let tokens: Vec<_> = want.iter().map(|result| result.token.unwrap()).collect();
        let log = [&prompt, &tokens[..6]].concat();
        let mut again = ring(&[2], Isa::detect());
        let run = Run {
            seq: SeqId(1),
            pos: 0,
            tokens: log,
            rollback: false,
            sampling: Some(Sampling {
                index: 6,
                ..options
            }),
        };
        let step = Step::of_run(run);
        let result = again.step(step.clone()).results.remove(0);
        assert_eq!(result, want[6], "{architecture}");
        assert_eq!(again.step(step).results[0], result, "told again as it was");
    }
}

#[test]
fn biases_outside_the_vocabulary_or_against_all_of_it_are_faults() {
    let file = TinyModel::new("llama").to_bytes();
    let mut stage = load_span(&file, 0..N_LAYERS, Isa::detect(), 1).unwrap();
    let mut fault = |seq, ids: std::ops::Range<u32>| {
        let never = |token| LogitBias {
            token,
            bias: f32::NEG_INFINITY,
        };
        let run = Run {
            seq: SeqId(seq),
            pos: 0,
            tokens: vec![1],
            rollback: false,
            sampling: Some(Sampling {
                logit_bias: ids.map(never).collect(),
                ..Sampling::greedy()
            }),
        };
        let faults = stage.step(&Step::of_run(run), &[]).faults;
        faults.first().map(|fault| (fault.fault, fault.why.clone()))
    };
    let (kind, why) = fault(1, N_VOCAB..N_VOCAB + 1).unwrap();
    assert_eq!(kind, Fault::Invalid);
    assert!(why.contains("outside the vocabulary"), "{why}");
    let (kind, why) = fault(2, 0..N_VOCAB).unwrap();
    assert_eq!(kind, Fault::Invalid);
    assert!(why.contains("forbid every token"), "{why}");
    assert_eq!(fault(3, 1..N_VOCAB), None, "one is left");
}

#[test]
fn weights_that_stay_where_they_are_give_the_same_answer_and_take_no_memory() {
    for architecture in ARCHITECTURES {
        let file = TinyModel::new(architecture).to_bytes();
        let gguf = Gguf::parse(&file).unwrap();
        let [packed, mapped] = [WeightStorage::Packed, WeightStorage::Mapped].map(|weights| {
            let config = StageConfig {
                shape: ModelShape::from_metadata(gguf.metadata()).unwrap(),
                span: 0..N_LAYERS,
                limits: LIMITS,
                kv_cache: KvCacheType::F16,
                weights,
            };
            let (source, mut reported) = (FileSource::new(&gguf), (0, 0));
            let stage = Stage::load(
                config,
                &source,
                Kernels::detect(),
                Pool::new(2),
                Default::default(),
                &mut |done, total| reported = (done, total),
            )
            .unwrap();
            assert_eq!(
                reported.0, reported.1,
                "{architecture}: progress ends at its end"
            );
            let weights_bytes = stage.memory().weights_bytes;
            (
                weights_bytes,
                Ring(vec![stage]).answer(1, &prompt(70), 256, 12, 0.0),
            )
        });
        assert_eq!(packed.1, mapped.1, "{architecture}");
        assert!(
            mapped.0 < packed.0 / 10,
            "{architecture}: {mapped:?} {packed:?}"
        );
    }
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    for architecture in ARCHITECTURES {
        let file = TinyModel::new(architecture).to_bytes();
        let mut alone = Ring::new(&file, &[2], Isa::detect(), 2, KvCacheType::F16);
        let want = alone.answer(1, &prompt(20), 256, 6, 0.7);
        let mut ring = Ring::new(&file, &[2], Isa::detect(), 2, KvCacheType::F16);
        let run = |seq: u64, pos: usize, tokens: &[u32], index: u32| Run {
            seq: SeqId(seq),
            pos: pos as u32,
            tokens: tokens.to_vec(),
            rollback: false,
            sampling: Some(Sampling {
                temperature: 0.7,
                seed: 5,
                index,
                ..Sampling::greedy()
            }),
        };
        let mut got: Vec<u32> = Vec::new();
        let mut next = prompt(20);
        for i in 0..6 {
            let pos = if i == 0 { 0 } else { 19 + i };
            let mut step = Step::of_run(run(9, i * 5, &prompt(5), 0));
            step.runs.push(run(1, pos, &next, i as u32));
            let output = ring.step(step);
            next = vec![output.results[1].token.unwrap()];
            got.extend_from_slice(&next);
        }
        assert_eq!(got, want, "{architecture}");
    }
}

#[test]
fn a_repeated_run_gets_the_same_answer_and_a_gap_is_refused() {
    let file = TinyModel::new("llama").to_bytes();
    let mut stage = load_span(&file, 0..2, Isa::detect(), 1).unwrap();
    let run = |pos: u32, n: usize| Run {
        seq: SeqId(1),
        pos,
        tokens: prompt(pos as usize + n)[pos as usize..].to_vec(),
        rollback: false,
        sampling: None,
    };
    let first = stage.step(&Step::of_run(run(0, 10)), &[]);
    assert_eq!(first.hidden.len(), 10 * D_MODEL as usize);
    let second = stage.step(&Step::of_run(run(10, 3)), &[]);
    assert_eq!(
        stage.step(&Step::of_run(run(10, 3)), &[]),
        second,
        "the last run over again"
    );

    let gap = stage.step(&Step::of_run(run(20, 1)), &[]);
    assert_eq!(
        (gap.faults[0].fault, gap.faults[0].kv_len),
        (Fault::Gap, 13)
    );
    let early = stage.step(&Step::of_run(run(0, 10)), &[]);
    assert_eq!(
        early.faults[0].fault,
        Fault::Gap,
        "not the last run any more"
    );

    let rolled = Run {
        rollback: true,
        ..run(10, 3)
    };
    assert_eq!(
        stage.step(&Step::of_run(rolled), &[]),
        StepOutput {
            runs: vec![Run {
                rollback: true,
                ..run(10, 3)
            }],
            ..second.clone()
        }
    );
    assert_eq!(
        stage.step(&Step::of_run(run(13, 1)), &[]).results[0].kv_len,
        14
    );
}

#[test]
fn broken_rules_are_faults_and_touch_nobody_else() {
    let file = TinyModel::new("gemma3").to_bytes();
    let mut stage = load_span(&file, 0..N_LAYERS, Isa::detect(), 1).unwrap();
    let run = |seq: u64, pos: u32, tokens: Vec<u32>| Run {
        seq: SeqId(seq),
        pos,
        tokens,
        rollback: false,
        sampling: None,
    };
    let fault = |stage: &mut Stage, run: Run| stage.step(&Step::of_run(run), &[]).faults[0].fault;

    assert_eq!(
        fault(&mut stage, run(1, 0, vec![N_VOCAB])),
        Fault::Invalid,
        "a token outside the vocabulary"
    );
    assert_eq!(
        fault(&mut stage, run(1, 4, vec![1])),
        Fault::Gap,
        "a sequence that begins in the middle"
    );
    assert_eq!(
        fault(&mut stage, run(1, 299, vec![1, 2])),
        Fault::KvFull,
        "beyond the context"
    );
    let mut step = Step::of_run(run(1, 0, vec![1, 2]));
    step.runs.push(run(2, 7, vec![1]));
    step.runs.push(run(3, 0, vec![3]));
    let output = stage.step(&step, &[]);
    assert_eq!(output.faults.len(), 1);
    assert_eq!(
        output
            .results
            .iter()
            .map(|r| (r.seq.0, r.kv_len))
            .collect::<Vec<_>>(),
        [(1, 2), (3, 1)]
    );
    stage.step(&Step::of_run(run(4, 0, vec![1])), &[]);
    assert_eq!(
        fault(&mut stage, run(5, 0, vec![1])),
        Fault::KvFull,
        "one sequence too many"
    );
    let too_long = run(1, 2, vec![1; 257]);
    assert_eq!(
        fault(&mut stage, too_long),
        Fault::Invalid,
        "a step longer than agreed"
    );

    let release = Step {
        release: vec![SeqId(1), SeqId(77)],
        runs: vec![],
        ..Step::of_run(run(1, 0, vec![1]))
    };
    stage.step(&release, &[]);
    assert!(
        stage
            .step(&Step::of_run(run(5, 0, vec![1])), &[])
            .faults
            .is_empty(),
        "a place is free again"
    );
    stage.reset();
    assert_eq!(stage.n_sequences(), 0);
}

#[test]
fn values_that_are_no_numbers_stop_at_the_stage_that_sees_them() {
    let file = TinyModel::new("qwen2").to_bytes();
    let mut stage = load_span(&file, 2..N_LAYERS, Isa::detect(), 1).unwrap();
    let run = |seq| Run {
        seq: SeqId(seq),
        pos: 0,
        tokens: vec![1],
        rollback: false,
        sampling: Some(Sampling::greedy()),
    };
    let mut step = Step::of_run(run(1));
    step.runs.push(run(2));
    let mut input = vec![0.5; 2 * D_MODEL as usize];
    input[3] = f32::NAN;
    let output = stage.step(&step, &input);
    assert_eq!(output.faults[0].fault, Fault::NotFinite);
    assert_eq!(output.results.len(), 1);
    assert!(
        output.results[0].token.is_some(),
        "the other sequence has its token"
    );
}

#[test]
fn files_that_contradict_themselves_are_refused_by_name() {
    for architecture in ARCHITECTURES {
        let complete = TinyModel::new(architecture);
        for name in complete.tensor_names() {
            let file = complete.clone().without(&name).to_bytes();
            // A model without an output matrix uses its token embedding.
            let is_optional = name == "output.weight";
            match load_span(&file, 0..N_LAYERS, Isa::detect(), 1) {
                Err(LoadError::MissingTensor(missing)) => assert_eq!(missing, name),
                Err(err) => panic!("{architecture} without {name}: {err}"),
                Ok(_) => assert!(is_optional, "{architecture} loads without {name}"),
            }
            let file = complete.clone().with_wrong_shape(&name).to_bytes();
            let error = load_span(&file, 0..N_LAYERS, Isa::detect(), 1)
                .err()
                .unwrap();
            assert!(
                matches!(&error, LoadError::WrongShape { name: wrong, .. } if *wrong == name),
                "{name}: {error}"
            );
        }
    }
    let file = TinyModel::new("llama").to_bytes();
    for span in [3..3, 2..N_LAYERS + 1] {
        assert!(matches!(
            load_span(&file, span, Isa::detect(), 1),
            Err(LoadError::BadSpan { .. })
        ));
    }
}

#[test]
fn a_span_that_does_not_fit_is_refused_with_the_numbers() {
    let file = TinyModel::new("llama").to_bytes();
    let needed = load_span(&file, 0..2, Isa::detect(), 1)
        .unwrap()
        .memory()
        .total_bytes();
    let with_budget = |budget| {
        let limits = StageLimits {
            memory_budget_bytes: Some(budget),
            ..LIMITS
        };
        load_with(&file, 0..2, Isa::detect(), 1, limits, KvCacheType::F16)
    };
    assert!(with_budget(needed).is_ok());
    let error = with_budget(needed - 1).err().unwrap();
    assert!(matches!(error, LoadError::Memory(_)));
    assert!(error.to_string().contains("MiB"), "{error}");
}
