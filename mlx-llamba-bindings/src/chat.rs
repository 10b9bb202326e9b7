//! Conversations that the engine keeps.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use mlx_llamba::Message as Said;
use mlx_llamba_engine::{Engine, Prompt, SessionView, wait};

use crate::error::{LlambaError, Result};
use crate::model::start;
use crate::options::GenerationOptions;
use crate::stream::TokenStream;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role that the chat template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl From<Message> for Said {
    fn from(message: Message) -> Self {
        Self::new(message.role, message.content)
    }
}

impl From<Said> for Message {
    fn from(message: Said) -> Self {
        Self { role: message.role, content: message.content }
    }
}

/// A conversation. The model reads each of its messages once.
#[derive(Debug, uniffi::Object)]
pub struct Chat {
    engine: Engine,
    id: String,
}

impl Chat {
    pub(crate) fn new(engine: Engine, session: SessionView) -> Arc<Self> {
        Arc::new(Self { engine, id: session.id })
    }
}

#[uniffi::export]
impl Chat {
    /// Sends a message of the user and returns the reply, piece by piece. After a reply that is
    /// cancelled or dropped, the conversation is as it was before.
    ///
    /// # Errors
    /// `Busy` while another reply is generated, `Argument`, `Closed` or `Failed`.
    #[uniffi::method(default(options = None))]
    pub fn send(
        &self,
        text: String,
        options: Option<GenerationOptions>,
    ) -> Result<Arc<TokenStream>> {
        let messages = vec![Said::new("user", text)];
        let prompt = Prompt::Session { id: self.id.clone(), messages };
        start(&self.engine, prompt, options.unwrap_or_default())
    }

    /// All messages.
    ///
    /// # Errors
    /// `Closed`.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let session = wait(self.engine.session(&*self.id))?;
        Ok(session.messages.into_iter().map(Message::from).collect())
    }

    /// Copies the conversation: both go on from here, independently. Nothing is read again.
    ///
    /// # Errors
    /// `Busy` while a reply is generated, or `Closed`.
    pub fn fork(&self) -> Result<Arc<Self>> {
        let session = wait(self.engine.fork_session(&*self.id))?;
        Ok(Self::new(self.engine.clone(), session))
    }

    /// Removes the last message of the user and all that follows it.
    ///
    /// # Errors
    /// `Conversation` if there is none, `Busy` while a reply is generated, or `Closed`.
    pub fn undo(&self) -> Result<()> {
        wait(self.engine.undo_session(&*self.id))?;
        Ok(())
    }

    /// Saves the conversation with the model's state, for `Llamba.load_chat` and
    /// `mlx-llamba chat --session`. The file appears complete or not at all; only its owner can read it.
    ///
    /// # Errors
    /// `File`, `Busy` while a reply is generated, or `Closed`.
    pub fn save(&self, path: String) -> Result<()> {
        let bytes = wait(self.engine.export_session(&*self.id))?;
        let failed = |error: std::io::Error| LlambaError::file(&path, error);
        let parent = Path::new(&path).parent().filter(|parent| !parent.as_os_str().is_empty());
        let mut file =
            tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        // The engine may be closed.
        let _ = wait(self.engine.delete_session(&*self.id));
    }
}
