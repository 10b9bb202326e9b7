//! The option that chooses a chat template.

use std::path::Path;

use mlx_llamba::{Error, Result, Template, Tokenizer};

#[derive(clap::Args)]
pub(crate) struct TemplateArgs {
    /// Chat template: a Jinja file, the name of a template of the tokenizer, or chatml, llama-3 or
    /// plain [default: the tokenizer's]
    #[arg(long, value_name = "TEMPLATE")]
    chat_template: Option<String>,
}

impl TemplateArgs {
    /// True if a template is named.
    pub(crate) fn is_given(&self) -> bool {
        self.chat_template.is_some()
    }

    /// Returns the template that is named, or else the tokenizer's, unless it costs too much.
    pub(crate) fn find(&self, tokenizer: &Tokenizer) -> Result<Template> {
        let template = self.named(tokenizer)?;
        template.try_out()?;
        Ok(template)
    }

    fn named(&self, tokenizer: &Tokenizer) -> Result<Template> {
        let Some(name) = &self.chat_template else {
            return Template::of(tokenizer, None);
        };
        let path = Path::new(name);
        if path.is_file() {
            let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
            let bytes = mlx_llamba::files::read(path).map_err(failed)?;
            let source = String::from_utf8(bytes).map_err(|error| Error::Template {
                name: name.clone(),
                reason: format!("it is not UTF-8 text: {}", error.utf8_error()),
            })?;
            return Template::new(name, source.trim_start_matches('\u{feff}'), tokenizer);
        }
        match Template::builtin(name, tokenizer)? {
            Some(template) => Ok(template),
            None => Template::of(tokenizer, Some(name)),
        }
    }
}
