//! Threads beside the model's, for work that takes a while.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::error::{Error, Result};

/// Runs a bounded number of tasks at once, each on a thread of its own.
///
/// Templates and tokenizers of long prompts take long enough to hold up an async runtime, and the
/// model needs processors too.
pub(crate) struct Threads(Arc<Semaphore>);

impl Threads {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS))))
    }

    /// Runs `task`, once one of the threads is free.
    ///
    /// # Errors
    /// Those of `task`, [`Error::Thread`], and [`Error::Ended`] if the task panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.0.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (done, result) = oneshot::channel();
        let body = move || {
            // The caller may have gone.
            let _ = done.send(task());
            drop(permit);
        };
        let thread = std::thread::Builder::new().name("prompt".to_owned()).spawn(body);
        thread.map_err(|error| Error::Thread(Arc::new(error)))?;
        result.await.map_err(|_| Error::Ended)?
    }
}
