//! One process at a time in a directory: a lock that ends with whoever holds it, however that ends.
//!
//! The lock is the operating system's, on the file [`NAME`] in the directory ([`std::fs::File::lock`]), so a killed process
//! leaves none and a kernel that speaks NFS shares it between machines. The file itself stays: removing a file that others may be
//! about to lock is how two of them come to hold "the" lock. Only [`DirLock::remove`] takes it away, and whoever gets a lock
//! looks whether the file that it is on still has the name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The file that is locked.
pub const NAME: &str = ".lock";

/// A directory that no other process, and no other holder in this one, has at the same time. Given back when dropped.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    /// `None` on a file system without locks.
    file: Option<File>,
}

impl DirLock {
    /// Takes the lock of a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Busy`] if another holds it; a directory or file that cannot be written.
    pub fn take(dir: &Path) -> Result<Self> {
        Self::acquire(dir, |file| match try_lock(file) {
            // Who only looks, see `holder`, is gone in a moment.
            Ok(false) => {
                std::thread::sleep(Duration::from_millis(20));
                try_lock(file)
            }
            locked => locked,
        })
    }

    /// Who has the lock of a directory now, in words. Makes nothing.
    ///
    /// # Errors
    /// If the file is there and cannot be opened.
    pub fn holder(dir: &Path) -> Result<Option<String>> {
        let path = dir.join(NAME);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => return Ok(None),
            opened => opened.map_err(Error::io("read", &path))?,
        };
        Ok(match try_lock(&file) {
            Ok(false) => Some(signature(&mut file)),
            _ => None,
        })
    }

    /// [`DirLock::take`], once whoever holds the lock has given it back: for work of moments.
    ///
    /// # Errors
    /// A directory or file that cannot be written.
    pub fn wait(dir: &Path) -> Result<Self> {
        Self::acquire(dir, |file| file.lock().map(|()| true))
    }

    /// `lock` says whether it got the lock, or that it cannot know.
    fn acquire(dir: &Path, lock: impl Fn(&File) -> io::Result<bool>) -> Result<Self> {
        let path = dir.join(NAME);
        loop {
            // Others may give up the directory between any two of these calls.
            match fs::create_dir_all(dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && !dir.exists() => continue,
                made => made.map_err(Error::io("create", dir))?,
            }
            let mut options = OpenOptions::new();
            // Writable, because NFS locks no other files.
            options.read(true).write(true).create(true).truncate(false);
            let mut file = match options.open(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => continue,
                opened => opened.map_err(Error::io("write", &path))?,
            };
            match lock(&file) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(Error::Busy {
                        path: dir.to_owned(),
                        by: signature(&mut file),
                    });
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(DirLock { path, file: None }),
                Err(error) if error.kind() == ErrorKind::StaleNetworkFileHandle => continue,
                Err(error) => return Err(Error::io("lock", &path)(error)),
            }
            if !has_name(&file, &path).map_err(Error::io("read", &path))? {
                continue;
            }
            let lock = DirLock { path, file: Some(file) };
            lock.sign()?;
            return Ok(lock);
        }
    }

    /// Whether the file system has locks. Where it has none, nobody is kept out.
    pub fn is_effective(&self) -> bool {
        self.file.is_some()
    }

    /// Gives the lock back and takes its file away.
    pub fn remove(self) {
        // Elsewhere it cannot be told whether a file that was locked still has its name.
        if cfg!(unix) {
            // A file that stays is in nobody's way.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Says who holds it, for a person, and makes the directory's news known here: NFS remembers for a while that a file is
    /// not there, until the directory changes under its own hands.
    fn sign(&self) -> Result<()> {
        let probe = self.path.with_file_name(".lock.tmp");
        fs::write(&probe, []).map_err(Error::io("write", &probe))?;
        // Where there are no locks, another may have been here first.
        let _ = fs::remove_file(&probe);
        let Some(mut file) = self.file.as_ref() else {
            return Ok(());
        };
        let words = match fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(host) => format!("process {} on {}\n", std::process::id(), host.trim()),
            Err(_) => format!("process {}\n", std::process::id()),
        };
        file.set_len(0)
            .and_then(|()| file.write_all(words.as_bytes()))
            .map_err(Error::io("write", &self.path))
    }
}

/// Whether the lock is ours now.
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Who signed the file; a process that is just about to is another process.
fn signature(file: &mut File) -> String {
    let mut words = String::new();
    match file.read_to_string(&mut words) {
        Ok(_) if words.ends_with('\n') => words.trim().to_owned(),
        _ => "another process".to_owned(),
    }
}

/// Whether a file is the one of that name.
#[cfg(unix)]
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    // Opened, not only looked at: NFS asks the server then.
    match File::open(path) {
        Ok(named) => {
            let (ours, named) = (file.metadata()?, named.metadata()?);
            Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a file is the one of that name: it is never removed here.
#[cfg(not(unix))]
fn has_name(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time() -> Result<()> {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        let lock = DirLock::take(&dir)?;
        assert!(lock.is_effective());
        let message = DirLock::take(&dir).unwrap_err().to_string();
        let us = format!("process {}", std::process::id());
        assert!(message.contains("b: ") && message.contains(&us), "{message}");
        assert!(DirLock::holder(&dir)?.is_some_and(|by| by.contains(&us)));
        drop(lock);
        assert_eq!(DirLock::holder(&dir)?, None);
        assert_eq!(DirLock::holder(&dir.join("nowhere"))?, None);
        assert!(DirLock::take(&dir).is_ok());
        Ok(())
    }

    /// Eight threads take, use and remove the lock of a directory that vanishes with it.
    #[test]
    fn a_file_that_is_removed_does_not_let_two_in() -> Result<()> {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("run");
        let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let lock = DirLock::wait(&dir).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at a time");
                        entered.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.remove();
                        let _ = fs::remove_dir(&dir);
                    }
                });
            }
        });
        assert_eq!(entered.into_inner(), 800);
        Ok(())
    }

    #[test]
    fn where_there_are_no_locks_that_can_be_seen() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path(), |_| Err(ErrorKind::Unsupported.into()))?;
        assert!(!lock.is_effective());
        Ok(())
    }
}
