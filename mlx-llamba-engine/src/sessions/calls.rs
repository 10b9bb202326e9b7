//! Calls of the engine that create, read, change and delete sessions.

use std::sync::Arc;

use mlx_llamba::session::{SessionFile, TurnDraft};
use mlx_llamba::template::Json;
use mlx_llamba::{ChatOptions, Message};
use tokio::sync::oneshot;

use super::{Claim, Name, SessionView, Sessions};
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
        let tenant = self.tenant.clone();
        self.sessions(|sessions| sessions.create(tenant, messages, options)).await
    }

    /// Describes a session.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub async fn session(&self, id: impl Into<String>) -> Result<SessionView> {
        let name = self.name(id);
        self.sessions(move |sessions| sessions.view(&name)).await
    }

    /// Returns the tools that a session began with.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub async fn session_tools(&self, id: impl Into<String>) -> Result<Option<Json>> {
        let name = self.name(id);
        self.sessions(move |sessions| sessions.tools(&name)).await
    }

    /// Copies a session: both go on from the same state, independently.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::SessionsFull`].
    pub async fn fork_session(&self, id: impl Into<String>) -> Result<SessionView> {
        let name = self.name(id);
        self.sessions(move |sessions| sessions.fork(&name)).await
    }

    /// Removes the last question and its reply.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::SessionState`] if there is
    /// nothing to undo.
    pub async fn undo_session(&self, id: impl Into<String>) -> Result<SessionView> {
        let name = self.name(id);
        self.sessions(move |sessions| sessions.undo(&name)).await
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
        let name = self.name(id);
        self.sessions(move |sessions| sessions.rewind(&name, messages)).await
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// [`Error::UnknownSession`].
    pub async fn delete_session(&self, id: impl Into<String>) -> Result<()> {
        let name = self.name(id);
        self.sessions(move |sessions| sessions.delete(&name)).await
    }

    /// Saves a session with its states, for [`import_session`](Self::import_session) or
    /// `mlx-llamba chat --session`.
    ///
    /// # Errors
    /// [`Error::UnknownSession`], [`Error::SessionBusy`], or [`Error::Failed`].
    pub async fn export_session(&self, id: impl Into<String>) -> Result<Vec<u8>> {
        let name = self.name(id);
        let file = self.sessions(move |sessions| sessions.export(&name)).await?;
        self.shared.threads.run(move || Ok(file.to_bytes()?)).await
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
        let file = self.shared.threads.run(read).await?;
        let tenant = self.tenant.clone();
        self.sessions(move |sessions| sessions.import(tenant, file)).await
    }

    /// Claims a session for one reply.
    pub(crate) async fn claim(&self, id: String) -> Result<(Claim, TurnDraft)> {
        let (commands, name) = (self.shared.commands.clone(), self.name(id));
        self.sessions(move |sessions| {
            let (number, draft) = sessions.claim(&name)?;
            Ok((Claim::new(commands, name, number), draft))
        })
        .await
    }

    fn name(&self, id: impl Into<String>) -> Name {
        Name { tenant: self.tenant.clone(), id: id.into() }
    }

    /// Runs a task on the thread that owns the sessions.
    async fn sessions<T: Send + 'static>(
        &self,
        task: impl for<'m> FnOnce(&mut Sessions<'m>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.require_llamba("sessions")?;
        let (done, result) = oneshot::channel();
        let task = move |sessions: &mut Sessions<'_>| {
            // The caller may have gone.
            let _ = done.send(task(sessions));
        };
        let command = Command::Sessions(Box::new(task));
        self.shared.commands.send(command).map_err(|_| Error::Closed)?;
        result.await.map_err(|_| Error::Closed)?
    }
}
