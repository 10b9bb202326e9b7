//! A batch gives every row what it gets alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use super::{Batch, BatchEvent, BatchRequest, RequestId, Step};
#[cfg(feature = "constraints")]
use crate::constraint::{Constraint, Grammar};
use crate::decode::generation::{Generation, Reason, TokenLogprobs};
use crate::mlx::floats;
use crate::sample::Sampling;
use crate::{Context, Event, Llamba};

/// The result of a row.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    reason: Option<Reason>,
    read: u64,
    pending: Vec<u32>,
    rng: Option<[u32; 2]>,
    state: Vec<f32>,
}

impl Outcome {
    fn place(&mut self, context: &Context) {
        self.read = context.read();
        self.pending = context.pending().to_vec();
        self.rng = context.position.rng;
        let layers = context.state().layers().iter();
        self.state =
            layers.flat_map(|l| [&l.conv, &l.ssm]).flat_map(|a| floats(a).unwrap()).collect();
    }

    fn take(&mut self, event: BatchEvent) {
        match event.step {
            Step::Token { text, id, logprobs } => {
                self.text.push_str(&text);
                self.tokens.push(id);
                self.logprobs.extend(logprobs);
            }
            Step::End { text, reason, context } => {
                self.text.push_str(&text);
                self.reason = Some(reason);
                self.place(&context);
            }
            Step::Prefill { .. } | Step::Snapshot { .. } => {}
        }
    }

    fn alone(llamba: &Llamba, request: &BatchRequest) -> Self {
        let mut outcome = Self::default();
        let mut stream =
            llamba.resume(request.context.clone(), &request.prompt, &request.options).unwrap();
        for event in &mut stream {
            match event.unwrap() {
                Event::Token { text, id, logprobs } => {
                    outcome.text.push_str(&text);
                    outcome.tokens.push(id);
                    outcome.logprobs.extend(logprobs);
                }
                Event::End { text, reason, .. } => {
                    outcome.text.push_str(&text);
                    outcome.reason = Some(reason);
                }
                Event::Prefill { .. } => {}
            }
        }
        outcome.place(&stream.into_context().unwrap());
        outcome
    }
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }
}

fn llamba() -> Llamba {
    Llamba::embedded().compute(crate::Compute::Cpu).load().unwrap()
}

/// A processor sees the text so far, and its logits are those that are chosen from, in a stream, in a
/// batch and in a session, beside rows without any.
#[test]
fn processors_change_the_choice() {
    use std::sync::{Arc, Mutex};
    let llamba = llamba();
    let prompt = llamba.require_tokenizer().unwrap().encode(TEXTS[0], true).unwrap();
    let plain = Generation::greedy().max_tokens(6);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    // The token after the likeliest one, by its id.
    let options = plain.clone().processor(move |history: &[u32], logits: &crate::mlx::Array| {
        log.lock().unwrap().push(history.to_vec());
        assert_eq!(logits.shape(), [1, 4096]);
        let all = floats(logits)?;
        let top = (0..all.len()).max_by(|&a, &b| all[a].total_cmp(&all[b])).unwrap();
        let next: Vec<f32> = (0..all.len()).map(|i| f32::from(u8::from(i == top + 1))).collect();
        Ok(crate::mlx::Array::from_slice(&next, &[1, 4096]))
    });
    let request = |options: &Generation| {
        BatchRequest::new(llamba.context().unwrap(), prompt.clone(), options.clone())
    };
    let alone = Outcome::alone(&llamba, &request(&options));
    let first = Outcome::alone(&llamba, &request(&plain));
    assert_eq!(alone.tokens[0], first.tokens[0] + 1);
    let whole = [&prompt[..], &alone.tokens].concat();
    for (i, history) in seen.lock().unwrap().drain(..).enumerate() {
        assert_eq!(history, whole[..prompt.len() + i]);
    }
    let mut batch = Batch::new(&llamba, 64).unwrap();
    batch.pipelined(true);
    let ids = [&options, &plain].map(|options| batch.add(request(options)).unwrap());
    let mut found = HashMap::<RequestId, Outcome>::new();
    while !batch.is_empty() {
        for event in batch.step().unwrap() {
            found.entry(event.request).or_default().take(event);
        }
    }
    assert_eq!((&found[&ids[0]].tokens, &found[&ids[1]].tokens), (&alone.tokens, &first.tokens));
    #[cfg(feature = "chat")]
    {
        seen.lock().unwrap().clear();
        let mut session = llamba.session().unwrap();
        session.push_user(TEXTS[0]);
        session.reply(&options).unwrap().for_each(|event| drop(event.unwrap()));
        let history = seen.lock().unwrap()[0].clone();
        assert_eq!(session.tokens()[..history.len()], history);
    }
    let bad = Generation::greedy().processor(|_: &[u32], _: &crate::mlx::Array| {
        Err(crate::Error::Argument { name: "x", value: String::new(), expected: String::new() })
    });
    assert!(llamba.generate("a", &bad).is_err());
}

const TEXTS: [&str; 5] = [
    "Once upon a time",
    "The little rabbit was very hungry, so he went to the big green garden behind the house and",
    "Lily",
    "One day, a cat and a dog were playing in the park. They saw a ball. The cat said, \"",
    "Tom had a red car. He liked to",
];

/// A grammar whose texts end at different steps; mostly none.
#[cfg(feature = "constraints")]
fn grammar(kind: usize) -> Option<Grammar> {
    match kind {
        0 => Some(Grammar::JsonObject),
        1 => Some(Grammar::Regex("[a-z]{2,5}( [a-z]{2,5}){1,4}".into())),
        2 => Some(Grammar::Choice(vec![" ran".into(), " jumped very high".into()])),
        _ => None,
    }
}

/// A request of any kind, from the beginning or from a place in another text.
fn request(llamba: &Llamba, numbers: &mut Numbers, places: &[Context]) -> BatchRequest {
    let text = TEXTS[numbers.below(TEXTS.len())].repeat(1 + numbers.below(3));
    let sampling = match numbers.below(5) {
        0 | 1 => Sampling::greedy(),
        2 => Sampling::plain(),
        3 => Sampling {
            repetition_penalty: 1.3,
            frequency_penalty: 0.5,
            penalty_window: Some(20),
            ..Sampling::default()
        },
        _ => Sampling {
            logit_bias: vec![(13, 4.0), (14, f32::NEG_INFINITY)],
            presence_penalty: 0.7,
            ..Sampling::greedy()
        },
    };
    // A seed for all: the generator's place is compared too.
    let seed = Some(numbers.below(1000) as u64);
    let sampling = Sampling { seed, ..sampling };
    let mut options = Generation { sampling, ..Generation::default() };
    options = options.max_tokens(numbers.below(12));
    options.logprobs = [None, Some(0), Some(3)][numbers.below(3)];
    if numbers.below(3) == 0 {
        options = options.stop(" and").stop("he");
    }
    #[cfg(feature = "constraints")]
    if let Some(grammar) = grammar(numbers.below(6)) {
        let constraint = Constraint::new(llamba.tokenizer().unwrap(), &grammar).unwrap();
        options = options.constraint(constraint);
    }
    let context = match numbers.below(3) {
        0 if !places.is_empty() => places[numbers.below(places.len())].clone(),
        _ => llamba.context().unwrap(),
    };
    let prompt = llamba.tokenizer().unwrap().encode(&text, context.is_empty()).unwrap();
    BatchRequest::new(context, prompt, options)
}

/// Rows of any length and kind join and leave at every step; each gives what it gives alone, bit
/// by bit.
fn joins_and_leaves(pipelined: bool) {
    let llamba = llamba();
    let mut numbers = Numbers(7);
    let place = llamba.generate("A place to start", &Generation::greedy().max_tokens(3)).unwrap();
    let places = [place.context];
    let mut batch = Batch::new(&llamba, 24).unwrap();
    batch.pipelined(pipelined);
    let mut requests: HashMap<RequestId, BatchRequest> = HashMap::new();
    let mut outcomes: HashMap<RequestId, Outcome> = HashMap::new();
    let (mut most, mut steps) = (0, 0);
    while requests.len() < 60 || !batch.is_empty() {
        if requests.len() < 60 {
            for _ in 0..numbers.below(4) {
                let request = request(&llamba, &mut numbers, &places);
                requests.insert(batch.add(request.clone()).unwrap(), request);
            }
        }
        for event in batch.step().unwrap() {
            outcomes.entry(event.request).or_default().take(event);
        }
        most = most.max(batch.decoding());
        steps += 1;
    }
    assert!(most > 5, "at most {most} at once, {steps} steps");
    assert_eq!(outcomes.len(), requests.len());
    for (id, request) in requests {
        let alone = Outcome::alone(&llamba, &request);
        let found = &outcomes[&id];
        let what = format!("{:?}", request.options);
        assert_eq!(found.tokens, alone.tokens, "{what}");
        assert!(found == &alone, "{what}: {:?}, {:?}", found.reason, alone.reason);
    }
}

#[test]
fn rows_are_what_they_are_alone() {
    joins_and_leaves(false);
}

#[test]
fn rows_are_what_they_are_alone_pipelined() {
    joins_and_leaves(true);
}

/// The next tokens of the other rows are requested before the last one of a row is handed out.
#[test]
fn a_row_that_ends_does_not_make_others_wait() {
    let llamba = llamba();
    let prompt = llamba.tokenizer().unwrap().encode(TEXTS[1], true).unwrap();
    let mut batch = Batch::new(&llamba, 64).unwrap();
    batch.pipelined(true);
    for tokens in [3, 9] {
        let options = Generation { eos: Some(vec![]), ..Generation::greedy().max_tokens(tokens) };
        let context = llamba.context().unwrap();
        batch.add(BatchRequest::new(context, prompt.clone(), options)).unwrap();
    }
    let mut requested = Vec::new();
    while !batch.is_empty() {
        let decodes = batch.decoding() > 0;
        batch.step().unwrap();
        if decodes && batch.decoding() > 0 {
            requested.push(batch.decoding.ahead.is_some());
        }
    }
    assert_eq!(requested, [true; 7]);
}

/// Cancelled at any time, a row ends where it stands, and can be gone on from.
#[test]
fn cancelled_rows_can_be_gone_on_from() {
    let llamba = llamba();
    let whole = Generation::greedy().max_tokens(14);
    let prompt = llamba.tokenizer().unwrap().encode(TEXTS[1], true).unwrap();
    let expected = llamba.generate(&prompt, &whole).unwrap();
    for steps in 0..12 {
        for pipelined in [false, true] {
            let mut batch = Batch::new(&llamba, 7).unwrap();
            batch.pipelined(pipelined);
            let options = Generation { cancel: crate::Cancel::default(), ..whole.clone() };
            let request =
                BatchRequest::new(llamba.context().unwrap(), prompt.clone(), options.clone());
            batch
                .add(BatchRequest::new(llamba.context().unwrap(), prompt.clone(), whole.clone()))
                .unwrap();
            let id = batch.add(request).unwrap();
            let mut outcome = Outcome::default();
            let mut reached = None;
            for step in 0.. {
                if step == steps {
                    options.cancel.cancel();
                }
                for event in batch.step().unwrap().into_iter().filter(|e| e.request == id) {
                    if let Step::End { context, .. } = &event.step {
                        reached = Some(context.clone());
                    }
                    outcome.take(event);
                }
                if reached.is_some() {
                    break;
                }
            }
            assert_eq!(outcome.reason, Some(Reason::Cancelled), "after {steps}");
            let rest = Generation::greedy().max_tokens(14 - outcome.tokens.len());
            let rest = llamba.resume(reached.unwrap(), "", &rest).unwrap().finish().unwrap();
            assert_eq!([outcome.tokens, rest.tokens].concat(), expected.tokens, "after {steps}");
        }
    }
}

/// The prompt is read once for all continuations, and each is that of its own seed.
#[test]
fn choices_share_the_prompt() {
    let llamba = llamba();
    let prompt = llamba.tokenizer().unwrap().encode(TEXTS[3], true).unwrap();
    let options = Generation::default().max_tokens(9).seed(5);
    let mut request = BatchRequest::new(llamba.context().unwrap(), prompt.clone(), options.clone());
    request.choices = 3;
    let mut batch = Batch::new(&llamba, 16).unwrap();
    batch.add(request).unwrap();
    let (mut read, mut tokens) = (0, vec![Vec::new(); 3]);
    while !batch.is_empty() {
        for event in batch.step().unwrap() {
            match event.step {
                Step::Prefill { read: now, .. } => read = now,
                Step::Token { id, .. } => tokens[event.choice].push(id),
                _ => {}
            }
        }
    }
    assert_eq!(read, prompt.len());
    for (i, tokens) in tokens.into_iter().enumerate() {
        let alone = llamba.generate(&prompt, &options.clone().seed(5 + i as u64)).unwrap();
        assert_eq!(tokens, alone.tokens, "choice {i}");
    }
}

/// Log-probabilities of a prompt are those of the model's logits, however it is cut; contexts are
/// handed out where they were asked for.
#[test]
fn prompt_logprobs_and_snapshots() {
    let llamba = llamba();
    let model = llamba.model();
    let prompt = llamba.tokenizer().unwrap().encode(TEXTS[1], true).unwrap();
    let (tokens, _) = model.tokens(&[&prompt]).unwrap();
    let (logits, _) = model.forward(&tokens, None, &model.state(1).unwrap()).unwrap();
    let logits = floats(&logits).unwrap();
    let (padded, vocab) = (model.config().padded_vocab(), model.config().vocab_size);
    let expected = |i: usize, id: u32| -> f64 {
        let row = &logits[i * padded..][..vocab];
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        f64::from(row[id as usize]) - sum.ln()
    };
    for (piece, max_tokens) in [(5, 0), (64, 0), (5, 1), (64, 1)] {
        let mut options = Generation::greedy().max_tokens(max_tokens);
        options.logprobs = Some(1);
        let mut request = BatchRequest::new(llamba.context().unwrap(), prompt.clone(), options);
        request.prompt_logprobs = true;
        request.snapshots = vec![4, 11];
        let mut batch = Batch::new(&llamba, piece).unwrap();
        batch.add(request).unwrap();
        let (mut found, mut snapshots) = (Vec::new(), Vec::new());
        while !batch.is_empty() {
            for event in batch.step().unwrap() {
                match event.step {
                    Step::Prefill { logprobs, .. } => found.extend(logprobs),
                    Step::Snapshot { read, context } => snapshots.push((read, context)),
                    _ => {}
                }
            }
        }
        assert_eq!(snapshots.iter().map(|s| s.0).collect::<Vec<_>>(), [4, 11]);
        for (read, context) in snapshots {
            assert_eq!(
                (context.read(), context.pending()),
                (read as u64 - 1, &prompt[read - 1..read])
            );
            let options = Generation::greedy().max_tokens(5);
            let rest = llamba.resume(context, &prompt[read..], &options).unwrap().finish().unwrap();
            assert_eq!(rest.tokens, llamba.generate(&prompt, &options).unwrap().tokens);
        }
        assert_eq!(found.len(), prompt.len() - 1);
        for (i, found) in found.iter().enumerate() {
            let expected = expected(i, prompt[i + 1]);
            assert!((f64::from(found.chosen) - expected).abs() < 1e-4, "{i}: {found:?} {expected}");
            assert!(found.top[0].1 >= found.chosen);
        }
    }
}
