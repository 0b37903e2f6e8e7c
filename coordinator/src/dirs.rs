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
    fn without_any_variable_the_message_says_what_to_set() {
        let error = found(System::Unix, &[("HOME", "")]).unwrap_err();
        assert!(error.to_string().contains("POTLUCK_CACHE"), "{error}");
    }
}
