//! Fetching through a stand-in for pip: a shell script that copies archives from a folder and keeps count.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

use super::*;

/// What the script does with `--dest FOLDER` and the package it is asked for: the last argument.
const COPY: &str = r#"
cp "$shop/$package.whl" "$dest/" || { echo "ERROR: no matching distribution for $package" >&2; exit 1; }
"#;

struct Shop {
    folder: TempDir,
    recipe: Recipe,
}

impl Shop {
    /// A model of `pieces`, each in a package of its own.
    fn new(pieces: &[&[u8]]) -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let part = |i: usize| Part {
            package: format!("piece-{i}"),
            version: "1.0".to_owned(),
            member: format!("data/piece{i}.bin"),
        };
        let whole = pieces.concat();
        let shop = Shop {
            recipe: Recipe {
                name: "whole".to_owned(),
                about: String::new(),
                licence: String::new(),
                parts: (0..pieces.len()).map(part).collect(),
                bytes: whole.len() as u64,
                sha256: Sha256::digest(&whole)
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect(),
            },
            folder,
        };
        for (i, piece) in pieces.iter().enumerate() {
            shop.put(i, &shop.recipe.parts[i].member, piece);
        }
        shop.script(COPY);
        shop
    }

    /// Puts an archive with one member on the shelf.
    fn put(&self, i: usize, member: &str, piece: &[u8]) {
        let name = format!("piece-{i}==1.0.whl");
        let mut archive = zip::ZipWriter::new(fs::File::create(self.path(&name)).unwrap());
        let options =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(member, options).unwrap();
        archive.write_all(piece).unwrap();
        archive.finish().unwrap();
    }

    /// Makes the stand-in: it notes what it is asked for, then runs `body`.
    fn script(&self, body: &str) {
        let text = format!(
            "#!/bin/sh\nshop='{}'\nwhile [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n\
             package=$1\necho \"$package\" >> \"$shop/asked\"\n{body}",
            self.folder.path().display()
        );
        // A script must not be open for writing when it is started, by anybody: so it is only ever an argument of the shell.
        fs::write(self.path("pip"), text).unwrap();
        fs::set_permissions(self.path("pip"), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    fn pip(&self) -> Pip {
        Pip::new("/bin/sh", [OsString::from(self.path("pip"))])
    }

    fn fetch(&self) -> Result<PathBuf, FetchError> {
        self.fetch_watching(&AtomicBool::new(false), &mut |_| ())
    }

    fn fetch_watching(
        &self,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(FetchProgress<'_>),
    ) -> Result<PathBuf, FetchError> {
        let options = FetchOptions {
            cache_dir: &self.cache(),
            pip: Some(self.pip()),
            cancel,
        };
        fetch(&self.recipe, &options, progress)
    }

    /// Packages that were asked for so far, in order.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        text.lines().map(|line| line.replace("==1.0", "")).collect()
    }

    fn staging(&self) -> PathBuf {
        path_of(&self.recipe, &self.cache()).with_extension("fetching")
    }
}

#[test]
fn pieces_become_the_model_and_a_second_fetch_does_nothing() {
    let long = vec![7; 3 << 20];
    let shop = Shop::new(&[b"GGUF", &long, b"end"]);
    let (mut seen, mut done_bytes) = (Vec::new(), 0);
    let path = shop
        .fetch_watching(&AtomicBool::new(false), &mut |progress| {
            assert!(progress.done_bytes >= done_bytes, "the bar went back");
            assert!(progress.done_bytes <= progress.total_bytes);
            done_bytes = progress.done_bytes;
            seen.push(progress.activity.to_owned());
        })
        .unwrap();
    assert_eq!(
        fs::read(&path).unwrap(),
        [b"GGUF".as_slice(), &long, b"end"].concat()
    );
    assert!(is_fetched(&shop.recipe, &shop.cache()));
    assert!(!shop.staging().exists());
    seen.dedup();
    assert_eq!(seen, ["piece-0", "piece-1", "piece-2", "checking"]);
    assert_eq!(shop.asked(), ["piece-0", "piece-1", "piece-2"]);

    assert_eq!(shop.fetch().unwrap(), path);
    assert_eq!(shop.asked().len(), 3);
}

#[test]
fn complete_packages_are_not_fetched_twice() {
    let shop = Shop::new(&[b"one", b"two", b"three"]);
    let absent = shop.path("piece-2==1.0.whl");
    let aside = shop.path("aside");
    fs::rename(&absent, &aside).unwrap();
    let error = shop.fetch().unwrap_err().to_string();
    assert!(
        error.contains("piece-2==1.0") && error.contains("no matching distribution"),
        "{error}"
    );

    // Bytes beyond the journal are what a stop in the middle leaves behind.
    let partial = shop.staging().join("partial");
    let mut file = fs::File::options().append(true).open(partial).unwrap();
    file.write_all(b"torn").unwrap();
    fs::rename(&aside, &absent).unwrap();
    assert_eq!(fs::read(shop.fetch().unwrap()).unwrap(), b"onetwothree");
    assert_eq!(shop.asked(), ["piece-0", "piece-1", "piece-2", "piece-2"]);
}

#[test]
fn a_journal_that_does_not_fit_means_starting_over() {
    let shop = Shop::new(&[b"one", b"two"]);
    let entry = |package: &str, end: u64| {
        format!(r#"{{"package":"{package}","version":"1.0","end":{end}}}"#)
    };
    let journals = [
        "not json".to_owned(),
        format!("[{}]", entry("other", 3)),
        format!("[{}]", entry("piece-0", 4)),
        format!("[{},{}]", entry("piece-0", 3), entry("piece-1", 2)),
        format!("[{0},{0},{0}]", entry("piece-0", 1)),
    ];
    for journal in journals {
        fs::create_dir_all(shop.staging()).unwrap();
        fs::write(shop.staging().join("partial"), b"one").unwrap();
        fs::write(shop.staging().join("journal.json"), &journal).unwrap();
        let path = shop.fetch().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"onetwo", "{journal}");
        fs::remove_file(path).unwrap();
    }
    assert_eq!(shop.asked().len(), 10);
}

#[test]
fn a_wrong_sum_is_refused_and_nothing_of_it_is_kept() {
    let shop = Shop::new(&[b"one", b"two"]);
    shop.put(1, "data/piece1.bin", b"tow");
    let error = shop.fetch().unwrap_err();
    assert!(matches!(error, FetchError::WrongSum { .. }), "{error}");
    assert!(error.to_string().contains(&shop.recipe.sha256), "{error}");
    assert!(!is_fetched(&shop.recipe, &shop.cache()));

    shop.put(1, "data/piece1.bin", b"two");
    shop.fetch().unwrap();
    assert_eq!(shop.asked(), ["piece-0", "piece-1", "piece-0", "piece-1"]);
}

#[test]
fn packages_that_are_not_what_they_should_be_are_refused() {
    let shop = Shop::new(&[b"one"]);
    shop.put(0, "data/other.bin", b"one");
    let error = shop.fetch().unwrap_err().to_string();
    assert!(
        error.contains(r#"it has no file "data/piece0.bin""#),
        "{error}"
    );

    // An archive that unpacks to more than the model has is cut off when it exceeds it.
    shop.put(0, "data/piece0.bin", &vec![0; 5 << 20]);
    let error = shop.fetch().unwrap_err();
    assert!(matches!(error, FetchError::TooLong { .. }), "{error}");

    fs::write(shop.path("piece-0==1.0.whl"), b"PK no archive").unwrap();
    let error = shop.fetch().unwrap_err();
    assert!(matches!(error, FetchError::BadArchive { .. }), "{error}");

    shop.script("true");
    let error = shop.fetch().unwrap_err();
    assert!(
        matches!(error, FetchError::NoArchive { n_archives: 0, .. }),
        "{error}"
    );

    shop.script("touch $dest/a.whl $dest/b.whl");
    let error = shop.fetch().unwrap_err();
    assert!(
        matches!(error, FetchError::NoArchive { n_archives: 2, .. }),
        "{error}"
    );
}

#[test]
fn what_pip_says_is_passed_on_cut_and_cleaned() {
    let shop = Shop::new(&[b"one"]);
    shop.script("i=0; while [ $i -lt 5000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; printf '\\033[31mno network\\n' >&2; exit 3");
    let error = shop.fetch().unwrap_err().to_string();
    assert!(error.ends_with("line 4999\n[31mno network"), "{error}");
    assert!(!error.contains("line 4000\n"), "{error}");
}

#[test]
fn an_installer_that_is_not_there_is_named() {
    let shop = Shop::new(&[b"one"]);
    let options = FetchOptions {
        cache_dir: &shop.cache(),
        pip: Some(Pip::new("/nowhere/pip", [])),
        cancel: &AtomicBool::new(false),
    };
    let error = fetch(&shop.recipe, &options, &mut |_| ()).unwrap_err();
    assert!(
        error.to_string().contains("cannot start `/nowhere/pip`"),
        "{error}"
    );
}

#[test]
fn cancelling_ends_the_installer_and_keeps_what_is_complete() {
    let shop = Shop::new(&[b"one", b"two"]);
    // The second package never comes; the script notes who it is so that its end can be seen.
    shop.script(&format!(
        "case $package in piece-1*) echo $$ > \"$shop/pid\"; exec sleep 600;; esac\n{COPY}"
    ));
    let cancel = AtomicBool::new(false);
    let pid_file = shop.path("pid");
    let error = shop
        .fetch_watching(&cancel, &mut |_| {
            let started = fs::read_to_string(&pid_file).is_ok_and(|pid| pid.ends_with('\n'));
            cancel.store(started, Ordering::Relaxed);
        })
        .unwrap_err();
    assert!(matches!(error, FetchError::Cancelled), "{error}");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let alive = std::process::Command::new("/bin/kill")
        .args(["-0", pid.trim()])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(!alive.success(), "process {pid} lives on");

    shop.script(COPY);
    assert_eq!(fs::read(shop.fetch().unwrap()).unwrap(), b"onetwo");
    assert_eq!(shop.asked(), ["piece-0", "piece-1", "piece-1"]);
}

#[test]
fn two_fetches_at_once_are_one() {
    let shop = Shop::new(&[b"one", b"two"]);
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| shop.fetch().unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        paths
            .iter()
            .all(|path| fs::read(path).unwrap() == b"onetwo")
    );
    assert_eq!(shop.asked(), ["piece-0", "piece-1"]);
    assert!(!shop.staging().exists());
}
