//! The memory of requests, counted before it is taken: bodies, their JSON, prompts and tokens.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use crate::problem::Problem;

/// The memory of a small request. As many of them as there are connections leave most of the memory
/// to others, so they may take the part that larger ones leave free.
const SMALL: usize = 128 << 10;

/// The memory of a request from which on the system gets it back soon after the request's end.
const LARGE: usize = 1 << 20;

/// The memory that requests may take together.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    limit: usize,
    taken: Mutex<Taken>,
    /// A large request has ended.
    freed: AtomicBool,
    gauge: Gauge,
}

/// Bytes in use.
#[derive(Default)]
struct Taken {
    all: usize,
    clients: HashMap<String, usize>,
}

/// The memory of one request, given back when this is dropped.
pub(crate) struct Charge {
    budget: Budget,
    client: String,
    /// Changed under the lock of the budget only.
    bytes: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes; `gauge` shows how many of them are in use.
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Shared {
            limit,
            taken: Mutex::default(),
            freed: AtomicBool::new(false),
            gauge,
        }))
    }

    /// Returns memory of large requests that have ended to the system, for as long as it is polled.
    /// The allocator keeps the many small pieces of their JSON for others of the kind.
    pub(crate) async fn give_back(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.0.freed.swap(false, Ordering::Relaxed) {
                let _ = tokio::task::spawn_blocking(trim).await;
            }
        }
    }

    /// The memory of a new request of a client: none yet.
    pub(crate) fn charge(&self, client: &str) -> Charge {
        Charge { budget: self.clone(), client: client.to_owned(), bytes: AtomicUsize::new(0) }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Charge {
    /// Makes `bytes` the memory of the request. Giving some back always works.
    ///
    /// # Errors
    /// 413 if no request may take as much; 503 if others have taken it.
    pub(crate) fn set(&self, bytes: usize) -> Result<(), Problem> {
        let limit = self.budget.0.limit;
        if bytes > limit {
            return Err(Problem::too_much_memory(bytes, limit));
        }
        let mut taken = self.budget.taken();
        let before = self.bytes.load(Ordering::Relaxed);
        let all = taken.all - before + bytes;
        let client = taken.clients.get(&self.client).map_or(0, |sum| sum - before) + bytes;
        let fits = if bytes <= before {
            if before >= LARGE {
                self.budget.0.freed.store(true, Ordering::Relaxed);
            }
            true
        } else if bytes <= SMALL {
            all <= limit && (client <= limit / 4 * 3 || client == bytes)
        } else {
            let alone = client == bytes;
            all == bytes || (all <= limit / 8 * 7 && (client <= limit / 2 || alone))
        };
        if !fits {
            return Err(Problem::no_memory());
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        taken.all = all;
        if client == 0 {
            taken.clients.remove(&self.client);
        } else {
            *taken.clients.entry(self.client.clone()).or_default() = client;
        }
        self.budget.0.gauge.set(all as i64);
        Ok(())
    }

    /// Adds to the memory of the request.
    ///
    /// # Errors
    /// As for [`set`](Self::set).
    pub(crate) fn add(&self, bytes: usize) -> Result<(), Problem> {
        self.set(self.bytes.load(Ordering::Relaxed).saturating_add(bytes))
    }

    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&self, bytes: usize) {
        // Fewer bytes than before always fit.
        let _ = self.set(bytes.min(self.bytes.load(Ordering::Relaxed)));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Returns free memory to the system.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Budget, SMALL};

    const MIB: usize = 1 << 20;

    #[test]
    fn memory_is_counted_and_given_back() {
        let budget = Budget::new(64 * MIB, Default::default());
        let (one, two) = (budget.charge("a"), budget.charge("b"));
        assert_eq!(one.set(65 * MIB).unwrap_err().status, 413);
        // One that is alone may take everything.
        one.set(64 * MIB).unwrap();
        assert_eq!(two.set(1).unwrap_err().status, 503);
        one.shrink(MIB);
        one.shrink(2 * MIB);
        assert_eq!(budget.0.gauge.get(), MIB as i64);
        two.set(55 * MIB).unwrap();
        assert_eq!(two.set(56 * MIB).unwrap_err().status, 503);
        assert_eq!(budget.0.gauge.get(), 56 * MIB as i64);
        drop((one, two));
        assert!(budget.taken().clients.is_empty());
        assert_eq!((budget.taken().all, budget.0.gauge.get()), (0, 0));
    }

    #[test]
    fn a_client_leaves_memory_to_others() {
        let budget = Budget::new(64 * MIB, Default::default());
        let many: Vec<_> = (0..100).map(|_| budget.charge("many")).collect();
        let taken = many.iter().filter(|charge| charge.set(MIB).is_ok()).count();
        assert_eq!(taken, 32);
        budget.charge("other").set(24 * MIB).unwrap();
        // Large requests of several clients leave room for small ones, theirs too.
        let more: Vec<_> = (0..100).map(|i| budget.charge(&i.to_string())).collect();
        assert_eq!(more.iter().filter(|charge| charge.set(MIB).is_ok()).count(), 24);
        budget.charge("many").set(SMALL).unwrap();
        budget.charge("other").set(SMALL).unwrap();
    }
}
