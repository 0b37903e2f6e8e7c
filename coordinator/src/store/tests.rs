//! A tiny model on a real file: opening, remembering, manifests, costs, and serving over a real socket.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use potluck_gguf::{GgufWriter, OwnedValue, TensorType};
use potluck_link::weights::WeightsService;
use potluck_link::{Peer, PeerId, Role};
use potluck_proto::limits::{self, MAX_FRAME_BYTES};
use potluck_proto::wire::{FetchRequest, HaveRequest, weights_client::WeightsClient};
use potluck_proto::{ClusterId, KvCacheType, NodeId, wire};
use tempfile::TempDir;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Status};

use super::*;

const N_LAYERS: u32 = 3;
const D_MODEL: u64 = 32;
/// Makes the embedding a little larger than two frames.
const N_VOCAB: u64 = 17_000;

struct Fixture {
    folder: TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new(gguf: GgufWriter) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny-file.gguf");
        fs::write(&path, gguf.to_bytes()).unwrap();
        Fixture { folder, path }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn open(&self) -> Result<Model, StoreError> {
        Model::open(&self.path, &self.cache(), |_| ())
    }

    /// Opens and says how many bytes were hashed for it.
    fn open_counting(&self) -> (Model, u64) {
        let mut hashed = 0;
        let model = Model::open(&self.path, &self.cache(), |progress| {
            assert!(progress.done_bytes <= progress.total_bytes);
            hashed = progress.done_bytes;
        });
        (model.unwrap(), hashed)
    }

    fn cached_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache().join("manifests")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn metadata() -> GgufWriter {
    let tokens = (0..N_VOCAB).map(|i| i.to_string());
    GgufWriter::new()
        .with("general.architecture", "llama")
        .with("general.name", "Tiny")
        .with("llama.block_count", N_LAYERS)
        .with("llama.embedding_length", D_MODEL as u32)
        .with("llama.attention.head_count", 2)
        .with("llama.attention.head_count_kv", 1)
        .with("llama.feed_forward_length", 64)
        .with("llama.context_length", 2048)
        .with("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .with("tokenizer.ggml.tokens", OwnedValue::strings(tokens))
}

/// Bytes that differ from tensor to tensor and from place to place.
fn content(seed: u32, n_floats: u64) -> Vec<u8> {
    let floats = (0..n_floats as u32).map(|i| (i ^ seed.wrapping_mul(0x9e37)) as f32);
    floats.flat_map(f32::to_le_bytes).collect()
}

fn with_tensor(gguf: GgufWriter, name: &str, ne: &[u64]) -> GgufWriter {
    let data = content(name.len() as u32 + ne.len() as u32, ne.iter().product());
    gguf.with_tensor(name, TensorType::F32, ne, data).unwrap()
}

fn tied_model() -> GgufWriter {
    let mut gguf = with_tensor(metadata(), "token_embd.weight", &[D_MODEL, N_VOCAB]);
    for layer in 0..N_LAYERS {
        gguf = with_tensor(gguf, &format!("blk.{layer}.attn_norm.weight"), &[D_MODEL]);
        gguf = with_tensor(
            gguf,
            &format!("blk.{layer}.attn_q.weight"),
            &[D_MODEL, D_MODEL],
        );
    }
    let gguf = with_tensor(gguf, "output_norm.weight", &[D_MODEL]);
    with_tensor(gguf, "rope_freqs.weight", &[8])
}

fn names(manifest: &Manifest) -> Vec<&str> {
    manifest.tensors.iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn hashes_are_those_of_the_bytes_and_are_remembered() {
    let fixture = Fixture::new(tied_model());
    let (first, hashed) = fixture.open_counting();
    assert_eq!(
        hashed,
        first
            .tensors()
            .iter()
            .map(StoredTensor::n_bytes)
            .sum::<u64>()
    );
    for tensor in first.tensors() {
        let bytes = first.bytes(tensor.facts.range.clone()).unwrap();
        assert_eq!(
            tensor.hash().0,
            *blake3::hash(bytes).as_bytes(),
            "{}",
            tensor.name()
        );
    }
    let (second, hashed) = fixture.open_counting();
    assert_eq!(hashed, 0);
    assert_eq!(second.tensors(), first.tensors());
    assert_eq!(second.model_hash(), first.model_hash());
    assert_eq!(fixture.cached_files().len(), 1);
}

#[test]
fn a_damaged_memory_is_ignored_and_replaced() {
    let fixture = Fixture::new(tied_model());
    let want = fixture.open().unwrap().model_hash();
    let remembered = fixture.cached_files().remove(0);
    let good = fs::read_to_string(&remembered).unwrap();
    let damages = [
        String::new(),
        "[]".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replacen("\"hash\":\"", "\"hash\":\"0", 1),
        good.replace("blk.1.attn_q", "blk.7.attn_q"),
        good.replace("\"version\":1", "\"version\":2"),
    ];
    for damage in damages {
        fs::write(&remembered, &damage).unwrap();
        let (model, hashed) = fixture.open_counting();
        assert!(hashed > 0, "accepted {damage:.60}");
        assert_eq!(model.model_hash(), want);
        assert_eq!(fs::read_to_string(&remembered).unwrap(), good);
    }
}

#[test]
fn another_file_under_the_same_name_is_hashed_anew() {
    let fixture = Fixture::new(tied_model());
    let old = fixture.open().unwrap();
    let other = fixture.folder.path().join("other");
    let mut bytes = tied_model().to_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    // The last bytes may be padding, so a byte of the last tensor is changed as well.
    let at = bytes.len() - 20;
    bytes[at] ^= 1;
    fs::write(&other, bytes).unwrap();
    fs::rename(&other, &fixture.path).unwrap();
    let (new, hashed) = fixture.open_counting();
    assert!(hashed > 0);
    assert_ne!(new.model_hash(), old.model_hash());
    // The old file lives on behind its mapping.
    old.check_unchanged().unwrap();
}

#[test]
fn a_span_gets_its_tensors_and_no_more() {
    let fixture = Fixture::new(tied_model());
    let model = fixture.open().unwrap();
    let first = model.manifest_for(0..1).unwrap();
    assert_eq!(
        names(&first),
        [
            "token_embd.weight",
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.weight",
            "rope_freqs.weight"
        ]
    );
    let middle = model.manifest_for(1..2).unwrap();
    assert_eq!(
        names(&middle),
        [
            "blk.1.attn_norm.weight",
            "blk.1.attn_q.weight",
            "rope_freqs.weight"
        ]
    );
    let last = model.manifest_for(2..3).unwrap();
    assert_eq!(
        names(&last),
        [
            "token_embd.weight",
            "blk.2.attn_norm.weight",
            "blk.2.attn_q.weight",
            "output_norm.weight",
            "rope_freqs.weight"
        ]
    );
    assert_eq!(
        model.manifest_for(0..3).unwrap().tensors.len(),
        model.tensors().len()
    );
    assert!(
        last.metadata
            .iter()
            .all(|(key, _)| !key.starts_with("tokenizer."))
    );
    assert_eq!(Manifest::from_wire(last.to_wire()).unwrap(), last);
    for (from, to) in [(0, 0), (2, 1), (0, 4), (3, 4)] {
        let error = model.manifest_for(from..to).unwrap_err();
        assert!(matches!(error, StoreError::NoSuchSpan { .. }), "{error}");
    }
}

#[test]
fn an_output_matrix_of_its_own_keeps_the_embedding_at_the_first_stage() {
    let fixture = Fixture::new(with_tensor(
        tied_model(),
        "output.weight",
        &[D_MODEL, N_VOCAB],
    ));
    let model = fixture.open().unwrap();
    let last = model.manifest_for(2..3).unwrap();
    assert!(!names(&last).contains(&"token_embd.weight"));
    assert!(names(&last).contains(&"output.weight"));
    assert!(!model.cost(KvCacheType::F16).tied_output);
}

#[test]
fn costs_are_the_bytes_of_the_tensors() {
    let model_cost = Fixture::new(tied_model())
        .open()
        .unwrap()
        .cost(KvCacheType::F16);
    assert_eq!(model_cost.name, "Tiny");
    assert_eq!(model_cost.layers.len(), 3);
    for layer in &model_cost.layers {
        assert_eq!(layer.bytes, 4 * (D_MODEL + D_MODEL * D_MODEL));
        assert_eq!(layer.macs, D_MODEL * D_MODEL);
        // One head of 16 elements for keys and for values, two bytes each.
        assert_eq!(layer.kv_bytes_per_position, 2 * 16 * 2);
    }
    assert_eq!(model_cost.embedding_bytes, 4 * D_MODEL * N_VOCAB);
    assert_eq!(model_cost.head_bytes, 4 * D_MODEL);
    assert_eq!(model_cost.shared_bytes, 4 * 8);
    assert!(model_cost.tied_output);
}

#[test]
fn files_that_cannot_be_run_are_refused() {
    let broken = [
        (
            with_tensor(metadata(), "token_embd.weight", &[D_MODEL, N_VOCAB]),
            "output_norm.weight",
        ),
        (
            with_tensor(
                with_tensor(metadata(), "token_embd.weight", &[32, 4]),
                "output_norm.weight",
                &[32],
            ),
            "no tensors for layer 0",
        ),
        (metadata(), "token_embd.weight"),
        (GgufWriter::new(), "general.architecture"),
    ];
    for (gguf, part) in broken {
        let error = Fixture::new(gguf).open().unwrap_err().to_string();
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("absent")] {
        assert!(Model::open(&path, folder.path(), |_| ()).is_err());
    }
}

#[test]
fn a_name_comes_from_the_metadata_or_the_file() {
    let fixture = Fixture::new(tied_model().with("general.name", " \t"));
    assert_eq!(fixture.open().unwrap().name(), "tiny-file");
    let fixture = Fixture::new(tied_model().with("general.name", "a\u{1b}[31mb"));
    assert_eq!(fixture.open().unwrap().name(), "a[31mb");
}

/// A server on a free port and a client of it, as if it had come over a link.
async fn serve(models: Vec<Arc<Model>>) -> WeightsClient<Channel> {
    serve_to(models, |mut request| {
        let id = PeerId {
            cluster: ClusterId([1; 16]),
            role: Role::Worker,
            node: NodeId([2; 16]),
        };
        let address = ([127, 0, 0, 1], 1).into();
        request.extensions_mut().insert(Peer { id, address });
        Ok(request)
    })
    .await
}

/// The same, with requests changed on the way.
async fn serve_to(
    models: Vec<Arc<Model>>,
    change: fn(Request<()>) -> Result<Request<()>, Status>,
) -> WeightsClient<Channel> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let service = WeightsService::server(ModelTensors::new(models));
    let service = InterceptedService::new(service, change);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    WeightsClient::new(channel.connect().await.unwrap())
}

async fn fetch(
    client: &mut WeightsClient<Channel>,
    hash: &[u8],
    offset: u64,
    n_bytes: u64,
) -> Result<Vec<u8>, Status> {
    let request = FetchRequest {
        hash: Bytes::copy_from_slice(hash),
        offset,
        n_bytes,
    };
    let mut stream = client.fetch(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(wire::WeightChunk { data }) = stream.message().await? {
        assert!(!data.is_empty() && data.len() <= MAX_FRAME_BYTES);
        all.extend_from_slice(&data);
    }
    Ok(all)
}

#[tokio::test]
async fn every_tensor_is_served_whole_and_in_parts() {
    let model = Arc::new(Fixture::new(tied_model()).open().unwrap());
    let mut client = serve(vec![Arc::clone(&model)]).await;
    for tensor in model.tensors() {
        let want = model.bytes(tensor.facts.range.clone()).unwrap();
        let hash = tensor.hash().0;
        assert!(
            fetch(&mut client, &hash, 0, 0).await.unwrap() == want,
            "{}",
            tensor.name()
        );
        for offset in [1, want.len() / 2, want.len() - 1, want.len()] {
            let rest = fetch(&mut client, &hash, offset as u64, 0).await.unwrap();
            assert!(rest == want[offset..], "{} from {offset}", tensor.name());
        }
        for (from, to) in [(0, 1), (want.len() / 3, want.len() / 2), (1, want.len())] {
            let part = fetch(&mut client, &hash, from as u64, (to - from) as u64).await;
            assert!(
                part.unwrap() == want[from..to],
                "{} {from}..{to}",
                tensor.name()
            );
        }
    }
}

#[tokio::test]
async fn bad_requests_get_a_sentence() {
    let model = Arc::new(Fixture::new(tied_model()).open().unwrap());
    let tensor = &model.tensors()[0];
    let (hash, n_bytes) = (tensor.hash().0, tensor.n_bytes());
    let mut client = serve(vec![Arc::clone(&model)]).await;
    let table: [(&[u8], u64, u64, Code, &str); 6] = [
        (&[7; 32], 0, 0, Code::NotFound, "not loaded"),
        (&hash[..31], 0, 0, Code::InvalidArgument, "31 bytes"),
        (&[], 0, 0, Code::InvalidArgument, "0 bytes"),
        (&hash, n_bytes + 1, 0, Code::OutOfRange, "were asked for"),
        (&hash, u64::MAX, 9, Code::OutOfRange, "were asked for"),
        (&hash, 1, n_bytes, Code::OutOfRange, "were asked for"),
    ];
    for (hash, offset, n_bytes, code, part) in table {
        let status = fetch(&mut client, hash, offset, n_bytes).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn what_is_there_is_told_in_the_order_of_the_question() {
    let model = Arc::new(Fixture::new(tied_model()).open().unwrap());
    let mut client = serve(vec![Arc::clone(&model)]).await;
    let there = model.tensors().iter().map(|tensor| tensor.hash().0);
    let mut hashes: Vec<_> = there.map(|hash| Bytes::copy_from_slice(&hash)).collect();
    hashes.insert(9, Bytes::from_static(&[7; 32]));
    let reply = client.have(HaveRequest {
        hashes: hashes.clone(),
    });
    let bitmap = reply.await.unwrap().into_inner().bitmap;
    assert_eq!(bitmap.len(), hashes.len().div_ceil(8));
    for i in 0..bitmap.len() * 8 {
        let wanted = i != 9 && i < hashes.len();
        assert_eq!(bitmap[i / 8] >> (i % 8) & 1 == 1, wanted, "{i}");
    }
    let too_many = HaveRequest {
        hashes: vec![hashes[0].clone(); limits::MAX_TENSORS + 1],
    };
    let status = client.have(too_many).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let model = Arc::new(Fixture::new(tied_model()).open().unwrap());
    let hash = model.tensors()[0].hash().0;
    let mut client = serve_to(vec![model], Ok).await;
    let status = fetch(&mut client, &hash, 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let status = client.have(HaveRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn a_file_that_changed_is_not_served() {
    let fixture = Fixture::new(tied_model());
    let model = Arc::new(fixture.open().unwrap());
    let hash = model.tensors()[0].hash().0;
    let mut client = serve(vec![Arc::clone(&model)]).await;
    fs::File::options()
        .append(true)
        .open(&fixture.path)
        .unwrap()
        .set_len(model.file_bytes() + 1)
        .unwrap();
    let status = fetch(&mut client, &hash, 0, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(
        status.message().contains("was changed while it was in use"),
        "{status}"
    );
}

#[tokio::test]
async fn clients_that_go_away_give_their_turn_back() {
    let model = Arc::new(Fixture::new(tied_model()).open().unwrap());
    let hash = Bytes::copy_from_slice(&model.tensors()[0].hash().0);
    let mut client = serve(vec![Arc::clone(&model)]).await;
    // Many more than may be served at once: each is dropped after its first frame.
    for _ in 0..100 {
        let request = FetchRequest {
            hash: hash.clone(),
            offset: 0,
            n_bytes: 0,
        };
        let mut stream = client.fetch(request).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some());
    }
}
