//! Embeddings of texts.

use mlx_llamba_kernels::mlx::on_device;
use mlx_rs::Dtype;
use mlx_rs::ops::sum_axes;

use crate::error::{Error, Result};
use crate::host::floats;
use crate::language::LanguageModel;
use crate::llamba::Llamba;
use crate::state::State;
use crate::tokens;

/// Tokens that are read at once.
const CHUNK: usize = 512;

impl Llamba {
    /// Returns the mean of the final hidden states of a text's tokens, (d), scaled to unit length.
    ///
    /// The model was trained to continue texts, not to compare them: near texts have near means, but
    /// a model made for embeddings tells more.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] without tokens, [`Error::TokenOutOfRange`].
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut embedding = self.begin_embedding(ids.to_vec())?;
        loop {
            if let Some(vector) = embedding.step(self)? {
                return Ok(vector);
            }
        }
    }

    /// Begins to embed a text: [`Embedding::step`] reads a part of it.
    ///
    /// # Errors
    /// As for [`embed`](Self::embed).
    pub fn begin_embedding(&self, ids: Vec<u32>) -> Result<Embedding> {
        let model = self.model();
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        tokens::check(&[&ids], model.vocab_size())?;
        let sum = vec![0.0; model.config().d_model];
        on_device(model.device(), || Ok(Embedding { ids, read: 0, state: model.start()?, sum }))
    }
}

/// A text of which a part was read, for its embedding.
#[derive(Debug)]
pub struct Embedding {
    ids: Vec<u32>,
    read: usize,
    state: State,
    /// Of the hidden states so far, (d).
    sum: Vec<f64>,
}

impl Embedding {
    /// Reads up to 512 tokens. Returns the embedding after the last ones.
    ///
    /// # Errors
    /// [`Error::Mlx`].
    pub fn step(&mut self, llamba: &Llamba) -> Result<Option<Vec<f32>>> {
        let (model, end) = (llamba.model(), self.ids.len().min(self.read + CHUNK));
        on_device(model.device(), || {
            let chunk = tokens::array(&[&self.ids[self.read..end]]);
            let (hidden, after) = model.read(&chunk, self.state.clone())?; // (1, l, d)
            let part = sum_axes(&hidden.as_dtype(Dtype::Float32)?, &[0, 1], false)?; // (d,)
            for (sum, part) in self.sum.iter_mut().zip(floats(&part)?) {
                *sum += f64::from(part);
            }
            after.eval()?;
            (self.state, self.read) = (after, end);
            if end < self.ids.len() {
                return Ok(None);
            }
            let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            Ok(Some(self.sum.iter().map(|x| (x / length) as f32).collect()))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::{Compute, Error, Llamba};

    #[cfg(feature = "embedded-model")]
    #[test]
    fn embeddings_are_normalized_means_whatever_the_chunks() {
        let llamba = Llamba::embedded().compute(Compute::Cpu).load().unwrap();
        let tokenizer = llamba.tokenizer().unwrap();
        let embed = |text: &str| llamba.embed(&tokenizer.encode(text, true).unwrap()).unwrap();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (dog, cat, sea) =
            ("The dog ran home.", "The cat ran home.", "Waves! Blue, blue waves of the sea");
        let [dog, cat, sea] = [dog, cat, sea].map(embed);
        assert_eq!(dog.len(), llamba.model().config().d_model);
        assert!((dot(&dog, &dog) - 1.0).abs() < 1e-5);
        assert!(dot(&dog, &cat) > dot(&dog, &sea), "{} {}", dot(&dog, &cat), dot(&dog, &sea));
        // Longer than a chunk: the mean of what one pass over all of it has.
        let ids = tokenizer.encode(&"Lily saw a red ball in the park. ".repeat(80), true).unwrap();
        assert!(ids.len() > super::CHUNK);
        let whole = super::tokens::array(&[&ids[..]]);
        let state = super::LanguageModel::start(llamba.model()).unwrap();
        let (hidden, _) = super::LanguageModel::read(llamba.model(), &whole, state).unwrap();
        let hidden = crate::host::floats(&hidden).unwrap();
        let mut mean = vec![0.0f64; dog.len()];
        for row in hidden.chunks(dog.len()) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x));
        }
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (found, mean) in llamba.embed(&ids).unwrap().iter().zip(mean) {
            assert!((f64::from(*found) - mean / length).abs() < 1e-4, "{found} {}", mean / length);
        }
        assert!(matches!(llamba.embed(&[]), Err(Error::EmptyPrompt)));
        assert!(matches!(llamba.embed(&[1, 9999]), Err(Error::TokenOutOfRange { id: 9999, .. })));
    }
}
