//! A stage: a span of layers with its KV cache, and what one step does to it.
//!
//! One owner, no locks: the compute thread holds the stage and hands it one step after another. A step is idempotent: a run
//! that was computed before is answered again from what was kept, a gap is refused with what the stage holds.

mod admit;
mod sequence;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use potluck_gguf::ModelShape;
use potluck_kernels::{KV_BLOCK, Kernels, KvType, Pool, WeightMatrix};
use potluck_proto::{KvCacheType, Run, RunResult, SeqId, Step};

use crate::arch::{self, Head, Layers};
use crate::batch::Batch;
use crate::exec::{Exec, Scratch, Widths};
use crate::kv::{KvCache, KvShape};
use crate::load::{LoadError, Loader, TensorSource, WeightStorage};
use crate::memory::{MemoryUse, StageLimits};
use crate::sampling::{self, NoToken};
use admit::Admission;
use sequence::{LastOutput, Sequence};

pub use admit::{Fault, RunFault};

/// Runs whose logits are computed together: one group of columns of the kernels.
const HEAD_ROWS: usize = 16;

/// Which part of which model, and how much of it at once.
#[derive(Debug, Clone)]
pub struct StageConfig {
    /// Shape of the whole model.
    pub shape: ModelShape,
    /// Layers of this stage.
    pub span: Range<u32>,
    /// What it promises to hold.
    pub limits: StageLimits,
    /// How keys and values are stored.
    pub kv_cache: KvCacheType,
    /// How weights are held. The reference path stores keys and values as f32.
    pub weights: WeightStorage,
}

/// What a step gives.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutput {
    /// Runs that were computed or repeated, in order.
    pub runs: Vec<Run>,
    /// Hidden states of those runs `(n_tokens, d_model)`; empty at the last stage.
    pub hidden: Vec<f32>,
    /// One for each of `runs`.
    pub results: Vec<RunResult>,
    /// Runs that could not be computed.
    pub faults: Vec<RunFault>,
}

/// A span of layers, ready to run.
pub struct Stage {
    config: StageConfig,
    kernels: Kernels,
    pool: Pool,
    memory: MemoryUse,
    /// `(n_vocab, d_model)`, at the first stage.
    embedding: Option<Arc<WeightMatrix>>,
    layers: Layers,
    /// At the last stage.
    head: Option<Head>,
    kv: KvCache,
    sequences: HashMap<SeqId, Sequence>,
    /// Rows of the step and their hidden states `(n_tokens, d_model)`; kept for their memory, like `scratch`.
    batch: Batch,
    x: Vec<f32>,
    scratch: Scratch,
    logits: Vec<f32>,
    layers_done: Arc<AtomicU64>,
}

/// Everything of a span that comes from tensors.
struct Weights {
    embedding: Option<Arc<WeightMatrix>>,
    layers: Layers,
    head: Option<Head>,
}

impl Weights {
    fn load(loader: &mut Loader<'_>, config: &StageConfig) -> Result<Weights, LoadError> {
        let shape = &config.shape;
        let embedding = match config.is_first() {
            true => Some(Arc::new(loader.matrix(
                "token_embd.weight",
                shape.n_vocab,
                shape.d_model,
            )?)),
            false => None,
        };
        let layers = Layers::load(loader, shape, config.span.clone())?;
        let head = match config.is_last() {
            true => Some(Head::load(loader, shape, embedding.as_ref())?),
            false => None,
        };
        Ok(Weights {
            embedding,
            layers,
            head,
        })
    }
}

impl StageConfig {
    /// Whether this stage takes token ids.
    pub fn is_first(&self) -> bool {
        self.span.start == 0
    }

    /// Whether this stage samples.
    pub fn is_last(&self) -> bool {
        self.span.end == self.shape.n_layers
    }

    /// Exact bytes of the stage, from the tensor table alone. Checks every tensor on the way.
    pub fn memory(
        &self,
        source: &dyn TensorSource,
        kernels: Kernels,
    ) -> Result<MemoryUse, LoadError> {
        Ok(self.dry_run(source, kernels)?.0)
    }

    /// The same, and the bytes that loading goes through.
    fn dry_run(
        &self,
        source: &dyn TensorSource,
        kernels: Kernels,
    ) -> Result<(MemoryUse, u64), LoadError> {
        self.check_span()?;
        let mut loader = Loader::check(source, kernels, self.weights);
        Weights::load(&mut loader, self)?;
        let limits = &self.limits;
        let rows = limits.max_step_tokens;
        let d_model = self.shape.d_model as usize;
        // What a repetition would ask for, or the logits of one.
        let kept = match self.is_last() {
            true => HEAD_ROWS.min(limits.max_sequences) * self.shape.n_vocab as usize * 4,
            false => limits.max_sequences * rows * d_model * 4,
        };
        let rope_tables = if self.shape.sliding_window.is_some() {
            2
        } else {
            1
        };
        let angles = rope_tables * limits.context_tokens * self.shape.rope.dim as usize * 4;
        let memory = MemoryUse {
            weights_bytes: loader.held_bytes,
            kv_bytes: self.kv_shape().n_bytes(),
            scratch_bytes: self.widths().scratch_bytes(rows) + (kept + angles) as u64,
        };
        Ok((memory, loader.loaded_bytes))
    }

    /// Refuses a span that does not lie in the model, and shapes that the kernels cannot do.
    pub(crate) fn check_span(&self) -> Result<(), LoadError> {
        let Range {
            start: from,
            end: to,
        } = self.span;
        let n_layers = self.shape.n_layers;
        if from >= to || to > n_layers {
            return Err(LoadError::BadSpan { from, to, n_layers });
        }
        if self.shape.value_dim != self.shape.head_dim {
            let (key, value) = (self.shape.head_dim, self.shape.value_dim);
            let why =
                format!("keys of {key} and values of {value} elements a head are not supported");
            return Err(LoadError::Unsupported(why));
        }
        let head_dim = self.shape.head_dim;
        if self.kv_cache == KvCacheType::Q8_0 && !head_dim.is_multiple_of(32) {
            let why = format!(
                "a KV cache of q8_0 needs heads of a multiple of 32 elements, the model's have {head_dim}; \
                 use --kv-cache-type f16"
            );
            return Err(LoadError::Unsupported(why));
        }
        Ok(())
    }

    fn widths(&self) -> Widths {
        let shape = &self.shape;
        Widths {
            d_model: shape.d_model as usize,
            q: (shape.n_heads * shape.head_dim) as usize,
            kv: (shape.n_kv_heads * shape.head_dim) as usize,
            d_ff: shape.d_ff as usize,
            head_dim: shape.head_dim as usize,
        }
    }

    fn kv_shape(&self) -> KvShape {
        let limits = &self.limits;
        let window = self
            .shape
            .sliding_window
            .map_or(usize::MAX, |window| window as usize);
        let full_pages = limits.context_tokens.div_ceil(KV_BLOCK);
        // A window that begins inside a page and a step that ends inside one need a page more each.
        let sliding_pages = match self.shape.sliding_window {
            Some(window) => (window as usize + limits.max_step_tokens).div_ceil(KV_BLOCK) + 1,
            None => 0,
        };
        KvShape {
            kv_type: match self.kv_cache {
                _ if self.weights == WeightStorage::Reference => KvType::F32,
                KvCacheType::F16 => KvType::F16,
                KvCacheType::Q8_0 => KvType::Q8_0,
            },
            n_kv_heads: self.shape.n_kv_heads as usize,
            head_dim: self.shape.head_dim as usize,
            sliding: self
                .span
                .clone()
                .map(|i| self.shape.is_sliding(i))
                .collect(),
            window,
            max_full_pages: limits.max_sequences * full_pages,
            max_sliding_pages: limits.max_sequences * sliding_pages.min(full_pages),
        }
    }
}

impl Stage {
    /// Checks every tensor and the memory, then loads. `layers_done` will grow with every layer computed; `progress` is
    /// told the bytes so far and in all.
    pub fn load(
        config: StageConfig,
        source: &dyn TensorSource,
        kernels: Kernels,
        pool: Pool,
        layers_done: Arc<AtomicU64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Stage, LoadError> {
        let (memory, total_bytes) = config.dry_run(source, kernels)?;
        memory.check(&config.limits)?;
        let mut report = |done| progress(done, total_bytes);
        let mut loader = Loader::load(source, kernels, config.weights, &pool, &mut report);
        let mut weights = Weights::load(&mut loader, &config)?;
        weights
            .layers
            .ensure_positions(config.limits.context_tokens);
        Ok(Stage {
            kv: KvCache::new(config.kv_shape()),
            config,
            kernels,
            pool,
            memory,
            embedding: weights.embedding,
            layers: weights.layers,
            head: weights.head,
            sequences: HashMap::new(),
            batch: Batch::default(),
            x: Vec::new(),
            scratch: Scratch::default(),
            logits: Vec::new(),
            layers_done,
        })
    }

    /// What it was loaded with.
    pub fn config(&self) -> &StageConfig {
        &self.config
    }

    /// Bytes it takes.
    pub fn memory(&self) -> MemoryUse {
        self.memory
    }

    /// The matrices that every token is multiplied with.
    pub fn weights(&self) -> Vec<&WeightMatrix> {
        let head = self.head.iter().map(Head::output);
        self.layers.weights().into_iter().chain(head).collect()
    }

    /// Bytes held now: the weights, the buffers, and the KV pages that were ever needed.
    pub fn held_bytes(&self) -> u64 {
        let MemoryUse {
            weights_bytes,
            scratch_bytes,
            ..
        } = self.memory;
        weights_bytes + scratch_bytes + self.kv.held_bytes()
    }

    /// Forgets every sequence; the weights stay.
    pub fn reset(&mut self) {
        for (_, sequence) in self.sequences.drain() {
            self.kv.release(sequence.table);
        }
    }

    /// Frees the KV of a sequence. Unknown ones are none to free.
    pub fn release(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.remove(&seq) {
            self.kv.release(sequence.table);
        }
    }

    /// Sequences held.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Computes a step. `input` is `(n_tokens, d_model)` from the stage before, empty at the first stage.
    pub fn step(&mut self, step: &Step, input: &[f32]) -> StepOutput {
        let admissions = self.admit(step);
        let (mut batch, mut x) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.x));
        self.gather(step, &admissions, input, &mut batch, &mut x);
        self.forward(step, &admissions, &batch, &mut x);
        let output = self.finish(step, admissions, &batch, &x);
        (self.batch, self.x) = (batch, x);
        step.release.iter().for_each(|seq| self.release(*seq));
        output
    }

    /// Logits of every position of `tokens`, `n_vocab` each, handed to `take` a few rows at a time. For evaluation, on a
    /// stage that holds the whole model.
    pub fn each_logits(
        &mut self,
        tokens: &[u32],
        mut take: impl FnMut(&[f32]),
    ) -> Result<(), Vec<RunFault>> {
        const ROWS: usize = 32;
        let d_model = self.config.shape.d_model as usize;
        let n_vocab = self.config.shape.n_vocab as usize;
        let seq = SeqId(u64::MAX);
        for (index, chunk) in tokens
            .chunks(self.config.limits.max_step_tokens)
            .enumerate()
        {
            let pos = (index * self.config.limits.max_step_tokens) as u32;
            let step = Step::of_run(Run {
                seq,
                pos,
                tokens: chunk.to_vec(),
                rollback: false,
                sampling: None,
            });
            let admissions = self.admit(&step);
            let (mut batch, mut x) = Default::default();
            self.gather(&step, &admissions, &[], &mut batch, &mut x);
            self.forward(&step, &admissions, &batch, &mut x);
            for rows in x.chunks(ROWS * d_model) {
                if let Some(head) = &mut self.head {
                    head.logits(self.kernels, &self.pool, rows, &mut self.logits);
                    self.logits.chunks_exact(n_vocab).for_each(&mut take);
                }
            }
            let faults = self.finish(&step, admissions, &batch, &x).faults;
            if !faults.is_empty() {
                return Err(faults);
            }
        }
        self.release(seq);
        Ok(())
    }

    /// The rows to compute: embeddings at the first stage, the rows that arrived elsewhere.
    fn gather(
        &self,
        step: &Step,
        admissions: &[Admission],
        input: &[f32],
        batch: &mut Batch,
        x: &mut Vec<f32>,
    ) {
        let d_model = self.config.shape.d_model as usize;
        batch.clear();
        x.clear();
        let mut row = 0;
        for (run, admission) in step.runs.iter().zip(admissions) {
            let rows = row..row + run.tokens.len();
            row = rows.end;
            if !matches!(admission, Admission::Compute) {
                continue;
            }
            batch.push(batch.runs.len(), run.pos as usize, run.tokens.len());
            match &self.embedding {
                Some(embedding) => embed(embedding, &run.tokens, x),
                None => x.extend_from_slice(&input[rows.start * d_model..rows.end * d_model]),
            }
        }
        if let (Some(_), Some(scale)) = (&self.embedding, arch::embedding_scale(&self.config.shape))
        {
            self.kernels.scale(x, scale);
        }
    }

    /// All layers over all rows.
    fn forward(&mut self, step: &Step, admissions: &[Admission], batch: &Batch, x: &mut [f32]) {
        if batch.runs.is_empty() {
            return;
        }
        let computed = step
            .runs
            .iter()
            .zip(admissions)
            .filter(|(_, a)| matches!(a, Admission::Compute));
        let tables: Vec<_> = computed
            .filter_map(|(run, _)| self.sequences.get(&run.seq))
            .map(|s| &s.table)
            .collect();
        let mut exec = Exec {
            kernels: self.kernels,
            pool: &self.pool,
            widths: self.config.widths(),
            batch,
            kv: &mut self.kv,
            tables: &tables,
            scratch: &mut self.scratch,
        };
        for index in 0..self.config.span.len() {
            self.layers.apply(index, x, &mut exec);
            self.layers_done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Samples, keeps what a repetition would ask for, and collects the output.
    fn finish(
        &mut self,
        step: &Step,
        admissions: Vec<Admission>,
        batch: &Batch,
        x: &[f32],
    ) -> StepOutput {
        let d_model = self.config.shape.d_model as usize;
        let mut batch_runs = batch.runs.iter();
        let mut verdicts = Vec::with_capacity(step.runs.len());
        // The last rows of the runs that sample, one after another, and which runs these are.
        let (mut sampled, mut last_rows) = (Vec::new(), Vec::new());
        for (index, (run, admission)) in step.runs.iter().zip(admissions).enumerate() {
            verdicts.push(match admission {
                Admission::Fault(fault) => Err(fault),
                Admission::Repeat => Ok(()),
                Admission::Compute => {
                    let rows = batch_runs
                        .next()
                        .map_or(0..0, |batch_run| batch_run.rows.clone());
                    let rows = &x[rows.start * d_model..rows.end * d_model];
                    let kept = self.keep(run, rows);
                    if kept.is_ok() && self.head.is_some() && run.sampling.is_some() {
                        sampled.push(index);
                        last_rows.extend_from_slice(&rows[rows.len() - d_model..]);
                    }
                    kept
                }
            });
        }
        let groups = last_rows.chunks(HEAD_ROWS * d_model);
        for (sampled, rows) in sampled.chunks(HEAD_ROWS).zip(groups) {
            self.sample(&step.runs, sampled, rows, &mut verdicts);
        }
        let mut output = StepOutput {
            runs: Vec::with_capacity(step.runs.len()),
            hidden: Vec::new(),
            results: Vec::with_capacity(step.runs.len()),
            faults: Vec::new(),
        };
        for (run, verdict) in step.runs.iter().zip(verdicts) {
            match verdict {
                Ok(()) => self.emit(run, &mut output),
                Err(fault) => output.faults.push(fault),
            }
        }
        output
    }

    /// Takes the computed rows of a run into its sequence.
    fn keep(&mut self, run: &Run, rows: &[f32]) -> Result<(), RunFault> {
        if !rows.iter().all(|value| value.is_finite()) {
            let span = &self.config.span;
            let why = format!(
                "layers {}..{} gave values that are not finite",
                span.start, span.end
            );
            return Err(self.fail(run, Fault::NotFinite, why));
        }
        let Some(sequence) = self.sequences.get_mut(&run.seq) else {
            return Ok(());
        };
        sequence.tokens.extend_from_slice(&run.tokens);
        self.kv
            .drop_left_of_window(&mut sequence.table, sequence.tokens.len());
        sequence.last = LastOutput {
            n_tokens: run.tokens.len(),
            hidden: Vec::new(),
            drawn: None,
        };
        if self.head.is_none() {
            sequence.last.hidden.extend_from_slice(rows);
        }
        Ok(())
    }

    /// The next tokens of the runs numbered `sampled`, whose last rows are `rows`: the output matrix is read once for all.
    fn sample(
        &mut self,
        runs: &[Run],
        sampled: &[usize],
        rows: &[f32],
        verdicts: &mut [Result<(), RunFault>],
    ) {
        let Some(head) = &mut self.head else { return };
        head.logits(self.kernels, &self.pool, rows, &mut self.logits);
        let mut logits = std::mem::take(&mut self.logits);
        let n_vocab = self.config.shape.n_vocab as usize;
        for (&index, logits) in sampled.iter().zip(logits.chunks_exact_mut(n_vocab)) {
            let run = &runs[index];
            let (Some(sequence), Some(params)) = (self.sequences.get_mut(&run.seq), &run.sampling)
            else {
                continue;
            };
            match sampling::sample(logits, &sequence.tokens, params) {
                Ok(drawn) => sequence.last.drawn = Some(drawn),
                Err(NoToken::NotFinite) => {
                    let why = "the logits are not finite".into();
                    verdicts[index] = Err(self.fail(run, Fault::NotFinite, why));
                }
                Err(NoToken::AllForbidden) => {
                    let why = "the biases of the request forbid every token".into();
                    verdicts[index] = Err(self.fail(run, Fault::Invalid, why));
                }
            }
        }
        self.logits = logits;
    }

    fn emit(&self, run: &Run, output: &mut StepOutput) {
        let Some(sequence) = self.sequences.get(&run.seq) else {
            return;
        };
        let drawn = sequence.last.drawn.as_ref();
        output.hidden.extend_from_slice(&sequence.last.hidden);
        output.results.push(RunResult {
            seq: run.seq,
            kv_len: sequence.tokens.len() as u32,
            token: drawn.map(|drawn| drawn.token),
            logprobs: drawn.and_then(|drawn| drawn.logprobs.clone()),
        });
        output.runs.push(run.clone());
    }

    /// A sequence whose numbers are broken is forgotten: nothing computed from it is worth keeping.
    fn fail(&mut self, run: &Run, fault: Fault, why: String) -> RunFault {
        self.release(run.seq);
        RunFault {
            seq: run.seq,
            fault,
            kv_len: 0,
            why,
        }
    }
}

fn embed(embedding: &WeightMatrix, tokens: &[u32], x: &mut Vec<f32>) {
    let d_model = embedding.n_cols();
    for token in tokens {
        let from = x.len();
        x.resize(from + d_model, 0.0);
        embedding.row_f32(*token as usize, &mut x[from..]);
    }
}
