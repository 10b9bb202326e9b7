//! Scaled positions against NumPy in float64 (see `make_rope.py`).

use mlx_llamba::kernels::Backend;
use mlx_llamba::{Error, LanguageModel};
use mlx_llamba_teacher::{KvCache, Llama, LlamaConfig, Rope, Wanted};
use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::stack;
use serde_json::Value;

use crate::support::{Golden, assert_close, fixture, open};

/// Measured: at most 1.3e-6 of the largest value.
const TOLERANCE: f32 = 4e-6;
const CASES: [&str; 7] = [
    "yarn",
    "yarn_smooth",
    "yarn_given",
    "dynamic",
    "dynamic_within",
    "longrope",
    "longrope_within",
];

/// The Llama in `plain` with its positions scaled as in the case.
fn scaled(case: &str, backend: Backend) -> Llama {
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
    };
    let (mut config, cases) = (read("plain/config.json"), read("rope.json"));
    config.as_object_mut().unwrap().extend(cases[case].as_object().unwrap().clone());
    let path = fixture("rope.json");
    let config = LlamaConfig::from_json(&path, &config.to_string()).unwrap();
    let again = LlamaConfig::from_json(&path, &config.to_json().to_string()).unwrap();
    assert_eq!(again, config, "{case}");
    let parameters = open("plain", backend).parameters().unwrap();
    Llama::from_parameters(&config, &parameters, backend).unwrap()
}

/// Hidden states of tokens (b, l) after what the cache has read.
fn read(llama: &Llama, tokens: &Array, cache: &KvCache) -> (Array, KvCache) {
    llama.hidden(tokens, cache).unwrap()
}

#[test]
fn scaled_positions_turn_as_they_should() {
    let (golden, tokens) = (Golden::beside("rope"), Golden::open("plain").tokens());
    for backend in [Backend::PLAIN, Backend::CPU] {
        for case in CASES {
            let wanted = Wanted { attention: true, logits: true, hidden: false };
            let trace = scaled(case, backend).trace(&tokens, None, wanted).unwrap();
            for (what, found) in [
                ("attention", stack(&trace.attention, 0).unwrap()),
                ("logits", trace.logits.unwrap()),
            ] {
                let name = format!("{case}.{what}");
                assert_close(&name, &found, &golden.array(&name), TOLERANCE);
            }
        }
    }
}

#[test]
fn a_cache_holds_keys_of_scaled_positions() {
    let (golden, tokens) = (Golden::beside("rope"), Golden::open("plain").tokens());
    for case in ["yarn", "yarn_smooth", "yarn_given", "dynamic_within", "longrope_within"] {
        let llama = scaled(case, Backend::CPU);
        let mut cache = KvCache::default();
        let expected = golden.array(&format!("{case}.logits"));
        for (from, to) in [(0, 4), (4, 5), (5, 10), (10, 11)] {
            let part = |x: &Array| x.try_index((.., from..to)).unwrap();
            let (hidden, next) = read(&llama, &part(&tokens), &cache);
            let found = llama.logits(&hidden).unwrap();
            assert_close(&format!("{case} {from}"), &found, &part(&expected), 2e-5);
            cache = next;
        }
    }
}

#[test]
fn dynamic_positions_are_cached_up_to_the_context_and_no_further() {
    let tokens = Golden::open("plain").tokens();
    let part = |from: i32, to: i32| tokens.try_index((.., from..to)).unwrap();
    let (llama, plain) = (scaled("dynamic", Backend::CPU), open("plain", Backend::CPU));
    assert_eq!(llama.config().rope, Rope::Dynamic { factor: 2.5, context: 7 });
    let long = scaled("longrope", Backend::CPU);
    assert_eq!(long.context_length(), Some(7));
    let error = long.hidden(&part(0, 8), &KvCache::default()).unwrap_err();
    assert!(matches!(error, Error::TooLong { longest: 7, .. }), "{error}");
    // Within the context there is no scaling.
    let (_, cache) = read(&llama, &part(0, 4), &KvCache::default());
    let (found, cache) = read(&llama, &part(4, 7), &cache);
    let (expected, _) = read(&plain, &part(0, 7), &KvCache::default());
    let expected = expected.try_index((.., 4..7)).unwrap();
    assert_close("within", &found, &expected, 1e-5);
    for (from, to, cache) in [(7, 8, cache), (0, 8, KvCache::default())] {
        let error = llama.hidden(&part(from, to), &cache).unwrap_err();
        assert!(matches!(error, Error::TooLong { longest: 7, .. }), "{error}");
        let error = LanguageModel::read(&llama, &part(from, to), cache).unwrap_err();
        assert!(error.to_string().contains("cannot grow past 7 tokens"), "{error}");
    }
}
