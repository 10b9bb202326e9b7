//! Generating with the library: streams, seeds, stops, saved contexts.

#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use mlx_llamba::mlx::{DeviceType, floats};
use mlx_llamba::{
    Builder, Compute, Context, Error, Event, Generation, LanguageModel, Llamba, Model, Reason,
    Sampling, State, Stream,
};
use mlx_llamba_tests::fixtures;
use mlx_rs::Array;
use mlx_rs::ops::indexing::IndexOp;
use safetensors::SafeTensors;

const PROMPT: &str = "Once upon a time";

fn stories() -> Llamba {
    Llamba::embedded().load().unwrap()
}

fn fixture(name: &str) -> Llamba {
    Llamba::builder(fixtures::path(name)).without_tokenizer().load().unwrap()
}

fn sampled(max_tokens: usize) -> Generation {
    Generation::default().max_tokens(max_tokens).temperature(1.0)
}

/// The numbers of a context's state.
fn numbers(context: &Context) -> Vec<Vec<f32>> {
    context.state().tensors(0).unwrap().into_iter().map(|tensor| tensor.values).collect()
}

#[test]
fn a_stream_gives_what_generate_gives() {
    let llamba = stories();
    let options = sampled(20).seed(5);
    let whole = llamba.generate(PROMPT, &options).unwrap();
    let events: Vec<Event> =
        llamba.stream(PROMPT, &options).unwrap().collect::<Result<_, _>>().unwrap();
    let text: String = events.iter().map(Event::text).collect();
    let ids: Vec<u32> = events
        .iter()
        .filter_map(|event| if let Event::Token { id, .. } = event { Some(*id) } else { None })
        .collect();
    assert_eq!((&text, &ids), (&whole.text, &whole.tokens));
    let decoded = llamba.tokenizer().unwrap().decode(&ids, true).unwrap();
    assert_eq!(text, decoded);
    assert!(matches!(events[0], Event::Prefill { read: 5, total: 5 }), "{:?}", events[0]);
    let Some(Event::End { reason, stats, .. }) = events.last() else { panic!("no end") };
    assert_eq!(*reason, Reason::Length);
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.seed), (5, 20, 5));
    assert!(stats.decode_tokens_per_second > 0.0 && stats.time_to_first_token > 0.0);
    assert!(stats.peak_memory > llamba.model().weight_bytes());
}

/// Asking ahead changes when tokens are computed, not which: texts, ends and contexts are equal.
#[test]
fn pipelining_does_not_show() {
    let llamba = stories();
    let text = llamba.generate(PROMPT, &sampled(40).seed(4)).unwrap().text;
    let stop: String = text.chars().skip(40).take(6).collect();
    for max_tokens in [1, 2, 40] {
        for stop in [None, Some(&stop)] {
            let [ahead, after] = [true, false].map(|pipelined| {
                let mut options = sampled(max_tokens).seed(4);
                options.stop.extend(stop.cloned());
                options.pipelined = Some(pipelined);
                llamba.generate(PROMPT, &options).unwrap()
            });
            assert_eq!((&ahead.text, &ahead.tokens), (&after.text, &after.tokens));
            assert_eq!(ahead.reason, after.reason);
            assert_eq!(numbers(&ahead.context), numbers(&after.context));
            let next = |context| llamba.resume(context, "", &sampled(5)).unwrap().finish().unwrap();
            assert_eq!(next(ahead.context).tokens, next(after.context).tokens);
        }
    }
}

#[test]
fn it_writes_english() {
    let text = stories().generate(PROMPT, &Generation::greedy().max_tokens(60)).unwrap().text;
    let common =
        ["a", "and", "he", "in", "she", "the", "there", "to", "was", "who", "with", "his", "her"];
    let known = text.split_whitespace().filter(|word| common.contains(word)).count();
    assert!(known >= 12, "{text}");
}

#[test]
fn equal_seeds_give_equal_texts() {
    let llamba = stories();
    let run = |seed| llamba.generate(PROMPT, &sampled(30).seed(seed)).unwrap().tokens;
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let unseeded = llamba.generate(PROMPT, &sampled(30)).unwrap();
    assert_eq!(unseeded.tokens, run(unseeded.stats.seed));
}

/// The size of the pieces in which the prompt is read must not show.
#[test]
fn pieces_of_the_prompt_do_not_show() {
    let llamba = fixture("a_base");
    for golden in fixtures::golden("a_base") {
        for prefill in [1, 2, 3, 64, 100, 512] {
            let options = Generation::greedy().max_tokens(32).prefill(prefill);
            let completion = llamba.generate(&golden.tokens, &options).unwrap();
            assert_eq!(completion.tokens, golden.greedy, "{} by {prefill}", golden.name);
        }
    }
}

#[test]
fn a_saved_context_goes_on_exactly() {
    let llamba = stories();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("story.state");
    let once = llamba.generate(PROMPT, &sampled(40).seed(9)).unwrap();

    let first = llamba.generate(PROMPT, &sampled(17).seed(9)).unwrap();
    first.context.save(llamba.model(), &file).unwrap();
    // No seed: the random numbers go on where they stopped.
    let context = Context::load(llamba.model(), &file).unwrap();
    assert_eq!(numbers(&context), numbers(&first.context));
    let second = llamba.resume(context, "", &sampled(23)).unwrap().finish().unwrap();
    assert_eq!([first.tokens, second.tokens].concat(), once.tokens);
    assert_eq!(first.text + &second.text, once.text);
    assert_eq!(second.context.read(), once.context.read());
    assert_eq!(numbers(&second.context), numbers(&once.context));
}

#[test]
fn more_prompt_continues_the_text() {
    let llamba = fixture("b_grouped");
    let golden = fixtures::golden("b_grouped").pop().unwrap();
    let (head, tail) = golden.tokens.split_at(golden.tokens.len() / 3);
    let none = Generation::greedy().max_tokens(0);
    let context = llamba.generate(head.to_vec(), &none).unwrap().context;
    assert_eq!(
        (context.read() as usize, context.pending()),
        (head.len() - 1, &head[head.len() - 1..])
    );
    let fork = context.clone();
    let options = Generation::greedy().max_tokens(32);
    for context in [context, fork] {
        let stream = llamba.resume(context, tail.to_vec(), &options).unwrap();
        assert_eq!(stream.finish().unwrap().tokens, golden.greedy);
    }
}

#[test]
fn text_ends_before_a_stop_string() {
    let llamba = stories();
    let options = Generation::greedy().max_tokens(40);
    let text = llamba.generate(PROMPT, &options).unwrap().text;
    // A piece from the middle of a word to the middle of the one after the next.
    let stop: String = text.chars().skip(30).take(11).collect();
    let end = text.find(&stop).unwrap();
    let options = options.stop("never this").stop(stop.clone());
    let stopped = llamba.generate(PROMPT, &options).unwrap();
    assert_eq!(stopped.text, text[..end]);
    assert_eq!(stopped.reason, Reason::Stop(stop));
    assert!(stopped.tokens.len() < 40);
}

#[test]
fn an_end_of_text_token_ends_it() {
    let llamba = fixture("a_base");
    let golden = &fixtures::golden("a_base")[0];
    let eos = golden.greedy[5];
    let at = golden.greedy.iter().position(|&id| id == eos).unwrap();
    let mut options = Generation::greedy().max_tokens(32);
    options.eos = Some(vec![eos]);
    let completion = llamba.generate(&golden.tokens, &options).unwrap();
    assert_eq!(completion.reason, Reason::Eos(eos));
    assert_eq!(completion.tokens, golden.greedy[..=at]);
    assert_eq!(completion.context.pending(), [eos]);
}

#[test]
fn logprobs_are_those_of_the_model() {
    let llamba = fixture("e_padvocab");
    let prompt = fixtures::golden("e_padvocab").pop().unwrap().tokens;
    let options = sampled(5).seed(3).logprobs(4);
    let completion = llamba.generate(&prompt, &options).unwrap();
    assert_eq!(completion.logprobs.len(), 5);

    let text = [prompt.as_slice(), &completion.tokens].concat();
    let model = llamba.model();
    let (ids, _) = model.tokens(&[&text]).unwrap();
    let (logits, _) = model.forward(&ids, None, &model.state(1).unwrap()).unwrap();
    for (step, logprobs) in completion.logprobs.iter().enumerate() {
        let row = logits.index((0, (prompt.len() + step) as i32 - 1, ..));
        let row = &floats(&row).unwrap()[..model.config().vocab_size];
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        let expected = |id: u32| (f64::from(row[id as usize]) - sum.ln()) as f32;
        let chosen = completion.tokens[step];
        assert!((logprobs.chosen - expected(chosen)).abs() < 1e-4);
        let mut best: Vec<u32> = (0..row.len() as u32).collect();
        best.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
        let top: Vec<u32> = logprobs.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(top, best[..4]);
        assert!(logprobs.top.iter().all(|(id, v)| (v - expected(*id)).abs() < 1e-4));
    }
}

#[test]
fn padding_of_the_vocabulary_is_never_sampled() {
    let llamba = fixture("e_padvocab");
    let sampling = Sampling::plain().temperature(100.0).seed(1);
    let options = Generation::default().sampling(sampling).max_tokens(1500);
    let tokens = llamba.generate([1, 2], &options).unwrap().tokens;
    let (vocab, padded) =
        (llamba.model().config().vocab_size, llamba.model().config().padded_vocab());
    assert!(vocab < padded);
    assert!(tokens.iter().all(|&id| (id as usize) < vocab));
    // At this temperature nearly all real ids come up.
    assert!(tokens.iter().any(|&id| id as usize >= vocab - 3));
}

#[test]
fn cancelling_keeps_a_place_to_go_on_from() {
    let llamba = stories();
    let options = Generation::greedy().max_tokens(40);
    let once = llamba.generate(PROMPT, &options).unwrap();
    let cancel = options.cancel.clone();
    let mut stream = llamba.stream(PROMPT, &options).unwrap();
    let mut seen = Vec::new();
    let end = loop {
        match stream.next().unwrap().unwrap() {
            Event::Token { id, .. } => seen.push(id),
            Event::End { reason, .. } => break reason,
            _ => {}
        }
        if seen.len() == 10 {
            cancel.cancel();
        }
    };
    assert_eq!((end, seen.len()), (Reason::Cancelled, 10));
    assert!(stream.next().is_none());
    let context = stream.into_context().unwrap();
    let rest = llamba.resume(context, "", &Generation::greedy().max_tokens(30)).unwrap();
    assert_eq!([seen, rest.finish().unwrap().tokens].concat(), once.tokens);
}

/// However much of a prompt was read, nothing more is needed to go on.
#[test]
fn a_prompt_that_was_not_read_to_its_end_is_not_lost() {
    let llamba = stories();
    let mut options = Generation::greedy().max_tokens(20);
    options.sampling.repetition_penalty = 1.2;
    let once = llamba.generate(PROMPT, &options).unwrap();
    options.prefill = Some(2);
    let file = tempfile::NamedTempFile::new().unwrap();
    let goes_on = |context: Context| {
        context.save(llamba.model(), file.path()).unwrap();
        let context = Context::load(llamba.model(), file.path()).unwrap();
        let rest = llamba.resume(context, "", &options).unwrap();
        assert_eq!(rest.finish().unwrap().text, once.text);
    };
    for pieces in 0..3 {
        let mut stream = llamba.stream(PROMPT, &options).unwrap();
        for _ in 0..pieces {
            stream.next().unwrap().unwrap();
        }
        goes_on(stream.into_context().unwrap());

        let cancel = mlx_llamba::Cancel::default();
        let cancelled = options.clone().cancel(cancel.clone());
        let mut stream = llamba.stream(PROMPT, &cancelled).unwrap();
        for _ in 0..pieces {
            stream.next().unwrap().unwrap();
        }
        cancel.cancel();
        assert!(matches!(stream.next(), Some(Ok(Event::End { reason: Reason::Cancelled, .. }))));
        goes_on(stream.into_context().unwrap());
    }
    goes_on(llamba.generate(PROMPT, &options.clone().max_tokens(0)).unwrap().context);
}

#[test]
fn a_loaded_model_moves_to_another_thread() {
    let llamba = stories();
    let options = Generation::greedy().max_tokens(12);
    let here = llamba.generate(PROMPT, &options).unwrap().tokens;
    let there = std::thread::spawn(move || llamba.generate(PROMPT, &options).unwrap().tokens);
    assert_eq!(there.join().unwrap(), here);
}

#[test]
fn impossible_requests_are_named() {
    let llamba = fixture("a_base");
    let refused = |ids: &[u32], options: &Generation| llamba.generate(ids, options).unwrap_err();
    let options = Generation::default();
    assert!(matches!(refused(&[], &options), Error::EmptyPrompt));
    let error = refused(&[3, 257], &options);
    assert!(matches!(error, Error::TokenOutOfRange { id: 257, position: 1, vocab_size: 257 }));
    let error = llamba.generate("text", &options).unwrap_err();
    assert!(matches!(error, Error::TokenizerMissing { .. }), "{error}");
    let options = Generation::default().prefill(0);
    assert!(refused(&[1], &options).to_string().starts_with("prefill = 0"));
    let error = refused(&[1], &Generation::default().temperature(-1.0));
    assert!(error.to_string().starts_with("temperature = -1"), "{error}");
    assert!(refused(&[1], &Generation::default().stop("")).to_string().starts_with("stop"));
}

/// The file of a new context of `model`.
fn saved(model: &Model) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved.state");
    Context::new(model).unwrap().save(model, &file).unwrap();
    std::fs::read(&file).unwrap()
}

/// The same file as version 1 of the format had it, without a checksum.
fn unsealed(bytes: &[u8]) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    metadata.remove("sha256").unwrap();
    metadata.insert("version".into(), "1".into());
    safetensors::serialize(SafeTensors::deserialize(bytes).unwrap().iter(), Some(metadata)).unwrap()
}

/// Loads a context from the bytes of its file.
fn reload(model: &Model, bytes: &[u8]) -> Result<Context, Error> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved.state");
    std::fs::write(&file, bytes).unwrap();
    Context::load(model, &file)
}

/// Replaces text in the header by text of the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn damaged_and_foreign_states_are_refused() {
    let llamba = fixture("a_base");
    let model = llamba.model();
    let refused = |bytes: &[u8], damage: fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        damage(&mut bytes);
        match reload(model, &bytes) {
            Err(Error::State { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    };
    let (new, old) = (saved(model), unsealed(&saved(model)));
    for bytes in [&new, &old] {
        assert!(reload(model, bytes).is_ok());
        let why = |damage: fn(&mut Vec<u8>)| refused(bytes, damage);
        assert!(why(|b| b.truncate(b.len() - 5)).contains("damaged"));
        assert!(why(|b| b.truncate(3)).contains("damaged"));
        assert!(why(|b| b.resize(64 << 20, 0)).contains("more than a state"));
        let reason = why(|b| replace(b, "mlx-llamba-state", "some-other-state"));
        assert!(reason.contains("not a saved"), "{reason}");
    }
    let why = |damage: fn(&mut Vec<u8>)| refused(&new, damage);
    assert!(why(|b| replace(b, r#""version":"2""#, r#""version":"9""#)).contains("version 9"));
    assert!(why(|b| replace(b, r#""version":"2""#, r#""version":"1""#)).contains("checksum"));
    assert!(why(|b| replace(b, "sha256", "sha257")).contains("checksum"));
    // The contents are checked without the checksum, too.
    let why = |damage: fn(&mut Vec<u8>)| refused(&old, damage);
    assert!(why(|b| replace(b, "[4,16,16]", "[16,4,16]")).contains("expected F32"));
    assert!(why(|b| replace(b, r#""read":"0""#, r#""read":"x""#)).contains("metadata read"));
    assert!(why(|b| replace(b, "layers.0.ssm_state", "layers.9.ssm_state")).contains("missing"));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved.state");
    std::fs::write(&file, &new).unwrap();
    // d_silu has the same shapes and other weights.
    let error = Context::load(fixture("d_silu").model(), &file).unwrap_err().to_string();
    assert!(error.contains("belongs to another model"), "{error}");
    let missing = Context::load(model, directory.path().join("none")).unwrap_err();
    assert!(matches!(missing, Error::Io { action: "read", .. }));
    let error = Context::new(model).unwrap().save(model, directory.path().join("no/where"));
    assert!(matches!(error.unwrap_err(), Error::Io { action: "write", .. }));
}

/// Every bit of a saved state counts: no flipped one is accepted.
#[test]
fn states_with_a_flipped_bit_are_refused() {
    let llamba = fixture("a_base");
    let bytes = saved(llamba.model());
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    // All of the header, then every 97th byte of the tensors.
    for at in (0..header).chain((header..bytes.len()).step_by(97)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        match reload(llamba.model(), &damaged) {
            Err(Error::State { reason, .. }) => {
                assert!(reason.lines().count() == 1 && reason.len() < 400, "{reason}");
            }
            other => panic!("byte {at} of {header} + {}: {other:?}", bytes.len() - header),
        }
    }
}

/// A model whose operations must all be built for its device.
struct Watched(Model);

impl LanguageModel for Watched {
    type State = State;

    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn eos(&self) -> &[u32] {
        &[]
    }

    fn device(&self) -> Result<DeviceType, Error> {
        Ok(DeviceType::Cpu)
    }

    fn start(&self) -> Result<State, Error> {
        self.0.start()
    }

    fn read(&self, tokens: &Array, state: State) -> Result<(Array, State), Error> {
        assert_eq!(mlx_rs::thread_local_default_stream(), Some(mlx_rs::Stream::cpu()));
        LanguageModel::read(&self.0, tokens, state)
    }

    fn head(&self, hidden: &Array) -> Result<Array, Error> {
        assert_eq!(mlx_rs::thread_local_default_stream(), Some(mlx_rs::Stream::cpu()));
        self.0.head(hidden)
    }

    fn arrays(state: &State) -> Vec<&Array> {
        Model::arrays(state)
    }
}

#[test]
fn models_compute_on_their_own_devices() {
    let default = || format!("{:?}", mlx_rs::Device::default());
    let before = default();
    let cpu = Llamba::embedded().compute(Compute::Cpu).load().unwrap();
    assert!(matches!(cpu.model().device(), DeviceType::Cpu));
    match Llamba::embedded().compute(Compute::Gpu).load() {
        Ok(gpu) => assert!(matches!(gpu.model().device(), DeviceType::Gpu)),
        Err(error) => assert!(matches!(error, Error::Argument { name: "device", .. }), "{error}"),
    }
    assert_eq!(default(), before, "a load moved the default device");

    let watched = Watched(cpu.model().clone());
    let context = Context::new(&watched).unwrap();
    let options = Generation::greedy().max_tokens(4).eos(Vec::new());
    let found = Stream::new(&watched, None, context, &[1, 2, 3], &options).unwrap().finish();
    assert_eq!(found.unwrap().tokens, cpu.generate([1, 2, 3], &options).unwrap().tokens);
}

#[test]
fn a_stream_leaves_the_peak_memory_of_the_process_alone() {
    let llamba = Llamba::embedded().load().unwrap();
    mlx_rs::ops::zeros::<f32>(&[1 << 25]).unwrap().eval().unwrap();
    let peak = mlx_rs::memory::peak_memory().unwrap();
    assert!(peak >= 4 << 25);
    let mut first = llamba.stream("Once", &Generation::greedy().max_tokens(3)).unwrap();
    first.next().unwrap().unwrap();
    let second = llamba.generate("Once upon", &Generation::greedy().max_tokens(3)).unwrap();
    assert!(mlx_rs::memory::peak_memory().unwrap() >= peak);
    let first = first.finish().unwrap();
    for stats in [first.stats, second.stats] {
        assert!(stats.peak_memory > llamba.model().weight_bytes());
        assert!(stats.peak_memory < 4 << 25, "it has the peak before it");
    }
}

#[test]
fn a_load_can_be_stopped() {
    let mut calls = 0;
    let builder = Llamba::embedded().progress(move |_| {
        calls += 1;
        if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(builder.load(), Err(Error::Interrupted)));
}

#[test]
fn models_load_on_a_worker_thread_from_a_path() {
    let loaded = |builder: Builder| {
        let (send, steps) = std::sync::mpsc::channel();
        let builder = builder.progress(move |now| {
            send.send((now.done, now.total)).unwrap();
            ControlFlow::Continue(())
        });
        let llamba = std::thread::spawn(move || builder.load().unwrap()).join().unwrap();
        let (read, total) = steps.iter().last().unwrap();
        assert_eq!((read, total), (llamba.model().weight_bytes() as u64, read));
        llamba
    };
    loaded(Llamba::embedded());
    let path = fixtures::path("e_padvocab");
    let llamba = loaded(Llamba::builder(&path).without_tokenizer());
    let options = Generation::greedy().max_tokens(2);
    assert_eq!(
        llamba.generate([1, 2], &options).unwrap().tokens,
        llamba.generate(vec![1, 2], &options).unwrap().tokens
    );
}
