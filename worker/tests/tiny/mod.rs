//! Tiny random models of every architecture, with weights of several types.

use potluck_gguf::{GgufWriter, OwnedValue, TensorType};

pub const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "gemma3"];
pub const D_MODEL: u32 = 64;
pub const N_LAYERS: u32 = 4;
pub const N_VOCAB: u32 = 96;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 32;
const D_FF: u32 = 128;

#[derive(Clone)]
pub struct TinyModel {
    architecture: &'static str,
    /// Name and dimensions, the row's length first.
    tensors: Vec<(String, Vec<u64>)>,
}

impl TinyModel {
    pub fn new(architecture: &'static str) -> TinyModel {
        let mut tensors: Vec<(String, Vec<u32>)> = vec![
            ("token_embd.weight".into(), vec![D_MODEL, N_VOCAB]),
            ("output_norm.weight".into(), vec![D_MODEL]),
        ];
        // gemma3 ties its output; the others are given one of their own.
        if architecture != "gemma3" {
            tensors.push(("output.weight".into(), vec![D_MODEL, N_VOCAB]));
        }
        for i in 0..N_LAYERS {
            let mut add =
                |name: &str, dims: &[u32]| tensors.push((format!("blk.{i}.{name}"), dims.to_vec()));
            add("attn_norm.weight", &[D_MODEL]);
            add("attn_q.weight", &[D_MODEL, N_HEADS * HEAD_DIM]);
            add("attn_k.weight", &[D_MODEL, N_KV_HEADS * HEAD_DIM]);
            add("attn_v.weight", &[D_MODEL, N_KV_HEADS * HEAD_DIM]);
            add("attn_output.weight", &[N_HEADS * HEAD_DIM, D_MODEL]);
            add("ffn_norm.weight", &[D_MODEL]);
            add("ffn_gate.weight", &[D_MODEL, D_FF]);
            add("ffn_up.weight", &[D_MODEL, D_FF]);
            add("ffn_down.weight", &[D_FF, D_MODEL]);
            match architecture {
                "qwen2" => {
                    add("attn_q.bias", &[N_HEADS * HEAD_DIM]);
                    add("attn_k.bias", &[N_KV_HEADS * HEAD_DIM]);
                    add("attn_v.bias", &[N_KV_HEADS * HEAD_DIM]);
                }
                "gemma3" => {
                    add("attn_q_norm.weight", &[HEAD_DIM]);
                    add("attn_k_norm.weight", &[HEAD_DIM]);
                    add("post_attention_norm.weight", &[D_MODEL]);
                    add("post_ffw_norm.weight", &[D_MODEL]);
                }
                _ => {}
            }
        }
        let wide = |dims: Vec<u32>| dims.into_iter().map(u64::from).collect();
        let tensors = tensors
            .into_iter()
            .map(|(name, dims)| (name, wide(dims)))
            .collect();
        TinyModel {
            architecture,
            tensors,
        }
    }

    pub fn tensor_names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn without(mut self, name: &str) -> TinyModel {
        self.tensors.retain(|(held, _)| held != name);
        self
    }

    /// The tensor gets twice as many rows, or elements.
    pub fn with_wrong_shape(mut self, name: &str) -> TinyModel {
        let tensor = self
            .tensors
            .iter_mut()
            .find(|(held, _)| held == name)
            .unwrap();
        *tensor.1.last_mut().unwrap() *= 2;
        self
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let key = |name: &str| format!("{}.{name}", self.architecture);
        let mut writer = GgufWriter::new()
            .with("general.architecture", self.architecture)
            .with(&key("block_count"), N_LAYERS)
            .with(&key("embedding_length"), D_MODEL)
            .with(&key("feed_forward_length"), D_FF)
            .with(&key("attention.head_count"), N_HEADS)
            .with(&key("attention.head_count_kv"), N_KV_HEADS)
            .with(&key("attention.key_length"), HEAD_DIM)
            .with(&key("attention.value_length"), HEAD_DIM)
            .with(&key("attention.layer_norm_rms_epsilon"), 1e-6f32)
            .with(&key("context_length"), 512u32)
            .with(
                "tokenizer.ggml.tokens",
                OwnedValue::strings((0..N_VOCAB).map(|i| format!("t{i}"))),
            );
        if self.architecture == "gemma3" {
            // A window shorter than the prompts, and layers of both kinds.
            writer = writer
                .with(&key("attention.sliding_window"), 40u32)
                .with(&key("attention.sliding_window_pattern"), 2u32);
        }
        let mut random = Random(1);
        for (name, dims) in &self.tensors {
            let n = dims.iter().product::<u64>() as usize;
            writer = if dims.len() == 1 {
                let values: Vec<f32> = (0..n).map(|_| 1.0 + 0.1 * random.unit()).collect();
                writer.with_f32_tensor(name, dims, &values).unwrap()
            } else {
                let (ty, bytes) = random.matrix(name, n);
                writer.with_tensor(name, ty, dims, bytes).unwrap()
            };
        }
        writer.to_bytes()
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Between -1 and 1.
    fn unit(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 1000.0 - 1.0
    }

    /// Q4_0 blocks, or F16, or Q8_0, by name, so that a model mixes types.
    fn matrix(&mut self, name: &str, n: usize) -> (TensorType, Vec<u8>) {
        let scale = |value: f32| half::f16::from_f32(value).to_le_bytes();
        if name.contains("ffn_down") {
            let values = (0..n).flat_map(|_| scale(0.1 * self.unit())).collect();
            return (TensorType::F16, values);
        }
        let (ty, n_codes, d) = match name.contains("attn") {
            true => (TensorType::Q8_0, 32, 0.002),
            false => (TensorType::Q4_0, 16, 0.03),
        };
        let mut bytes = Vec::new();
        for _ in 0..n / 32 {
            bytes.extend(scale(d));
            bytes.extend((0..n_codes).map(|_| self.next() as u8));
        }
        (ty, bytes)
    }
}
