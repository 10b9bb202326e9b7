//! A tiny model with a tokenizer of bytes and the special tokens of ChatML and Llama 3.

use std::path::Path;

use mlx_llamba::Llamba;
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use crate::tiny::Tiny;

/// The special tokens, from id 256 on.
pub const SPECIAL: [&str; 8] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_start|>",
    "<|im_end|>",
];

/// Returns the id of a special token.
pub fn id(token: &str) -> u32 {
    256 + SPECIAL.iter().position(|other| *other == token).expect("a special token") as u32
}

/// Writes the model's files; `seed` chooses its weights. Its template is ChatML.
pub fn write(directory: &Path, seed: u64) {
    let tiny = Tiny { vocab: 256 + SPECIAL.len(), ..Tiny::default() };
    tiny.write(directory, &tiny.tensors(seed), Dtype::F32, 1);
    // Printable Latin-1 characters represent themselves; other bytes map to U+0100 and up.
    let mut others = 0x100..;
    let character = |byte: u32| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
        _ => others.next().unwrap_or(0),
    };
    let bytes = (0..256).map(character).filter_map(char::from_u32).enumerate();
    let vocab: serde_json::Map<_, _> = bytes.map(|(id, c)| (c.to_string(), json!(id))).collect();
    let added: Vec<_> = SPECIAL.iter().enumerate().map(|(i, token)| json!({
        "id": 256 + i, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    })).collect();
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    let config = json!({
        "bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>",
        "chat_template": "{% for message in messages %}\
            {{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}\
            {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    });
    for (name, value) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
        std::fs::write(directory.join(name), value.to_string()).expect("writable");
    }
}

/// Makes a directory with the model.
pub fn directory(seed: u64) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(directory.path(), seed);
    directory
}

/// Loads the model.
pub fn load(seed: u64) -> Llamba {
    let directory = directory(seed);
    let path = directory.path().display().to_string();
    Llamba::builder(path).load().expect("it loads")
}
