//! The model that a user names: a file, or one that is fetched into the cache first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use potluck_coordinator::answer::ServedModel;
use potluck_coordinator::dirs;
use potluck_coordinator::fetch::{self, FetchOptions};
use potluck_coordinator::store::Model;
use potluck_coordinator::text::{ChatTemplate, Tokenizer};

use super::progress::Bars;
use super::signal::{Interrupted, asked_to_end};
use crate::flags::CapacityFlags;

/// Context without `--context`: enough for a conversation, small enough for old machines.
const DEFAULT_CONTEXT: u32 = 4096;

/// Finds the file of a model, fetching it if it is one of the known ones and not there yet.
pub async fn locate(name: &str, bars: &Bars) -> anyhow::Result<PathBuf> {
    let path = Path::new(name);
    let Some(recipe) = fetch::builtin(name).filter(|_| !path.exists()) else {
        if !path.exists() {
            let known: Vec<_> = fetch::builtins()
                .into_iter()
                .map(|recipe| recipe.name)
                .collect();
            bail!(
                "there is no file `{name}`, and it is not a model that can be fetched by name ({})",
                known.join(", ")
            );
        }
        return Ok(path.to_owned());
    };
    let cache_dir = dirs::cache_dir()?;
    let cancel = Arc::new(AtomicBool::new(false));
    let bar = bars.bytes(&format!("fetching {name}"));
    let work = tokio::task::spawn_blocking({
        let (cancel, bar) = (Arc::clone(&cancel), bar.clone());
        move || {
            let options = FetchOptions {
                cache_dir: &cache_dir,
                pip: None,
                cancel: &cancel,
            };
            fetch::fetch(&recipe, &options, &mut |progress| {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            })
        }
    });
    tokio::pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        () = asked_to_end() => {
            // The fetch stops its child processes and removes nothing that a later one can use.
            cancel.store(true, Ordering::Relaxed);
            let _ = work.await;
            return Err(Interrupted.into());
        }
    };
    bar.finish_and_clear();
    Ok(result.context("the fetch ended unexpectedly")??)
}

/// Opens a model: parsed, checked, every tensor hashed.
pub async fn open(path: PathBuf, bars: &Bars) -> anyhow::Result<Arc<Model>> {
    let cache_dir = dirs::cache_dir()?;
    let bar = bars.bytes("hashing the model");
    let work = tokio::task::spawn_blocking({
        let (path, bar) = (path.clone(), bar.clone());
        move || {
            Model::open(&path, &cache_dir, |progress| {
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes);
            })
        }
    });
    let model = work.await.context("opening the model ended unexpectedly")?;
    bar.finish_and_clear();
    Ok(Arc::new(model.with_context(|| unusable(&path))?))
}

/// How the message about a file that is no model begins.
pub fn unusable(path: &Path) -> String {
    format!("{} cannot be used", path.display())
}

/// What those who ask see of a model: its words.
pub fn served(model: &Model, context_tokens: u32) -> anyhow::Result<ServedModel> {
    let gguf = model.gguf()?;
    let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
    let template = ChatTemplate::from_gguf(gguf.metadata(), &tokenizer)?;
    Ok(ServedModel {
        name: model.name().to_owned(),
        tokenizer: Arc::new(tokenizer),
        template,
        context_tokens,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs()),
    })
}

/// The context that a cluster promises.
pub fn context_tokens(flags: &CapacityFlags, model: &Model) -> anyhow::Result<u32> {
    let trained = model.shape().context_length;
    match flags.context {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(0) => bail!("--context 0 leaves no room for a single token"),
        Some(asked) if asked > trained => {
            bail!(
                "--context {asked} is more than the {trained} tokens that {} was trained for",
                model.name()
            )
        }
        Some(asked) => Ok(asked),
    }
}
