//! Messages to the model thread.

use crate::embeddings::EmbedJob;
use crate::queue::Job;
use crate::sessions::Sessions;

/// A message to the model thread.
pub(crate) enum Command {
    /// Queue these jobs.
    Start(Vec<Job>),
    /// Run this between two steps.
    Sessions(SessionTask),
    /// Embed these texts.
    Embed(EmbedJob),
    /// Refuse new and waiting jobs; running ones go on.
    Close,
    /// End running jobs too.
    Abort,
    /// End the thread.
    End,
}

/// A task that needs the sessions.
pub(crate) type SessionTask = Box<dyn for<'m> FnOnce(&mut Sessions<'m>) + Send>;
