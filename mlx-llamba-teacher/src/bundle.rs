//! A teacher: a Transformer with its tokenizer.

use std::path::Path;

use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::Dtype;
use mlx_llamba::{Completion, Context, Error, Generation, Prompt, Stream, Tokenizer};

use crate::cache::KvCache;
use crate::error::Result;
use crate::gguf::gguf_tokenizer;
use crate::llama::Llama;
use crate::mask::Window;
use crate::open::is_gguf;

/// A Llama that reads and writes text, as a [`Llamba`](mlx_llamba::Llamba) does.
pub struct Teacher {
    llama: Llama,
    tokenizer: Option<Tokenizer>,
}

impl Teacher {
    /// Joins a model and a tokenizer.
    ///
    /// # Errors
    /// [`Error::TokenizerMismatch`] if the tokenizer belongs to another model.
    pub fn new(llama: Llama, tokenizer: Option<Tokenizer>) -> Result<Self> {
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_vocabulary(llama.config().vocab_size)?;
        }
        Ok(Self { llama, tokenizer })
    }

    /// Opens a directory or a GGUF file, with its tokenizer.
    ///
    /// # Errors
    /// Those of [`Llama::open`] and [`tokenizer_of`].
    pub fn open(path: impl AsRef<Path>, dtype: Dtype, backend: Backend) -> Result<Self> {
        let path = path.as_ref();
        Self::new(Llama::open(path, dtype, backend)?, Some(tokenizer_of(path)?))
    }

    /// Limits the attention to a window of the text: see [`Llama::with_window`].
    #[must_use]
    pub fn with_window(self, window: Option<Window>) -> Self {
        Self { llama: self.llama.with_window(window), ..self }
    }

    /// The model and its tokenizer.
    #[must_use]
    pub fn into_parts(self) -> (Llama, Option<Tokenizer>) {
        (self.llama, self.tokenizer)
    }

    /// The model.
    pub fn llama(&self) -> &Llama {
        &self.llama
    }

    /// The tokenizer, if it was loaded with one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// Returns the context before the first token.
    ///
    /// # Errors
    /// None at present.
    pub fn context(&self) -> mlx_llamba::Result<Context<KvCache>> {
        Context::new(&self.llama)
    }

    /// Continues from a context with more prompt: see [`Llamba::resume`](mlx_llamba::Llamba::resume).
    ///
    /// # Errors
    /// Those of [`Llamba::resume`](mlx_llamba::Llamba::resume).
    pub fn resume<'p>(
        &self,
        context: Context<KvCache>,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> mlx_llamba::Result<Stream<'_, Llama>> {
        let ids = prompt.into().encode(self.tokenizer(), context.is_empty())?;
        Stream::new(&self.llama, self.tokenizer.as_ref(), context, &ids, options)
    }

    /// Reads the prompt, generates, and returns everything at once.
    ///
    /// # Errors
    /// Those of [`resume`](Self::resume).
    pub fn generate<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &Generation,
    ) -> mlx_llamba::Result<Completion<KvCache>> {
        self.resume(self.context()?, prompt, options)?.finish()
    }

    /// Returns the tokenizer, or an error that says how to get one.
    ///
    /// # Errors
    /// [`Error::TokenizerMissing`].
    pub fn require_tokenizer(&self) -> mlx_llamba::Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| Error::TokenizerMissing {
            model: "this teacher".into(),
            reason: "it was loaded without one; text needs a tokenizer, token ids do not".into(),
        })
    }
}

/// Loads the tokenizer of a model, which is a directory, a file in it, or a GGUF file.
///
/// # Errors
/// Those of [`open_tokenizer`].
pub fn tokenizer_of(path: impl AsRef<Path>) -> Result<Tokenizer> {
    let path = path.as_ref();
    let directory = match path.parent() {
        Some(parent) if path.is_file() && !is_gguf(path) => parent,
        _ => path,
    };
    open_tokenizer(directory)
}

/// Loads the tokenizer in a GGUF file, or what [`Tokenizer::open`] finds.
///
/// # Errors
/// [`Error::TokenizerMissing`], [`Error::Tokenizer`]; those of [`gguf_tokenizer`].
pub fn open_tokenizer(path: impl AsRef<Path>) -> Result<Tokenizer> {
    let path = path.as_ref();
    Ok(match is_gguf(path) {
        true => Tokenizer::from_files(path, &gguf_tokenizer(path)?)?,
        false => Tokenizer::open(path)?,
    })
}
