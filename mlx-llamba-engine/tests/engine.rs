//! The engine as an application uses it.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use futures_util::{StreamExt, TryStreamExt};
use mlx_llamba::{Generation, Llamba, Reason};
use mlx_llamba_engine::{Engine, Error, Event, Loaded, Options, Prompt, Request, wait};

const PROMPT: &str = "Once upon a time, there was a little";

fn load() -> mlx_llamba::Result<Loaded> {
    Loaded::new(Llamba::embedded().load()?)
}

fn engine(change: impl FnOnce(&mut Options)) -> Engine {
    let mut options = Options::default();
    change(&mut options);
    Engine::start_blocking(load, options).unwrap()
}

fn greedy(prompt: impl Into<Prompt>, tokens: usize) -> Request {
    Request::new(prompt).generation(Generation::greedy().max_tokens(tokens))
}

/// A request that goes on until it is stopped.
fn endless() -> Request {
    let mut generation = Generation::greedy().max_tokens(1_000_000);
    generation.eos = Some(Vec::new());
    Request::new(PROMPT).generation(generation)
}

#[test]
fn texts_are_the_librarys() {
    let expected = {
        let llamba = Llamba::embedded().load().unwrap();
        llamba.generate(PROMPT, &Generation::greedy().max_tokens(12)).unwrap().text
    };
    let engine = engine(|options| options.rows = Some(4));
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let run = || engine.generate_blocking(greedy(PROMPT, 12).choices(2)).unwrap();
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for output in outputs {
        assert_eq!(output.choices.len(), 2);
        assert!(output.choices.iter().all(|c| c.text == expected && c.tokens.len() == 12));
    }
    let events = wait(engine.submit(greedy(PROMPT, 12))).unwrap();
    assert_eq!(
        events.blocking().map(|event| event.unwrap().text().to_owned()).collect::<String>(),
        expected
    );
    // The same as a stream of the futures crate, of several requests at once.
    let two = wait(engine.prepare(vec![greedy(PROMPT, 12), greedy(vec![1_u32, 2], 3)])).unwrap();
    let events: Vec<Event> = wait(engine.enqueue(two).unwrap().try_collect()).unwrap();
    let of = |index| {
        let own = events.iter().filter(move |event| {
            matches!(event, Event::Token { request, .. } | Event::End { request, .. } if *request == index)
        });
        own.map(Event::text).collect::<String>()
    };
    assert_eq!(of(0), expected);
    assert!(!of(1).is_empty());
}

#[test]
fn refusals_and_ends_have_a_variant_each() {
    let engine = engine(|options| {
        options.rows = Some(1);
        options.queue = 1;
        options.prompt_tokens = 20;
    });
    let refused = |request| engine.generate_blocking(request).unwrap_err();
    assert!(matches!(
        refused(greedy("word ".repeat(50), 1)),
        Error::PromptTooLong { limit: 20, .. }
    ));
    assert!(matches!(refused(greedy(PROMPT, 1).choices(2)), Error::Choices { limit: 1, .. }));
    assert!(matches!(refused(greedy(vec![u32::MAX], 1)), Error::Request(_)));
    assert!(matches!(refused(Request::new(Vec::<u32>::new())), Error::Request(_)));
    assert!(matches!(
        refused(Request::new(Vec::new() as Vec<mlx_llamba::Message>)),
        Error::NoMessages
    ));
    assert!(matches!(refused(Request::ask_session("x", "Hi")), Error::UnknownSession { .. }));
    let late = endless().deadline(Instant::now());
    assert!(matches!(refused(late), Error::TimedOut { .. }));

    let mut running = wait(engine.submit(endless())).unwrap();
    while !matches!(wait(running.next()), Some(Ok(Event::Token { .. }))) {}
    let waiting = wait(engine.submit(endless())).unwrap();
    assert!(matches!(refused(greedy(PROMPT, 1)), Error::QueueFull { waiting: 1, limit: 1, .. }));
    engine.close();
    let ended = wait(waiting.collect::<Vec<_>>());
    assert!(matches!(ended[..], [Err(Error::Closed)]));
    engine.abort();
    assert!(matches!(running.blocking().last(), Some(Err(Error::Closed))));
    engine.shutdown();
    assert!(!engine.is_alive());
    assert!(matches!(refused(greedy(PROMPT, 1)), Error::Closed));
}

#[test]
fn a_cancelled_request_says_so_and_leaves_its_session_alone() {
    let engine = engine(|_| {});
    let session = wait(engine.create_session(Vec::new(), Default::default())).unwrap();
    let cancel = mlx_llamba::Cancel::default();
    let generation = Generation::greedy().max_tokens(1 << 20).cancel(cancel.clone());
    let request = Request::ask_session(&session.id, "Hi").generation(generation);
    let mut last = None;
    for event in wait(engine.submit(request)).unwrap().blocking() {
        cancel.cancel();
        last = Some(event.unwrap());
    }
    assert!(matches!(last, Some(Event::End { reason: Reason::Cancelled, .. })), "{last:?}");
    assert_eq!(wait(engine.session(&session.id)).unwrap().messages.len(), 0);
}

#[test]
fn a_tenant_has_its_own_sessions() {
    let engine = engine(|_| {});
    let (ann, bob) = (engine.tenant("ann"), engine.tenant("bob"));
    let session = wait(ann.create_session(Vec::new(), Default::default())).unwrap();
    for other in [&engine, &bob] {
        let found = wait(other.session(&session.id));
        assert!(matches!(found, Err(Error::UnknownSession { .. })), "{found:?}");
    }
    let first =
        ann.generate_blocking(Request::ask_session(&session.id, "Hi").max_tokens(3)).unwrap();
    let next =
        ann.generate_blocking(Request::ask_session(&session.id, "So?").max_tokens(3)).unwrap();
    assert!(next.cached_tokens >= first.prompt_tokens);
    assert_eq!(wait(ann.session(&session.id)).unwrap().messages.len(), 4);
    let file = wait(ann.export_session(&session.id)).unwrap();
    let copy = wait(bob.import_session(file, "a copy")).unwrap();
    assert_eq!(wait(bob.rewind_session(copy.id, 2)).unwrap().messages.len(), 2);
}
