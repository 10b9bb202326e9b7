//! Calls of the engine that create, read, change and delete sessions.

use std::sync::Arc;

use mlx_llamba::{ChatOptions, Message, SessionFile, TurnDraft};
use tokio::sync::oneshot;

use super::{Claim, SessionView, Sessions};
use crate::command::Command;
use crate::engine::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// Creates a session that begins with `messages`, which may be empty. Nothing is read yet.
    ///
    /// # Errors
    /// [`Error::NoTemplate`], [`Error::SessionsFull`], or [`Error::Request`].
    pub async fn create_session(
        &self,
        messages: Vec<Message>,
        options: ChatOptions,
    ) -> Result<SessionView> {
        self.sessions(|sessions| sessions.create(messages, options)).await
    }

    /// Describes a session.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub async fn session(&self, id: impl Into<String>) -> Result<SessionView> {
        let id = id.into();
        self.sessions(move |sessions| sessions.view(&id)).await
    }

    /// Copies a session: both go on from the same state, independently.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::SessionsFull`].
    pub async fn fork_session(&self, id: impl Into<String>) -> Result<SessionView> {
        let id = id.into();
        self.sessions(move |sessions| sessions.fork(&id)).await
    }

    /// Removes the last question and its reply.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::SessionState`] if there is
    /// nothing to undo.
    pub async fn undo_session(&self, id: impl Into<String>) -> Result<SessionView> {
        let id = id.into();
        self.sessions(move |sessions| sessions.undo(&id)).await
    }

    /// Removes all but the first `messages` messages.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::SessionState`] if there are
    /// fewer messages.
    pub async fn rewind_session(
        &self,
        id: impl Into<String>,
        messages: usize,
    ) -> Result<SessionView> {
        let id = id.into();
        self.sessions(move |sessions| sessions.rewind(&id, messages)).await
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub async fn delete_session(&self, id: impl Into<String>) -> Result<()> {
        let id = id.into();
        self.sessions(move |sessions| sessions.delete(&id)).await
    }

    /// Saves a session with its states, for [`import_session`](Self::import_session) or
    /// `mlx-llamba chat --session`.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::Failed`].
    pub async fn export_session(&self, id: impl Into<String>) -> Result<Vec<u8>> {
        let id = id.into();
        let file = self.sessions(move |sessions| sessions.export(&id)).await?;
        self.0.threads.run(move || Ok(file.to_bytes()?)).await
    }

    /// Creates a session from a saved one. `name` stands for the bytes in errors.
    ///
    /// # Errors
    /// [`Error::SessionFile`], [`Error::SessionTemplate`], or [`Error::SessionsFull`].
    pub async fn import_session(
        &self,
        bytes: impl AsRef<[u8]> + Send + 'static,
        name: &'static str,
    ) -> Result<SessionView> {
        let template = self.template().ok_or(Error::NoTemplate)?.clone();
        let read = move || {
            let file = SessionFile::from_bytes(bytes.as_ref(), name)
                .map_err(|error| Error::SessionFile(Arc::new(error)))?;
            // A template is a program of whoever made the file.
            if file.template() == template.source() {
                Ok(file)
            } else {
                Err(Error::SessionTemplate)
            }
        };
        let file = self.0.threads.run(read).await?;
        self.sessions(move |sessions| sessions.import(file)).await
    }

    /// Claims a session for one reply.
    pub(crate) async fn claim(&self, id: String) -> Result<(Claim, TurnDraft)> {
        let commands = self.0.commands.clone();
        self.sessions(move |sessions| {
            let (number, draft) = sessions.claim(&id)?;
            Ok((Claim::new(commands, id, number), draft))
        })
        .await
    }

    /// Runs a task on the thread that owns the sessions.
    async fn sessions<T: Send + 'static>(
        &self,
        task: impl for<'m> FnOnce(&mut Sessions<'m>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, result) = oneshot::channel();
        let task = move |sessions: &mut Sessions<'_>| {
            // The caller may have gone.
            let _ = done.send(task(sessions));
        };
        let command = Command::Sessions(Box::new(task));
        self.0.commands.send(command).map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }
}
