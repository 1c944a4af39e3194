//! Runs side by side: workers with a thread pool each, and what they share.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Calls `work` once on each of `jobs` workers and gives what they returned, in their order.
///
/// Each worker has a thread pool of its own, its share of the current pool's threads and at least one: what `work`
/// computes takes no other's threads. A panic in a worker goes on here once the others have ended.
///
/// # Errors
/// No jobs; threads that the system does not give.
pub(crate) fn on_workers<T: Send>(jobs: usize, work: impl Fn() -> T + Sync) -> Result<Vec<T>> {
    if jobs == 0 {
        return Err(Error::argument(
            "--jobs",
            "0 runs at a time do nothing; the smallest is 1",
        ));
    }
    let threads = (rayon::current_num_threads() / jobs).max(1);
    let refused =
        |error: &dyn std::fmt::Display| Error::argument("--jobs", format!("{jobs} times {threads} threads: {error}"));
    let pools = (0..jobs)
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(threads).build())
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| refused(&error))?;
    let work = &work;
    std::thread::scope(|scope| {
        let workers = pools
            .iter()
            .map(|pool| std::thread::Builder::new().spawn_scoped(scope, || pool.install(work)))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| refused(&error))?;
        // All are waited for before a panic goes on.
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        Ok(ended
            .into_iter()
            .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect())
    })
}

/// A panic as an error, with its own words.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::Panicked {
        message: words.unwrap_or("without a word").to_owned(),
    }
}

/// Values that several runs use: made when the first one asks, dropped when the last one is done.
pub(crate) struct Shared<K, T> {
    shelves: Mutex<Vec<Shelf<K, T>>>,
}

struct Shelf<K, T> {
    key: K,
    /// Runs that are not done.
    users: usize,
    /// Under a lock of its own: who needs the value waits for it, who needs another one does not.
    value: Arc<Mutex<Option<Arc<T>>>>,
}

impl<K: PartialEq, T> Shared<K, T> {
    /// Nothing yet, for runs with these keys, one for each run.
    pub(crate) fn new(keys: impl IntoIterator<Item = K>) -> Self {
        let mut shelves: Vec<Shelf<K, T>> = Vec::new();
        for key in keys {
            match shelves.iter_mut().find(|shelf| shelf.key == key) {
                Some(shelf) => shelf.users += 1,
                None => shelves.push(Shelf {
                    key,
                    users: 1,
                    value: Arc::default(),
                }),
            }
        }
        Shared {
            shelves: Mutex::new(shelves),
        }
    }

    /// The value for a key; `make` is called if it is not there. What fails is tried again for the next run.
    pub(crate) fn get(&self, key: &K, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let shelf = lock(&self.shelves)
            .iter()
            .find(|shelf| shelf.key == *key)
            .map(|shelf| shelf.value.clone());
        let Some(shelf) = shelf else {
            return make().map(Arc::new);
        };
        let mut value = lock(&shelf);
        match &*value {
            Some(value) => Ok(value.clone()),
            None => Ok(value.insert(Arc::new(make()?)).clone()),
        }
    }

    /// One run with this key is done.
    pub(crate) fn done(&self, key: &K) {
        let mut shelves = lock(&self.shelves);
        if let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.key == *key) {
            shelf.users = shelf.users.saturating_sub(1);
        }
        shelves.retain(|shelf| shelf.users > 0);
    }
}

/// Locks what stays whole when a thread panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_worker_has_its_share_of_the_threads() -> Result<()> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build();
        let Ok(pool) = pool else { panic!("no pool") };
        for (jobs, threads) in [(1, 5), (2, 2), (5, 1), (7, 1)] {
            let found = pool.install(|| on_workers(jobs, rayon::current_num_threads))?;
            assert_eq!(found, vec![threads; jobs]);
        }
        let message = on_workers(0, || ()).err().map(|error| error.to_string());
        assert_eq!(
            message.as_deref(),
            Some("--jobs: 0 runs at a time do nothing; the smallest is 1")
        );
        Ok(())
    }

    #[test]
    fn a_value_is_made_once_and_dropped_with_its_last_user() -> Result<()> {
        let made = AtomicUsize::new(0);
        let make = || Ok(made.fetch_add(1, Ordering::Relaxed));
        let shared = Shared::new(["a", "b", "a"]);
        let first = shared.get(&"a", make)?;
        shared.done(&"a");
        assert!(Arc::ptr_eq(&first, &shared.get(&"a", make)?));
        let kept = Arc::downgrade(&first);
        drop(first);
        assert!(kept.upgrade().is_some(), "another run will use it");
        assert_eq!(*shared.get(&"b", make)?, 1);
        shared.done(&"a");
        assert!(kept.upgrade().is_none(), "its last run is done");
        Ok(())
    }

    #[test]
    fn what_fails_is_tried_again() -> Result<()> {
        let shared = Shared::new([0, 0]);
        assert!(shared.get(&0, || Err(Error::argument("x", "y"))).is_err());
        assert_eq!(*shared.get(&0, || Ok(5))?, 5);
        Ok(())
    }
}
