//! The position of a text in its grammar.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use llguidance::{CancellationHandle, Matcher};

use super::Constraint;
use super::mask::{Mask, reason};

/// The longest computation of a mask that a text waits for. A usual one takes less than a
/// millisecond.
const LONGEST: Duration = Duration::from_secs(2);
/// The longest computation of all masks of a text.
const LONGEST_SUM: Duration = Duration::from_secs(20);

/// Follows one text through its grammar, a token at a time.
pub(crate) struct Guide {
    work: Work,
    /// Ids that end the text.
    eos: Vec<u32>,
    vocab: usize,
    cancel: CancellationHandle,
    /// The time spent on masks.
    spent: Duration,
    failure: Option<String>,
}

enum Work {
    /// After the last token.
    Idle(Box<Matcher>),
    /// The next mask is computed on another thread.
    Running(Receiver<(Box<Matcher>, Result<Mask, String>, Duration)>),
    Lost,
}

/// The position after a token.
pub(crate) enum Progress {
    /// Tokens can follow.
    Open,
    /// Nothing can follow.
    Complete,
    /// The text cannot be followed any further.
    Failed(String),
}

impl Drop for Guide {
    /// Ends a computation that nobody waits for.
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Guide {
    /// Starts a text of `vocab` tokens that the ids `eos` end, and its first mask.
    pub(crate) fn new(constraint: &Constraint, eos: &[u32], vocab: usize) -> Self {
        let matcher = constraint.matcher().into_cancellable();
        let cancel = matcher.cancellation_handle().unwrap_or_default();
        let work = Work::Idle(Box::new(matcher));
        let mut guide =
            Self { work, eos: eos.to_vec(), vocab, cancel, spent: Duration::ZERO, failure: None };
        guide.start();
        guide
    }

    /// Starts to compute the mask of the next token, beside the model's work.
    pub(crate) fn start(&mut self) {
        match std::mem::replace(&mut self.work, Work::Lost) {
            Work::Idle(mut matcher) => {
                let (eos, vocab) = (self.eos.clone(), self.vocab);
                let (sender, receiver) = sync_channel(1);
                rayon::spawn(move || {
                    let started = Instant::now();
                    let mask = Mask::compute(&mut matcher, &eos, vocab);
                    // Nobody waits for it once the text has ended.
                    let _ = sender.send((matcher, mask, started.elapsed()));
                });
                self.work = Work::Running(receiver);
            }
            other => self.work = other,
        }
    }

    /// Waits for the mask of the next token. Without one, the text ends at that token.
    pub(crate) fn mask(&mut self) -> Option<Mask> {
        match self.wait() {
            Ok(mask) => Some(mask),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Waits for the mask of the next token. The error says why there is none.
    pub(super) fn wait(&mut self) -> Result<Mask, String> {
        let Work::Running(receiver) = std::mem::replace(&mut self.work, Work::Lost) else {
            return Err("it was not followed to this token".to_owned());
        };
        let Ok((matcher, mask, time)) = receiver.recv_timeout(LONGEST) else {
            self.cancel.cancel();
            return Err(format!("a mask takes more than {} seconds", LONGEST.as_secs()));
        };
        self.spent += time;
        if self.spent > LONGEST_SUM {
            return Err(format!("its masks take more than {} seconds", LONGEST_SUM.as_secs()));
        }
        self.work = Work::Idle(matcher);
        mask
    }

    /// Moves past the tokens that must follow, as the tokenizer would write them. Returns them, and
    /// true if nothing can follow them.
    pub(crate) fn skip(&mut self) -> (Vec<u32>, bool) {
        let Work::Idle(matcher) = &mut self.work else { return (Vec::new(), false) };
        let started = Instant::now();
        let forced = matcher.compute_ff_tokens();
        let (vocab, eos) = (self.vocab, &self.eos);
        let known = |id: &u32| (*id as usize) < vocab && !eos.contains(id);
        let forced: Vec<u32> = forced.into_iter().take_while(known).collect();
        if forced.is_empty() {
            return (forced, false);
        }
        let consumed = matcher.consume_tokens(&forced);
        self.spent += started.elapsed();
        match consumed {
            Ok(()) => (forced, matcher.is_stopped()),
            Err(error) => {
                self.failure = Some(reason(&error));
                (Vec::new(), false)
            }
        }
    }

    /// Ends the text.
    pub(crate) fn end(&mut self) -> Progress {
        self.failure.take().map_or(Progress::Open, Progress::Failed)
    }

    /// Moves past a token that does not end the text.
    pub(crate) fn accept(&mut self, id: u32) -> Progress {
        if let Some(failure) = self.failure.take() {
            return Progress::Failed(failure);
        }
        let Work::Idle(matcher) = &mut self.work else {
            return Progress::Failed("it was not followed to this token".to_owned());
        };
        match matcher.consume_token(id) {
            Err(error) => Progress::Failed(reason(&error)),
            Ok(()) if matcher.is_stopped() => Progress::Complete,
            Ok(()) => Progress::Open,
        }
    }
}
