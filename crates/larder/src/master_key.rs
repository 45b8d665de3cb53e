//! The file with the master key: read at each start, made at the first.
//!
//! Promises: the key is made only for an instance that has none yet, and is durable, readable by
//! its owner alone, before anything is sealed under it; a missing or wrong file stops the start.
//!
//! Not here: what is sealed (core).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use larder_base::Env;
use larder_core::{MasterKey, MasterKeyId};
use larder_disk::{fault::Faults, fsx};
use zeroize::Zeroizing;

/// Longest file that is looked at: a key has 65 bytes.
const BYTES_MAX: u64 = 1024;

/// Where the key is, unless a setting says otherwise.
pub(crate) fn default_path(data: &Path) -> PathBuf {
    data.join("keys").join("master.key")
}

/// The master key in `path`. It is made if it is not there and none is `expected`, which is so
/// once in the life of an instance; an expected one may be replaced if `replace` says so.
pub(crate) fn open(
    path: &Path,
    expected: Option<MasterKeyId>,
    replace: bool,
    env: &Env,
) -> anyhow::Result<MasterKey> {
    let found = read(path).with_context(|| format!("read the master key {}", path.display()))?;
    let key = match found {
        Some(key) => key,
        None if expected.is_none() || replace => {
            let key = MasterKey::new(env);
            make(path, &key).with_context(|| format!("make the master key {}", path.display()))?;
            tracing::info!(path = %path.display(), "made the master key: back it up");
            key
        }
        None => bail!(
            "the master key {} is missing: secrets are sealed under it. Bring it back from a \
             backup, name its place with master_key.file, or see docs/operations.md",
            path.display()
        ),
    };
    if expected.is_some_and(|expected| expected != key.id()) && !replace {
        bail!(
            "{} is another master key than the one that secrets here are sealed under. Bring that \
             one back from a backup, or see docs/operations.md",
            path.display()
        );
    }
    Ok(key)
}

fn read(path: &Path) -> anyhow::Result<Option<MasterKey>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // A secret that a container platform mounts may be readable by a group; others are a mistake.
    if file.metadata()?.mode() & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "the master key is readable by everybody here");
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(BYTES_MAX).read_to_string(&mut text).context("it is no text");
    read?;
    match MasterKey::parse(&text) {
        Some(key) => Ok(Some(key)),
        None => bail!("64 hexadecimal digits are expected"),
    }
}

/// Writes a new key, durably and whole: there is never a part of one under the name.
fn make(path: &Path, key: &MasterKey) -> anyhow::Result<()> {
    let faults = Faults::default();
    let directory = path.parent().context("it has no directory")?;
    fsx::create_directory(directory, &faults)?;
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(key.to_text().as_bytes())?;
    file.sync_all()?;
    fsx::rename_new(&temporary, path, &faults)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_alone_and_found_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = default_path(directory.path());
        let env = Env::system();
        let made = open(&path, None, false, &env).expect("make").id();
        let metadata = fs::metadata(&path).expect("metadata");
        assert_eq!((metadata.mode() & 0o777, metadata.len()), (0o600, 65));
        assert_eq!(open(&path, Some(made), false, &env).expect("read").id(), made);
        assert_eq!(open(&path, None, false, &env).expect("read").id(), made, "not made again");
    }

    #[test]
    fn a_missing_other_or_damaged_key_stops_the_start_unless_it_may_be_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = default_path(directory.path());
        let env = Env::system();
        let first = open(&path, None, false, &env).expect("make").id();
        fs::rename(&path, directory.path().join("kept")).expect("rename");
        let error = open(&path, Some(first), false, &env).expect_err("it is missing");
        assert!(error.to_string().contains("missing"), "{error}");
        let other = open(&path, Some(first), true, &env).expect("may be replaced").id();
        assert_ne!(other, first);
        let error = open(&path, Some(first), false, &env).expect_err("it is another");
        assert!(error.to_string().contains("another"), "{error}");
        fs::write(&path, "12").expect("write");
        assert!(open(&path, Some(first), false, &env).is_err());
        assert!(open(&path, None, true, &env).is_err(), "what is there is never overwritten");
    }
}
