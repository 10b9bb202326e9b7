#![allow(clippy::unwrap_used)]

use mlx_rs::{Array, Dtype};

use super::*;
use crate::host;

const VOCAB: usize = 5;

/// Logits that depend on every token since the state was empty; one more column than tokens, the
/// most likely of all.
struct Hash {
    seed: f32,
    context: Option<usize>,
}

/// The hash of the text read so far, a number in [0, 1).
fn after(history: f32, token: u32) -> f32 {
    (history * 0.43 + (token as f32 + 1.0) * 0.377).fract()
}

impl LanguageModel for Hash {
    type State = (f32, Vec<Array>);

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn eos(&self) -> &[u32] {
        &[]
    }

    fn context_length(&self) -> Option<usize> {
        self.context
    }

    fn start(&self) -> Result<Self::State> {
        Ok((0.0, Vec::new()))
    }

    fn read(&self, tokens: &Array, state: Self::State) -> Result<(Array, Self::State)> {
        let mut history = state.0;
        let all = host::ids(tokens)?.into_iter().map(|token| {
            history = after(history, token);
            history
        });
        let all: Vec<f32> = all.collect();
        Ok((Array::from_slice(&all, &[1, all.len() as i32, 1]), (history, Vec::new())))
    }

    fn head(&self, hidden: &Array) -> Result<Array> {
        let slopes: Vec<f32> = (0..VOCAB).map(|i| self.seed + i as f32).collect();
        let slopes = Array::from_slice(&slopes, &[1, VOCAB as i32]);
        let logits = hidden.matmul(&slopes)?.sin()?.multiply(Array::from_f32(3.0))?;
        let mut padding = logits.shape().to_vec();
        padding[hidden.ndim() - 1] = 1;
        let padding = mlx_rs::ops::full::<f32>(&padding, Array::from_f32(50.0))?;
        Ok(mlx_rs::ops::concatenate(&[logits, padding.as_dtype(Dtype::Float32)?], -1)?)
    }

    fn arrays(state: &Self::State) -> Vec<&Array> {
        state.1.iter().collect()
    }
}

impl Hash {
    fn new(seed: f32) -> Self {
        Self { seed, context: None }
    }

    /// Log-probabilities after a text, by plain arithmetic.
    fn log_probs(&self, text: &[u32]) -> Vec<f64> {
        let history = text.iter().fold(0.0, |history, &token| after(history, token));
        let logits: Vec<f64> =
            (0..VOCAB).map(|i| 3.0 * f64::from(history * (self.seed + i as f32)).sin()).collect();
        let total = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
        logits.into_iter().map(|x| x - total).collect()
    }

    fn loss(&self, text: &[u32], next: u32) -> f64 {
        -self.log_probs(text)[next as usize]
    }
}

fn text(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|i| (i * i + seed * i + i / 3 + seed) % VOCAB as u32).collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-5 * expected.abs().max(1.0), "{found}, not {expected}");
}

/// Mean and standard error of numbers.
fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

#[test]
fn a_text_as_it_comes_against_plain_loops() {
    let model = Hash::new(2.5);
    let ids = text(700, 1);
    let losses: Vec<f64> = (1..700).map(|i| model.loss(&ids[..i], ids[i])).collect();
    let (nats, error) = mean(&losses);
    for piece in [1, 7, 256, 300, 700] {
        let reader = Single::new(&model).unwrap();
        let mut evaluation = Evaluation::new(reader, Window::default(), Some(3)).unwrap();
        ids.chunks(piece).for_each(|ids| evaluation.push(ids).unwrap());
        evaluation.end(1234);
        let found = evaluation.report();
        assert_eq!((found.tokens, found.documents, found.bytes), (699, 1, 1234));
        close(found.prediction.nats_per_token.value, nats);
        close(found.prediction.nats_per_token.error.unwrap(), error);
        close(found.prediction.perplexity.value, nats.exp());
        close(found.prediction.perplexity.error.unwrap(), nats.exp() * error);
        let bits = found.prediction.bits_per_byte.unwrap();
        let scale = 699.0 / 1234.0 / std::f64::consts::LN_2;
        close(bits.value, nats * scale);
        close(bits.error.unwrap(), error * scale);
        assert_eq!(bits.document_error, None);
    }
}

#[test]
fn windows_slide() {
    let ids = [&[4], &text(120, 2)[..]].concat();
    for (context, length, stride, bos) in [
        (Some(16), None, None, None),
        (Some(16), None, None, Some(4)),
        (None, Some(7), Some(7), Some(4)),
        (Some(9), Some(8), Some(1), Some(4)),
        (None, Some(1), None, Some(4)),
        (None, Some(5), Some(2), Some(3)),
    ] {
        let model = Hash { seed: 3.25, context };
        let reader = Single::new(&model).unwrap();
        let mut evaluation = Evaluation::new(reader, Window { length, stride }, bos).unwrap();
        ids.chunks(11).for_each(|ids| evaluation.push(ids).unwrap());
        evaluation.end(0);
        let found = evaluation.report();

        let length = length.or(context).unwrap();
        let stride = stride.unwrap_or(length.div_ceil(2));
        let begins = bos == Some(4) && length > 1;
        // The window so far, and where the text's next token is.
        let mut window: Vec<u32> = Vec::new();
        let mut total = 0.0;
        for i in 0..ids.len() - 1 {
            if window.len() == length {
                let kept = (length - stride).saturating_sub(usize::from(begins));
                let mut next = if begins { vec![4] } else { vec![] };
                next.extend(&window[length - kept..]);
                window = next;
            }
            window.push(ids[i]);
            total += model.loss(&window, ids[i + 1]);
        }
        assert_eq!(found.tokens, 120);
        close(found.prediction.nats_per_token.value, total / 120.0);
        assert_eq!(found.prediction.bits_per_byte, None);
    }
}

#[test]
fn documents_against_plain_loops() {
    let (p, q) = (Hash::new(2.5), Hash::new(1.25));
    let documents: Vec<Document> = [9u32, 1, 14, 2, 33, 0]
        .iter()
        .enumerate()
        .map(|(i, &length)| Document {
            tokens: text(length, i as u32),
            bytes: u64::from(3 * length) + i as u64,
        })
        .collect();
    let mut evaluation =
        Evaluation::new(Pair::new(&p, &q).unwrap(), Window::default(), None).unwrap();
    documents.iter().for_each(|document| evaluation.document(document).unwrap());
    let found = evaluation.report();

    // Of each document: tokens, bytes, and the sums; and of each token.
    let mut rows = Vec::new();
    let (mut kl, mut same, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents.iter().filter(|document| document.tokens.len() > 1) {
        let mut nats = 0.0;
        for i in 1..document.tokens.len() {
            let (before, next) = (&document.tokens[..i], document.tokens[i]);
            let (p, q) = (p.log_probs(before), q.log_probs(before));
            nats -= q[next as usize];
            more.push(p[next as usize] - q[next as usize]);
            kl.push(p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>());
            let best = |row: &[f64]| (0..VOCAB).max_by(|&a, &b| row[a].total_cmp(&row[b]));
            same.push(f64::from(u8::from(best(&p) == best(&q))));
        }
        rows.push((document.tokens.len() as f64 - 1.0, document.bytes as f64, nats));
    }
    let total = |f: fn(&(f64, f64, f64)) -> f64| rows.iter().map(f).sum::<f64>();
    let (tokens, bytes, nats) = (total(|r| r.0), total(|r| r.1), total(|r| r.2));
    assert_eq!((found.tokens, found.documents, found.bytes), (54, 4, bytes as u64));
    assert_eq!(tokens, 54.0);
    let other = found.other;
    close(other.nats_per_token.value, nats / tokens);
    let n = rows.len() as f64;
    let spread: f64 = rows.iter().map(|r| (r.2 - nats / tokens * r.0).powi(2)).sum();
    let error = (n / (n - 1.0) * spread).sqrt() / tokens;
    close(other.nats_per_token.document_error.unwrap(), error);
    close(other.perplexity.document_error.unwrap(), error * (nats / tokens).exp());
    let spread: f64 = rows.iter().map(|r| (r.2 - nats / bytes * r.1).powi(2)).sum();
    let error = (n / (n - 1.0) * spread).sqrt() / bytes / std::f64::consts::LN_2;
    let bits = other.bits_per_byte.unwrap();
    close(bits.value, nats / bytes / std::f64::consts::LN_2);
    close(bits.document_error.unwrap(), error);
    for (found, values) in [(found.mean_kl, &kl), (found.top1_agreement, &same)] {
        close(found.value, mean(values).0);
        close(found.error.unwrap(), mean(values).1);
    }
    assert!((0.1..0.9).contains(&found.top1_agreement.value));
    let (ratio, error) = mean(&more);
    close(found.perplexity_ratio.value, ratio.exp());
    close(found.perplexity_ratio.error.unwrap(), ratio.exp() * error);
    close(found.perplexity_ratio.value, other.perplexity.value / found.reference.perplexity.value);
}

#[test]
fn impossible_windows_are_refused() {
    for (context, length, stride, expected) in [
        (Some(8), Some(9), None, "window = 9: expected 1 to 8"),
        (None, Some(0), None, "window = 0"),
        (None, None, Some(4), "stride = 4: expected --window too"),
        (Some(8), None, Some(9), "stride = 9: expected 1 to 8"),
        (Some(8), Some(4), Some(0), "stride = 0: expected 1 to 4"),
    ] {
        let model = Hash { seed: 1.0, context };
        let reader = Single::new(&model).unwrap();
        let error = Evaluation::new(reader, Window { length, stride }, None).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let model = Hash::new(1.0);
    let mut evaluation =
        Evaluation::new(Single::new(&model).unwrap(), Window::default(), None).unwrap();
    assert!(evaluation.push(&[1, 5]).unwrap_err().to_string().contains("token id 5"));
    // Nothing was predicted: no number, no error.
    let mut evaluation =
        Evaluation::new(Single::new(&model).unwrap(), Window::default(), None).unwrap();
    evaluation.push(&[1]).unwrap();
    evaluation.end(3);
    let found = evaluation.report();
    assert_eq!((found.tokens, found.documents, found.prediction.bits_per_byte), (0, 0, None));
}

#[test]
fn questions_in_json() {
    let fields = Fields { context: "q".into(), choices: "c".into(), answer: "a".into() };
    let parse = |line: &str| Question::parse(line.as_bytes(), &fields);
    let question = Question {
        context: "Two and two".into(),
        choices: vec!["five".into(), "four".into()],
        answer: 1,
    };
    for answer in ["1", "\"four\""] {
        let line = r#"{"q": "Two and two", "c": ["five", "four"], "a": X}"#.replace('X', answer);
        assert_eq!(parse(&line).unwrap(), question);
    }
    for (line, expected) in [
        ("{", "not valid JSON"),
        ("[]", "no field \"q\""),
        (r#"{"q": 1}"#, "\"q\" is not a string"),
        (r#"{"q": "", "c": "x"}"#, "\"c\" is not a list of strings"),
        (r#"{"q": "", "c": []}"#, "\"c\" is not a list of strings"),
        (r#"{"q": "", "c": ["x", 2]}"#, "\"c\" is not a list of strings"),
        (r#"{"q": "", "c": ["x"]}"#, "no field \"a\""),
        (r#"{"q": "", "c": ["x"], "a": 1}"#, "\"a\" is not an index below 1 or one of the choices"),
        (r#"{"q": "", "c": ["x"], "a": -1}"#, "\"a\" is not an index below 1"),
        (r#"{"q": "", "c": ["x"], "a": "y"}"#, "\"a\" is not an index below 1"),
    ] {
        let error = parse(line).unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn scores_weigh_likelihoods() {
    let question = Question {
        context: String::new(),
        choices: vec!["ab".into(), "ééé".into(), "abcdefg".into()],
        answer: 1,
    };
    let mut score = Score::default();
    for (likelihoods, alone) in [
        // Likeliest first, per character the last, per byte the last.
        (vec![-1.0, -3.1, -3.2], vec![-1.0, -9.0, -2.0]),
        // Second, by all but what the context adds.
        (vec![-9.0, -1.0, -9.0], vec![-9.0, -0.5, -1.0]),
        // Per byte the second, per character the last.
        (vec![-5.0, -3.0, -3.6], vec![-5.0, -3.0, -3.0]),
    ] {
        let answer = Answer { likelihoods, alone: Some(alone), cut: false };
        score.add(&question, &answer);
    }
    let found = score.accuracies();
    let (third, two) = (1.0 / 3.0, 2.0 / 3.0);
    close(found.acc.value, two);
    close(found.acc.error.unwrap(), mean(&[0.0, 1.0, 1.0]).1);
    close(found.acc_norm.value, third);
    close(found.acc_bytes.value, two);
    close(found.acc_mutual_info.unwrap().value, third);
    assert_eq!((found.questions, found.cut), (3, 0));
}
