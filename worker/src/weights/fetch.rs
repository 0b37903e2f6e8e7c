//! Brings tensors into the cache from every node that has them, several at once, resuming what was begun.
//!
//! One value owns the fetch: it waits for one event at a time and applies it at once, and what takes time (connecting, a
//! piece, the disk) runs in tasks that report back. Bytes prove themselves by the hash of their whole tensor. One whose hash is
//! wrong is fetched again from one source at a time: then it is known who sent what, and whoever lied is not asked again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use potluck_link::{Link, Target};
use potluck_proto::{Manifest, ManifestTensor};
use tokio::task::{AbortHandle, JoinSet};

use super::arriving::{Arriving, Work, Written, who_lied};
use super::cache::{CacheError, PartFile, WeightCache};
use super::outcome::{Damage, FetchError, Report};
use super::pieces::{Arrival, Piece, Pieces, SourceIndex, TensorIndex};
use super::sources::{PieceError, Source};

/// How often it is looked whether a piece is overdue.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Brings every tensor of the manifest into the cache, from sources that have told no lie in `report`, which is added to.
/// `progress` counts bytes fetched.
pub async fn fetch_missing(
    link: &Link,
    cache: &WeightCache,
    manifest: &Manifest,
    sources: &[Target],
    progress: &AtomicU64,
    report: &mut Report,
) -> Result<(), FetchError> {
    let is_missing = |t: &&ManifestTensor| !cache.has(&t.hash, t.n_bytes);
    let mut missing: Vec<_> = manifest
        .tensors
        .iter()
        .filter(is_missing)
        .cloned()
        .collect();
    missing.sort_by_key(|tensor| tensor.hash);
    missing.dedup_by_key(|tensor| tensor.hash);
    report.cached_bytes = manifest.n_bytes();
    if missing.is_empty() {
        return Ok(());
    }
    let sources = sources.iter().filter(|target| report.trusts(target));
    let sources: Vec<_> = sources.cloned().collect();
    let mut fetch = Fetch::new(cache, missing, sources.len(), progress, report);
    fetch.connect(link, sources);
    fetch.run().await
}

/// Everything that can happen.
enum Event {
    Connected(SourceIndex, Result<(Source, Vec<bool>), String>),
    Opened(Begun, Option<PartFile>),
    Arrived(SourceIndex, Piece, Result<Vec<u8>, PieceError>),
    Wrote(Begun, PartFile, Vec<Written>),
    Finished(Begun, bool),
    /// Of a tensor that was wrong before it was right.
    Compared(TensorIndex, Vec<SourceIndex>),
}

/// An attempt at a tensor. News of an earlier one are of no use.
#[derive(Debug, Clone, Copy)]
struct Begun {
    tensor: TensorIndex,
    attempt: u32,
}

struct Fetch<'a> {
    cache: WeightCache,
    tensors: Vec<ManifestTensor>,
    pieces: Pieces,
    /// Those that can be used.
    sources: Vec<Option<Source>>,
    n_connecting: usize,
    /// Whether any source was reached.
    is_reached: bool,
    /// Why a source was left out or given up last.
    why: Option<String>,
    arriving: HashMap<TensorIndex, Arriving>,
    /// Who sent what of tensors that proved wrong.
    suspects: HashMap<TensorIndex, Vec<Written>>,
    n_comparing: usize,
    under_way: HashMap<(SourceIndex, Piece), AbortHandle>,
    tasks: JoinSet<Result<Event, CacheError>>,
    progress: &'a AtomicU64,
    report: &'a mut Report,
}

impl<'a> Fetch<'a> {
    fn new(
        cache: &WeightCache,
        tensors: Vec<ManifestTensor>,
        n_sources: usize,
        progress: &'a AtomicU64,
        report: &'a mut Report,
    ) -> Self {
        Fetch {
            cache: cache.clone(),
            pieces: Pieces::new(tensors.iter().map(|t| t.n_bytes), n_sources),
            tensors,
            sources: vec![None; n_sources],
            n_connecting: 0,
            is_reached: false,
            why: (!report.damaged.is_empty()).then(|| "the others sent wrong bytes".to_owned()),
            arriving: HashMap::new(),
            suspects: HashMap::new(),
            n_comparing: 0,
            under_way: HashMap::new(),
            tasks: JoinSet::new(),
            progress,
            report,
        }
    }

    /// Begins with all sources at once: whoever answers first sends first.
    fn connect(&mut self, link: &Link, targets: Vec<Target>) {
        let hashes = self
            .tensors
            .iter()
            .map(|t| Bytes::copy_from_slice(&t.hash.0));
        let hashes: Vec<_> = hashes.collect();
        self.n_connecting = targets.len();
        for (source, target) in targets.into_iter().enumerate() {
            let (link, hashes) = (link.clone(), hashes.clone());
            self.tasks.spawn(async move {
                let connected = Source::connect(&link, &target, hashes).await;
                Ok(Event::Connected(source, connected))
            });
        }
    }

    async fn run(mut self) -> Result<(), FetchError> {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        self.settle()?;
        while !self.pieces.is_done() || self.n_comparing > 0 {
            self.open();
            self.ask();
            tokio::select! {
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(event) => self.apply(event?)?,
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                _ = looks.tick() => {}
            }
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<(), FetchError> {
        match event {
            Event::Connected(source, connected) => self.connected(source, connected)?,
            Event::Arrived(source, piece, bytes) => self.arrived(source, piece, bytes)?,
            Event::Compared(tensor, liars) => {
                self.n_comparing -= 1;
                for liar in liars {
                    self.lied(liar, tensor)?;
                }
            }
            Event::Opened(begun, file) if self.is_current(begun) => self.opened(begun.tensor, file),
            Event::Wrote(begun, file, written) if self.is_current(begun) => {
                if let Some(arriving) = self.arriving.get_mut(&begun.tensor) {
                    let len = arriving.wrote(file, written);
                    self.pieces.written(begun.tensor, len);
                }
                self.write(begun.tensor);
            }
            Event::Finished(begun, is_right) if self.is_current(begun) => {
                self.finished(begun.tensor, is_right)?;
            }
            Event::Opened(..) | Event::Wrote(..) | Event::Finished(..) => {}
        }
        Ok(())
    }

    fn is_current(&self, begun: Begun) -> bool {
        self.pieces.attempt(begun.tensor) == begun.attempt
    }

    fn begun(&self, tensor: TensorIndex) -> Begun {
        let attempt = self.pieces.attempt(tensor);
        Begun { tensor, attempt }
    }

    // Sources.

    fn connected(
        &mut self,
        source: SourceIndex,
        connected: Result<(Source, Vec<bool>), String>,
    ) -> Result<(), FetchError> {
        self.n_connecting -= 1;
        match connected {
            Ok((reached, has)) => {
                self.is_reached = true;
                self.sources[source] = Some(reached);
                self.pieces.join(source, has);
            }
            Err(why) => {
                tracing::info!(why, "a source of weights is left out");
                self.why = Some(why);
            }
        }
        self.settle()
    }

    /// A source is not used any more in this fetch.
    fn give_up(&mut self, source: SourceIndex) -> Result<(), FetchError> {
        self.sources[source] = None;
        self.pieces.leave(source);
        self.under_way.retain(|(holder, _), task| {
            let stays = *holder != source;
            if !stays {
                task.abort();
            }
            stays
        });
        self.settle()
    }

    /// A source has sent wrong bytes of a tensor.
    fn lied(&mut self, source: SourceIndex, tensor: TensorIndex) -> Result<(), FetchError> {
        // It was given up for another lie meanwhile, if it is not there.
        let Some(node) = self.sources[source].as_ref().map(|source| source.node) else {
            return Ok(());
        };
        let tensor = self.tensors[tensor].name.clone();
        tracing::warn!(tensor, source = %node, "a source of weights sent wrong bytes, and is not used again");
        self.report.damaged.push(Damage {
            tensor,
            source: node,
        });
        self.give_up(source)
    }

    /// Finds another source for tensors that have lost theirs.
    fn settle(&mut self) -> Result<(), FetchError> {
        while let Some(tensor) = self.pieces.forsaken() {
            let suspects = self.suspects.get(&tensor).map(Vec::as_slice);
            let sent_of_it = |source: &SourceIndex| -> u64 {
                let pieces = suspects.unwrap_or_default().iter();
                let theirs = pieces.filter(|piece| piece.source == *source);
                theirs.map(|piece| piece.n_bytes).sum()
            };
            // Whoever had no part in the wrong bytes is the likeliest to have the right ones.
            match self.pieces.having(tensor).min_by_key(sent_of_it) {
                Some(source) => self.begin_again(tensor, source),
                None if self.n_connecting > 0 => return Ok(()),
                None => return Err(self.failure(tensor)),
            }
        }
        Ok(())
    }

    fn failure(&self, tensor: TensorIndex) -> FetchError {
        let name = self.tensors[tensor].name.clone();
        let is_it = |damage: &Damage| damage.tensor == name;
        if self.suspects.contains_key(&tensor) || self.report.damaged.iter().any(is_it) {
            return FetchError::WrongBytes { name };
        }
        let why = self.why.clone();
        match self.is_reached {
            false => FetchError::NoSource {
                why: why.unwrap_or_else(|| "no source was named".into()),
            },
            true => FetchError::Broken {
                name,
                why: why.unwrap_or_else(|| "no source has it".into()),
            },
        }
    }

    // Pieces.

    /// Gives every source as much to do as it may have, a piece at a time each.
    fn ask(&mut self) {
        let now = Instant::now();
        let mut idle: Vec<_> = (0..self.sources.len()).collect();
        while !idle.is_empty() {
            idle.retain(|&source| match self.pieces.next(source, now) {
                Some(piece) => {
                    self.fetch(source, piece);
                    true
                }
                None => false,
            });
        }
    }

    fn fetch(&mut self, source: SourceIndex, piece: Piece) {
        let Some(reached) = self.sources[source].clone() else {
            return;
        };
        let hash = self.tensors[piece.tensor].hash;
        let task = self.tasks.spawn(async move {
            let bytes = reached.fetch(hash, piece).await;
            Ok(Event::Arrived(source, piece, bytes))
        });
        self.under_way.insert((source, piece), task);
    }

    fn arrived(
        &mut self,
        source: SourceIndex,
        piece: Piece,
        bytes: Result<Vec<u8>, PieceError>,
    ) -> Result<(), FetchError> {
        if self.under_way.remove(&(source, piece)).is_none() {
            // It had been taken off before its end was heard of.
            return Ok(());
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(PieceError::Lacking) => {
                self.pieces.lacks(source, piece.tensor);
                return self.settle();
            }
            Err(PieceError::Broken(why)) => {
                tracing::warn!(why, "a source of weights is given up");
                self.why = Some(why);
                return self.give_up(source);
            }
        };
        let Arrival::Needed { others } = self.pieces.arrived(source, &piece) else {
            return Ok(());
        };
        for other in others {
            if let Some(task) = self.under_way.remove(&(other, piece)) {
                task.abort();
            }
        }
        if let Some(reached) = &self.sources[source] {
            *self.report.sent.entry(reached.node).or_default() += piece.n_bytes;
        }
        self.progress.fetch_add(piece.n_bytes, Ordering::Relaxed);
        if let Some(arriving) = self.arriving.get_mut(&piece.tensor) {
            arriving.hold(piece.offset, source, bytes);
        }
        self.write(piece.tensor);
        Ok(())
    }

    // Tensors.

    fn open(&mut self) {
        if self.sources.iter().all(Option::is_none) {
            return;
        }
        while let Some(tensor) = self.pieces.open_next() {
            self.begin(tensor, |_| Ok(()));
        }
    }

    fn begin_again(&mut self, tensor: TensorIndex, source: SourceIndex) {
        self.pieces.restart(tensor, source);
        self.arriving.remove(&tensor);
        self.begin(tensor, PartFile::clear);
    }

    fn begin(&mut self, tensor: TensorIndex, prepare: fn(&mut PartFile) -> Result<(), CacheError>) {
        let (begun, cache) = (self.begun(tensor), self.cache.clone());
        let (hash, n_bytes) = (self.tensors[tensor].hash, self.tensors[tensor].n_bytes);
        self.tasks.spawn_blocking(move || {
            let mut file = cache.begin(&hash, n_bytes)?;
            file.as_mut().map_or(Ok(()), prepare)?;
            Ok(Event::Opened(begun, file))
        });
    }

    fn opened(&mut self, tensor: TensorIndex, file: Option<PartFile>) {
        // Another process on this machine has fetched it meanwhile, if there is no file.
        let Some(file) = file else {
            return self.pieces.done(tensor);
        };
        self.pieces.opened(tensor, file.len());
        self.arriving.insert(tensor, Arriving::new(file));
        self.write(tensor);
    }

    /// Writes what can be written.
    fn write(&mut self, tensor: TensorIndex) {
        let (begun, hash) = (self.begun(tensor), self.tensors[tensor].hash);
        let n_bytes = self.tensors[tensor].n_bytes;
        let arriving = self.arriving.get_mut(&tensor);
        match arriving.and_then(|arriving| arriving.work(n_bytes)) {
            Some(Work::Write(batch)) => self.tasks.spawn_blocking(move || {
                let (file, written) = batch.write()?;
                Ok(Event::Wrote(begun, file, written))
            }),
            Some(Work::Finish(file)) => self
                .tasks
                .spawn_blocking(move || Ok(Event::Finished(begun, file.finish(&hash)?))),
            None => return,
        };
    }

    fn finished(&mut self, tensor: TensorIndex, is_right: bool) -> Result<(), FetchError> {
        let Some(arriving) = self.arriving.remove(&tensor) else {
            return Ok(());
        };
        if is_right {
            self.pieces.done(tensor);
            let new_bytes = self.tensors[tensor].n_bytes - arriving.resumed_bytes;
            self.report.cached_bytes = self.report.cached_bytes.saturating_sub(new_bytes);
            self.compare(tensor);
            return Ok(());
        }
        let name = &self.tensors[tensor].name;
        tracing::warn!(tensor = name, "tensor arrived damaged, fetching it again");
        self.pieces.forsake(tensor);
        if let Some(liar) = arriving.only_source() {
            return self.lied(liar, tensor).and_then(|()| self.settle());
        }
        let suspects = self.suspects.entry(tensor).or_default();
        suspects.extend(arriving.into_written());
        self.settle()
    }

    /// Now that a tensor is right it can be seen who sent the wrong bytes before.
    fn compare(&mut self, tensor: TensorIndex) {
        let Some(written) = self.suspects.remove(&tensor) else {
            return;
        };
        let (cache, hash) = (self.cache.clone(), self.tensors[tensor].hash);
        self.n_comparing += 1;
        self.tasks.spawn_blocking(move || {
            let liars = match cache.open_tensor(&hash)? {
                Some(right) => who_lied(&right, &written)?,
                None => Vec::new(),
            };
            Ok(Event::Compared(tensor, liars))
        });
    }
}
