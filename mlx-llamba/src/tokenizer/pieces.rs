//! Long texts are encoded in pieces, where that gives the same tokens: the `tokenizers` library takes
//! more than a hundred bytes of memory for each byte of a text.

use serde_json::Value;

/// The size from which a text is cut, and the least size of its pieces, in bytes.
const PIECE: usize = 16 << 10;

/// Characters that may follow a word.
const AFTER: [char; 12] =
    [' ', '\n', ',', '.', ';', ':', '(', '\u{3001}', '\u{3002}', '，', '！', '？'];

/// Patterns that split a text into words: of Llama 3, of Qwen 2, and of GPT-2. Each takes the letters
/// of a word to their end, and looks at nothing before its match.
const PATTERNS: [&str; 3] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
];

/// The places where a tokenizer's texts can be cut.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Characters before which a word always ends. None: texts are not cut.
    after: Vec<char>,
    /// Bytes of text that a token can stand for; `None` if a normalizer may shorten the text.
    longest_token: Option<usize>,
}

impl Pieces {
    /// Finds them for a tokenizer with this normalizer and this pre-tokenizer.
    pub(super) fn of(
        inner: &tokenizers::Tokenizer,
        normalizer: &Value,
        pre_tokenizer: &Value,
    ) -> Self {
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let plain = added.values().all(|t| !t.lstrip && !t.rstrip && !t.single_word);
        if !normalizer.is_null() || !plain || !by_words(pre_tokenizer) {
            return Self { after: Vec::new(), longest_token: None };
        }
        // No cut may be within an added token.
        let inside = |c: &char| added.values().any(|token| token.content.contains(*c));
        let after = AFTER.into_iter().filter(|c| !inside(c)).collect();
        // In a byte-level vocabulary, a character is a byte.
        let vocabulary = inner.get_vocab(true);
        let longest = vocabulary.keys().map(|token| token.chars().count());
        let added = added.values().map(|token| token.content.len());
        Self { after, longest_token: longest.chain(added).max() }
    }

    /// The pieces of a text, whose tokens are those of the text.
    pub(super) fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (piece, after) = rest.split_at(self.cut(rest).unwrap_or(rest.len()));
            rest = after;
            Some(piece)
        })
    }

    /// The first place to cut a text after [`PIECE`] bytes.
    fn cut(&self, text: &str) -> Option<usize> {
        if self.after.is_empty() || text.len() < 2 * PIECE {
            return None;
        }
        let from = text.floor_char_boundary(PIECE);
        let mut in_word = false;
        text[from..].char_indices().find_map(|(at, c)| {
            let found = in_word && self.after.contains(&c);
            in_word = is_letter(c);
            found.then_some(from + at)
        })
    }

    /// The least number of tokens of a text.
    pub(super) fn fewest_tokens(&self, text: &str) -> usize {
        self.longest_token.map_or(0, |longest| text.len() / longest.max(1))
    }
}

/// True for letters of some scripts.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

/// True for a pre-tokenizer that splits texts by one of the patterns.
fn by_words(pre_tokenizer: &Value) -> bool {
    let byte_level = |step: &Value, regex: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == false
            && step["use_regex"].as_bool().unwrap_or(true) == regex
    };
    let split = |step: &Value| {
        let pattern = step["pattern"]["Regex"].as_str();
        step["type"] == "Split"
            && step["behavior"] == "Isolated"
            && step["invert"] == false
            && pattern.is_some_and(|pattern| PATTERNS.contains(&pattern))
    };
    match pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) {
        Some([first, second]) if pre_tokenizer["type"] == "Sequence" => {
            split(first) && byte_level(second, false)
        }
        _ => byte_level(pre_tokenizer, true),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::{PATTERNS, PIECE, Pieces};

    /// A byte-level tokenizer without merges across the bytes of characters.
    fn tokenizer(pre_tokenizer: &Value) -> tokenizers::Tokenizer {
        let letters = (0x21..=0x7e_u32).chain(0xa1..=0xac).chain(0xae..=0x143);
        let mut vocab: Vec<String> =
            letters.map(|c| char::from_u32(c).unwrap().to_string()).collect();
        let merges =
            ["t h", "Ġ t", "Ġt h", "th e", "Ġ Ġ", "Ċ Ċ", "Ġ a", "a b", "ab a", ". Ċ", "1 2"];
        vocab.extend(merges.iter().map(|merge| merge.replace(' ', "")));
        let vocab: serde_json::Map<_, _> =
            vocab.into_iter().enumerate().map(|(i, t)| (t, json!(i))).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
                "byte_fallback": false, "vocab": vocab, "merges": merges },
        });
        let mut inner = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
        inner.add_special_tokens(&[tokenizers::AddedToken::from("<|a.b|>", true)]);
        inner
    }

    fn pre_tokenizers() -> Vec<Value> {
        let byte_level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        let split = |pattern: &&str| {
            let split = json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
            json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] })
        };
        PATTERNS.iter().map(split).chain([byte_level(true)]).collect()
    }

    #[test]
    fn pieces_have_the_tokens_of_the_text() {
        let words = [
            "the", "th e", " the", "aba", "  ", "\n", " \n\n", ".\n", ",", "12", "1", "'s", "'re",
            "今天", "。", "！", "ab.c", "<|a.b|>", "é", "e\u{301}", "\t", "(", "x:y", "\r\n",
            "the aba",
        ];
        for pre_tokenizer in pre_tokenizers() {
            let inner = tokenizer(&pre_tokenizer);
            let pieces = Pieces::of(&inner, &Value::Null, &pre_tokenizer);
            assert!(pieces.after.contains(&' ') && !pieces.after.contains(&'.'));
            let mut random = 1_u64;
            for _ in 0..3 {
                let mut text = String::new();
                while text.len() < 5 * PIECE {
                    random =
                        random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    text.push_str(words[(random >> 33) as usize % words.len()]);
                }
                let whole = inner.encode_fast(text.as_str(), false).unwrap();
                let found: Vec<&str> = pieces.split(&text).collect();
                assert!(found.len() >= 3 && found.concat() == text);
                let ids = found
                    .iter()
                    .flat_map(|piece| inner.encode_fast(*piece, false).unwrap().get_ids().to_vec());
                assert!(ids.eq(whole.get_ids().iter().copied()), "{pre_tokenizer}");
                assert!(pieces.fewest_tokens(&text) <= whole.len());
            }
        }
    }

    #[test]
    fn other_tokenizers_take_texts_whole() {
        let known = &pre_tokenizers()[0];
        let inner = tokenizer(known);
        let text = "the aba ".repeat(PIECE);
        for (normalizer, pre_tokenizer) in [
            (json!({ "type": "NFC" }), known.clone()),
            (Value::Null, json!({ "type": "Whitespace" })),
            (
                Value::Null,
                json!({ "type": "ByteLevel", "add_prefix_space": true, "use_regex": true }),
            ),
        ] {
            let pieces = Pieces::of(&inner, &normalizer, &pre_tokenizer);
            assert_eq!(pieces.split(&text).count(), 1);
            assert_eq!(pieces.fewest_tokens(&text), 0);
        }
    }
}
