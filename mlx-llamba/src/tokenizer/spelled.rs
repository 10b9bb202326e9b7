//! Reads special tokens that are spelled out in a text as plain text.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use tokenizers::{AddedToken, AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizer};

/// The spellings of a tokenizer's special tokens.
#[derive(Debug)]
pub(super) struct Spelled {
    texts: Vec<String>,
    /// Finds all occurrences of all of them.
    matcher: Option<AhoCorasick>,
    /// The tokenizer's added vocabulary, which reads special tokens as text.
    plain: AddedVocabulary,
    /// The length of the longest one.
    longest: usize,
    /// True if the tokenizer may also find a special token in another spelling.
    normalized: bool,
}

impl Spelled {
    /// Collects the tokens that are flagged as special, and `ends`: not every file flags the tokens
    /// that end a turn.
    pub(super) fn new(inner: &tokenizers::Tokenizer, ends: &[u32]) -> Self {
        let added = inner.get_added_vocabulary();
        let decoder = added.get_added_tokens_decoder();
        let special: Vec<AddedToken> = decoder
            .iter()
            .filter(|(id, token)| token.special || ends.contains(id))
            .map(|(_, token)| token.clone().special(true))
            .filter(|token| !token.content.is_empty())
            .collect();
        let mut plain = added.clone();
        plain.add_special_tokens(&special, inner.get_model(), inner.get_normalizer());
        plain.set_encode_special_tokens(true);
        let normalized = special.iter().any(|token| token.normalized);
        let mut texts: Vec<String> = special.into_iter().map(|token| token.content).collect();
        texts.sort_unstable();
        // If it cannot be built, the texts are searched one by one.
        let matcher = AhoCorasick::new(&texts).ok();
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        let normalized = normalized && inner.get_normalizer().is_some();
        Self { texts, matcher, plain, longest, normalized }
    }

    fn begins(&self, byte: u8) -> bool {
        self.texts.iter().any(|text| text.as_bytes()[0] == byte)
    }

    fn ends(&self, byte: u8) -> bool {
        self.texts.iter().any(|text| text.as_bytes().last() == Some(&byte))
    }

    fn contains(&self, text: &str) -> bool {
        self.texts.binary_search_by(|known| known.as_str().cmp(text)).is_ok()
    }

    /// Positions, ascending, of the characters that must not be part of a special token: the last
    /// ones of the tokens that this text spells, alone or with the text before or after it.
    pub(super) fn guards(&self, inner: &tokenizers::Tokenizer, text: &str) -> Vec<usize> {
        let mut guards = Vec::new();
        match &self.matcher {
            Some(matcher) => {
                let found = matcher.find_overlapping_iter(text);
                guards.extend(found.map(|found| last_char(text, found.range())));
            }
            None => {
                for known in &self.texts {
                    let found = text.match_indices(known.as_str());
                    guards.extend(found.map(|(at, _)| last_char(text, at..at + known.len())));
                }
            }
        }
        if self.normalized {
            let found = self.matches(inner, text);
            guards.extend(found.into_iter().map(|(core, _)| last_char(text, core)));
        }
        // The template may trim the text.
        let trimmed = text.trim_end();
        let tail = trimmed.len().saturating_sub(self.longest);
        for at in (tail..trimmed.len()).filter(|&at| self.begins(trimmed.as_bytes()[at])) {
            let end = trimmed.get(at..);
            guards.extend(
                end.filter(|end| self.texts.iter().any(|t| t.starts_with(end))).map(|_| at),
            );
        }
        let start = text.len() - text.trim_start().len();
        let head = (start + self.longest).min(text.len());
        for at in (start..head).filter(|&at| self.ends(text.as_bytes()[at])) {
            let beginning = text.get(start..=at);
            if beginning.is_some_and(|part| self.texts.iter().any(|t| t.ends_with(part))) {
                guards.push(last_char(text, start..at + 1));
            }
        }
        guards.sort_unstable();
        guards.dedup();
        guards
    }

    /// Token ids of a text in which the characters at `guards` (ascending) are part of no special
    /// token; `None` if no special token in it contains one.
    pub(super) fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        guards: &[usize],
    ) -> tokenizers::Result<Option<Vec<u32>>> {
        let guarded = |range: &Range<usize>| {
            let first = guards.partition_point(|&at| at < range.start);
            guards.get(first).is_some_and(|&at| at < range.end)
        };
        let matches = self.matches(inner, text);
        if !matches.iter().any(|(core, _)| guarded(core)) {
            return Ok(None);
        }
        // Each text between special tokens is encoded alone: as plain text if it has a spelled
        // token in it, else in the usual way.
        let mut ids = Vec::new();
        let (mut done, mut spelled) = (0, false);
        let mut read = |range: Range<usize>, spelled: bool| -> tokenizers::Result<()> {
            if spelled {
                ids.extend(self.encode_plain(inner, &text[range])?);
            } else {
                ids.extend(inner.encode_fast(&text[range], false)?.get_ids());
            }
            Ok(())
        };
        for (core, whole) in &matches {
            if guarded(core) {
                spelled = true;
                continue;
            }
            read(done..whole.start, std::mem::take(&mut spelled))?;
            read(whole.clone(), false)?;
            done = whole.end;
        }
        read(done..text.len(), spelled)?;
        Ok(Some(ids))
    }

    /// Token ids of a text without special tokens.
    fn encode_plain(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
    ) -> tokenizers::Result<Vec<u32>> {
        let mut cut = self.plain.extract_and_normalize(inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut cut)?;
        }
        cut.tokenize(|part| inner.get_model().tokenize(part.get()))?;
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::None);
        let tokens = splits.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten());
        Ok(tokens.map(|token| token.id).collect())
    }

    /// Ranges in which the tokenizer finds special tokens, without and with the blanks that some
    /// absorb.
    fn matches(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
    ) -> Vec<(Range<usize>, Range<usize>)> {
        let added = inner.get_added_vocabulary();
        let cut = added.extract_and_normalize(inner.get_normalizer(), text);
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let special = splits.into_iter().filter_map(|(_, (start, end), tokens)| {
            let token = added.simple_id_to_token(tokens.as_ref()?.first()?.id)?;
            let part = text.get(start..end).filter(|_| self.contains(&token))?;
            let core = part.trim();
            let before = part.len() - part.trim_start().len();
            let core = start + before..start + before + core.len();
            Some((if core.is_empty() { start..end } else { core }, start..end))
        });
        special.collect()
    }
}

/// The position of the last character of a part of a text.
fn last_char(text: &str, range: Range<usize>) -> usize {
    let start = range.start;
    text[range].char_indices().next_back().map_or(start, |(at, _)| start + at)
}
