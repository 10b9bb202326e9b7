//! The model of an engine.

use mlx_llamba::{Llamba, Template};

/// A model and its chat template.
pub struct Loaded {
    /// The model, with its tokenizer.
    pub llamba: Llamba,
    /// The chat template. Without one there are no conversations.
    pub template: Option<Template>,
}

impl Loaded {
    /// Takes the chat template of the model's tokenizer, if it has one.
    ///
    /// # Errors
    /// The library's, if the template does not compile.
    pub fn new(llamba: Llamba) -> mlx_llamba::Result<Self> {
        let template = match Template::of(llamba.require_tokenizer()?, None) {
            Err(mlx_llamba::Error::TemplateMissing { .. }) => None,
            found => Some(found?),
        };
        Ok(Self { llamba, template })
    }
}
