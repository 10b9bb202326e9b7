//! Evaluation of a student on held-out text: perplexity, and divergence from its teacher.

pub use mlx_llamba::evaluate::Document;
use mlx_llamba::evaluate::{NegativeLogLikelihood, agreements, divergences, log_probs, losses};
use mlx_rs::Array;
use serde::{Deserialize, Serialize};

use crate::{Batch, Result};

/// Logits of a pass at most: what is in memory a few times over.
const LOGITS: usize = 1 << 24;

/// A model as a function from a batch (b, l) to logits (b, l, at least the vocabulary).
pub type Logits<'a> = &'a dyn Fn(&Batch) -> Result<Array>;

/// Means over the predicted tokens of held-out documents, each read from an empty state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Tokens predicted.
    pub tokens: usize,
    /// `exp` of the student's mean negative log-likelihood.
    pub perplexity: f64,
    /// The student's negative log-likelihood in bits, per byte of text.
    pub bits_per_byte: f64,
    /// The teacher's perplexity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub teacher_perplexity: Option<f64>,
    /// The teacher's bits per byte.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub teacher_bits_per_byte: Option<f64>,
    /// Mean of KL(teacher || student), in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// Share of the tokens on which both find the same one likeliest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agreement: Option<f64>,
}

/// Sums over documents.
#[derive(Default)]
struct Sums {
    student: NegativeLogLikelihood,
    teacher: NegativeLogLikelihood,
    kl: f64,
    same: f64,
}

/// Reads `documents` with the student, and with the teacher if there is one: logits of more than
/// `vocab` tokens are cut. Documents of similar length share a pass; the
/// padding behind the shorter ones is read and not counted.
///
/// # Errors
/// Those of the two models.
pub fn evaluate(
    documents: &[Document],
    vocab: usize,
    student: Logits<'_>,
    teacher: Option<Logits<'_>>,
) -> Result<Metrics> {
    let mut order: Vec<&Document> = documents.iter().filter(|d| d.tokens.len() > 1).collect();
    order.sort_by_key(|document| document.tokens.len());
    let mut sums = Sums::default();
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let fits = |b: usize| b * (rest[b - 1].tokens.len() - 1) * vocab <= LOGITS;
        let b = (1..=rest.len()).take_while(|&b| fits(b)).last().unwrap_or(1);
        let (rows, others) = rest.split_at(b);
        sums.add(rows, vocab, student, teacher)?;
        rest = others;
    }
    Ok(sums.metrics(teacher.is_some()))
}

impl Sums {
    fn add(
        &mut self,
        rows: &[&Document],
        vocab: usize,
        student: Logits<'_>,
        teacher: Option<Logits<'_>>,
    ) -> Result<()> {
        let b = rows.len();
        let l = rows.iter().map(|row| row.tokens.len() - 1).max().unwrap_or(0);
        let (mut tokens, mut next, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let n = row.tokens.len() - 1;
            tokens.extend_from_slice(&row.tokens[..n]);
            next.extend_from_slice(&row.tokens[1..]);
            counted.extend(std::iter::repeat_n(1.0f32, n));
            for padded in [&mut tokens, &mut next] {
                padded.extend(std::iter::repeat_n(0, l - n));
            }
            counted.extend(std::iter::repeat_n(0.0f32, l - n));
            for surprise in [&mut self.student, &mut self.teacher] {
                surprise.tokens += n as u64;
                surprise.bytes += row.bytes;
            }
        }
        let shape = [b as i32, l as i32];
        let batch = Batch {
            tokens: Array::from_slice(&tokens, &shape), // (b, l)
            next: Array::from_slice(&next, &shape),     // (b, l)
            starts: None,
        };
        let counted = Array::from_slice(&counted, &shape); // (b, l)
        let sum = |values: &Array| -> Result<f64> {
            // Row by row in float32, the rows in float64.
            let values = values.multiply(&counted)?.sum_axis(-1, false)?; // (b,)
            Ok(mlx_llamba::mlx::floats(&values)?.into_iter().map(f64::from).sum())
        };
        let logs = |model: Logits<'_>| -> Result<Array> { Ok(log_probs(&model(&batch)?, vocab)?) };
        let q = logs(student)?; // (b, l, vocab)
        self.student.nats += sum(&losses(&q, &batch.next)?)?;
        if let Some(teacher) = teacher {
            let p = logs(teacher)?; // (b, l, vocab)
            self.teacher.nats += sum(&losses(&p, &batch.next)?)?;
            self.kl += sum(&divergences(&p, &q)?)?;
            self.same += sum(&agreements(&p, &q)?)?;
        }
        Ok(())
    }

    fn metrics(&self, teacher: bool) -> Metrics {
        let Self { student, teacher: reference, kl, same } = self;
        let mean = |total: f64| total / student.tokens.max(1) as f64;
        Metrics {
            tokens: student.tokens as usize,
            perplexity: student.perplexity(),
            bits_per_byte: student.bits_per_byte(),
            teacher_perplexity: teacher.then(|| reference.perplexity()),
            teacher_bits_per_byte: teacher.then(|| reference.bits_per_byte()),
            kl: teacher.then(|| mean(*kl)),
            agreement: teacher.then(|| mean(*same)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Logits that depend on the token alone: row `token` of a table (5, 6), the last column
    /// padding of the vocabulary.
    fn bigram(table: &[f32]) -> impl Fn(&Batch) -> Result<Array> {
        let table = Array::from_slice(table, &[5, 6]);
        move |batch| Ok(table.take_axis(&batch.tokens, 0)?)
    }

    fn table(seed: u32) -> Vec<f32> {
        let value = |i: u32| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed)) >> 20) as f32;
        // The padding would be the likeliest of all.
        (0..30).map(|i| if i % 6 == 5 { 50.0 } else { value(i * 7 + seed) / 1024.0 }).collect()
    }

    #[test]
    fn against_plain_loops() {
        let (p, q) = (table(3), table(40));
        let documents = [&[0u32, 3, 2, 4][..], &[1, 2], &[4], &[0, 1, 4, 3, 3, 2, 0]]
            .map(|tokens| Document { tokens: tokens.to_vec(), bytes: 3 * tokens.len() as u64 });
        let found = evaluate(&documents, 5, &bigram(&q), Some(&bigram(&p))).unwrap();
        let log = |table: &[f32], token: u32| -> Vec<f64> {
            let row: Vec<f64> =
                table[6 * token as usize..][..5].iter().map(|&x| f64::from(x)).collect();
            let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            row.iter().map(|x| x - total).collect()
        };
        let best = |row: &[f64]| (0..5).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let mut sums = Sums::default();
        // A document of one token predicts nothing.
        for document in documents.iter().filter(|d| d.tokens.len() > 1) {
            sums.student.bytes += document.bytes;
            sums.teacher.bytes += document.bytes;
            for pair in document.tokens.windows(2) {
                let (p, q) = (log(&p, pair[0]), log(&q, pair[0]));
                sums.student.tokens += 1;
                sums.teacher.tokens += 1;
                sums.student.nats -= q[pair[1] as usize];
                sums.teacher.nats -= p[pair[1] as usize];
                sums.kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
                sums.same += f64::from(u8::from(best(&p) == best(&q)));
            }
        }
        let expected = sums.metrics(true);
        assert_eq!((found.tokens, found.agreement), (10, expected.agreement));
        for (name, found, expected) in [
            ("perplexity", Some(found.perplexity), Some(expected.perplexity)),
            ("bits", Some(found.bits_per_byte), Some(expected.bits_per_byte)),
            ("teacher", found.teacher_perplexity, expected.teacher_perplexity),
            ("teacher's bits", found.teacher_bits_per_byte, expected.teacher_bits_per_byte),
            ("kl", found.kl, expected.kl),
        ] {
            let (found, expected) = (found.unwrap(), expected.unwrap());
            assert!((found / expected - 1.0).abs() < 1e-5, "{name}: {found}, not {expected}");
        }
        assert!(expected.agreement.unwrap() > 0.0 && expected.agreement.unwrap() < 1.0);
        let alone = evaluate(&documents, 5, &bigram(&q), None).unwrap();
        assert_eq!((alone.perplexity, alone.kl), (found.perplexity, None));
    }
}
