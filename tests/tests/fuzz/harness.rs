//! Runs a parser on damaged inputs: a fixed number of them, or for `MLX_LLAMBA_FUZZ_SECONDS`.
//!
//! An input whose result was not seen before becomes a seed too, so that damage reaches what lies behind
//! the first checks. Every input is in a file while it runs, which stays if it ends the process.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Inputs without `MLX_LLAMBA_FUZZ_SECONDS`.
const INPUTS: usize = 60;
/// The time for one input, on a busy machine without optimization.
const PATIENCE: Duration = Duration::from_secs(20);
/// Memory for one input, and for each byte of it. That of a tokenizer's file is the largest.
const MEMORY: usize = 64 << 20;
const MEMORY_PER_BYTE: usize = 64;
/// The largest input.
const LONGEST: usize = 1 << 17;
/// The most inputs that are kept as seeds.
const SEEDS: usize = 4096;

/// A parser and the inputs to begin with.
pub struct Target {
    pub name: &'static str,
    /// Sound inputs; the files in `corpus/NAME` are others.
    pub seeds: Vec<Vec<u8>>,
    /// Words that the format has.
    pub words: &'static [&'static str],
}

impl Target {
    /// Calls `run` with damaged inputs. It returns what came of one, such as an error's text.
    pub fn fuzz(mut self, mut run: impl FnMut(&[u8]) -> String) {
        let corpus =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(self.name);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(corpus).into_iter().flatten().map(|f| f.unwrap().path()).collect();
        files.sort();
        self.seeds.extend(files.iter().map(|file| std::fs::read(file).unwrap()));
        let seconds = std::env::var("MLX_LLAMBA_FUZZ_SECONDS").ok();
        let time = seconds.map(|text| Duration::from_secs(text.parse().expect("seconds")));
        let mut random = Random(match time {
            Some(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
            None => 1,
        });
        let current = std::env::temp_dir().join(format!("mlx-llamba-fuzz-{}", self.name));
        let (start, mut count, mut seen) = (Instant::now(), 0, HashSet::new());
        for seed in self.seeds.clone() {
            seen.insert(kind(&run(&seed)));
        }
        while time.map_or(count < INPUTS, |time| start.elapsed() < time) {
            let input = self.damaged(&mut random);
            std::fs::write(&current, &input).unwrap();
            let (began, mut result) = (Instant::now(), Ok(String::new()));
            let grown = grown(|| result = catch_unwind(AssertUnwindSafe(|| run(&input))));
            let (took, kept) = (began.elapsed(), current.display());
            let Ok(result) = result else { panic!("{kept} panics") };
            // A second time: the machine may have slept.
            let began = Instant::now();
            if took > PATIENCE {
                run(&input);
                assert!(began.elapsed() < PATIENCE, "{kept} takes {took:?}");
            }
            let allowed = MEMORY + MEMORY_PER_BYTE * input.len();
            assert!(grown < allowed, "{kept} of {} bytes takes {grown} bytes", input.len());
            if seen.insert(kind(&result)) && self.seeds.len() < SEEDS {
                self.seeds.push(input);
            }
            count += 1;
        }
        std::fs::remove_file(&current).unwrap();
        eprintln!(
            "{}: {count} inputs, {} kinds of results, {:?}",
            self.name,
            seen.len(),
            start.elapsed()
        );
    }

    fn damaged(&self, random: &mut Random) -> Vec<u8> {
        let mut input = random.choice(&self.seeds).clone();
        for _ in 0..1 + random.below(4) {
            self.damage(&mut input, random);
        }
        input.truncate(LONGEST);
        input
    }

    fn damage(&self, input: &mut Vec<u8>, random: &mut Random) {
        let length = input.len();
        let at = random.below(length + 1);
        let end = at + random.below((length - at).min(40) + 1);
        match random.below(9) {
            0 if at < length => input[at] ^= 1 << random.below(8),
            1 if at < length => input[at] = *random.choice(b"\0\x01\x7f\x80\xff \"\\{}[]:,-0"),
            2 => drop(input.drain(at..end)),
            3 => {
                let part = input[at..end].repeat(1 + random.below(8) * random.below(60));
                input.splice(at..at, part);
            }
            4 => {
                let number =
                    *random.choice(&[0, 1, 255, 1 << 31, 1 << 32, 1 << 40, 1 << 63, u64::MAX]);
                let number = number.wrapping_sub(random.below(2) as u64);
                let width = *random.choice(&[2, 4, 8]);
                input.splice(at..(at + width).min(length), number.to_le_bytes()[..width].to_vec());
            }
            5 => {
                let number = [
                    "0",
                    "-1",
                    "1",
                    "1e999",
                    "-0.0",
                    "65536",
                    "4294967296",
                    "18446744073709551615",
                ];
                replace_digits(input, at, random.choice::<&str>(&number));
            }
            6 => {
                let other = random.choice(&self.seeds);
                let from = random.below(other.len() + 1);
                let to = from + random.below((other.len() - from).min(200) + 1);
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ if self.words.is_empty() => {}
            _ => {
                let word = random.choice(self.words).bytes();
                let end = if random.below(2) == 0 { at } else { end };
                input.splice(at..end, word);
            }
        }
    }
}

/// Replaces the first number that stands at or after `at`.
fn replace_digits(input: &mut Vec<u8>, at: usize, number: &str) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = input[at..].iter().position(is_digit).map(|offset| at + offset) else {
        return;
    };
    let length = input[start..].iter().take_while(|byte| is_digit(byte)).count();
    input.splice(start..start + length, number.bytes());
}

/// The hash of a result without its numbers and without what it quotes.
fn kind(result: &str) -> u64 {
    let parts = result.split(['"', '\'', '`']).step_by(2);
    let text: String =
        parts.flat_map(str::chars).filter(|c| !c.is_ascii_digit()).take(300).collect();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Returns the bytes by which the memory of this process grows while `work` runs, where the system tells.
pub fn grown(work: impl FnOnce()) -> usize {
    forget_peak();
    let before = memory("VmRSS:");
    work();
    memory("VmHWM:").saturating_sub(before)
}

/// Forgets the most memory that this process had, where the system can.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// A size in bytes that Linux reports of this process, else 0.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0) << 10
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) % end as u64) as usize
    }

    fn choice<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
