//! Where files are kept: those that can be made again (fetched models, weights, hashes of tensors), and the cluster's state.
//!
//! `POTLUCK_CACHE` wins everywhere; without it each system's own custom decides.

use std::ffi::OsString;
use std::path::PathBuf;

/// The environment names no place for a cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no place for potluck's files: {0} is not set; set POTLUCK_CACHE to a folder with room for models and POTLUCK_STATE to one for the cluster's state"
)]
pub struct NoCacheDir(&'static str);

/// The cache folder of this user. It is not created here.
pub fn cache_dir() -> Result<PathBuf, NoCacheDir> {
    let system = match () {
        () if cfg!(target_os = "macos") => System::MacOs,
        () if cfg!(windows) => System::Windows,
        () => System::Unix,
    };
    cache_dir_of(system, |name| std::env::var_os(name))
}

/// The folder of this user for what must last: which cluster this is. It is not created here.
pub fn state_dir() -> Result<PathBuf, NoCacheDir> {
    let path = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(chosen) = path("POTLUCK_STATE") {
        return Ok(chosen);
    }
    let under_home = |name, folder: &str| path(name).map(|home| home.join(folder).join("potluck"));
    let found = if cfg!(windows) {
        under_home("APPDATA", "").ok_or("APPDATA")
    } else if cfg!(target_os = "macos") {
        under_home("HOME", "Library/Application Support").ok_or("HOME")
    } else {
        let stated = path("XDG_STATE_HOME")
            .filter(|p| p.is_absolute())
            .map(|p| p.join("potluck"));
        stated
            .or_else(|| under_home("HOME", ".local/state"))
            .ok_or("HOME")
    };
    found.map_err(NoCacheDir)
}

/// The folder of this user for what must last of one cluster. It is not created here.
pub fn cluster_dir(name: &str) -> Result<PathBuf, NoCacheDir> {
    state_dir().map(|folder| folder.join(name))
}

/// Characters of a cluster's name, which is a folder and part of what workers announce.
const MAX_CLUSTER_CHARS: usize = 32;

/// What cannot be the name of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a cluster's name is up to {MAX_CLUSTER_CHARS} of the characters a-z, 0-9, `-` and `_`, such as `home`"
)]
pub struct BadClusterName;

/// The name of a cluster as somebody wrote it, if it is one. It becomes a folder, so it must not lead anywhere else, nor mean
/// different folders on different systems.
pub fn cluster_name(text: &str) -> Result<String, BadClusterName> {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let good = (1..=MAX_CLUSTER_CHARS).contains(&text.len()) && text.bytes().all(is_plain);
    good.then(|| text.to_owned()).ok_or(BadClusterName)
}

#[derive(Debug, Clone, Copy)]
enum System {
    Unix,
    MacOs,
    Windows,
}

fn cache_dir_of(
    system: System,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, NoCacheDir> {
    // An empty variable counts as unset, as the XDG rules say.
    let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(chosen) = path("POTLUCK_CACHE") {
        return Ok(chosen);
    }
    let (found, asked) = match system {
        System::Unix => (
            path("XDG_CACHE_HOME")
                // The XDG rules also say that a relative path is to be ignored.
                .filter(|p| p.is_absolute())
                .or_else(|| path("HOME").map(|home| home.join(".cache"))),
            "HOME",
        ),
        System::MacOs => (
            path("HOME").map(|home| home.join("Library").join("Caches")),
            "HOME",
        ),
        System::Windows => (path("LOCALAPPDATA"), "LOCALAPPDATA"),
    };
    Ok(found.ok_or(NoCacheDir(asked))?.join("potluck"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(system: System, variables: &[(&str, &str)]) -> Result<PathBuf, NoCacheDir> {
        cache_dir_of(system, |name| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some(OsString::from(value))
        })
    }

    #[test]
    fn each_system_has_its_custom_and_the_user_the_last_word() {
        type Case<'a> = (System, &'a [(&'a str, &'a str)], &'a str);
        let table: [Case<'_>; 6] = [
            (System::Unix, &[("HOME", "/h")], "/h/.cache/potluck"),
            (
                System::Unix,
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/potluck",
            ),
            (
                System::Unix,
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "x")],
                "/h/.cache/potluck",
            ),
            (
                System::Unix,
                &[("HOME", "/h"), ("POTLUCK_CACHE", "/p")],
                "/p",
            ),
            (
                System::MacOs,
                &[("HOME", "/h")],
                "/h/Library/Caches/potluck",
            ),
            (System::Windows, &[("LOCALAPPDATA", "/l")], "/l/potluck"),
        ];
        for (system, variables, want) in table {
            assert_eq!(
                found(system, variables),
                Ok(PathBuf::from(want)),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn a_clusters_name_is_a_plain_folder() {
        let longest = "x".repeat(32);
        for name in ["home", "test-17-0", "a_b", "0", &longest] {
            assert_eq!(cluster_name(name).as_deref(), Ok(name));
        }
        let too_long = "x".repeat(33);
        for name in ["", "Home", "a b", "..", "a/b", "a.b", "é", &too_long] {
            assert_eq!(cluster_name(name), Err(BadClusterName), "{name}");
        }
    }

    #[test]
    fn without_any_variable_the_message_says_what_to_set() {
        let error = found(System::Unix, &[("HOME", "")]).unwrap_err();
        assert!(error.to_string().contains("POTLUCK_CACHE"), "{error}");
    }
}
