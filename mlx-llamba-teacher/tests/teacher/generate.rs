//! Text from a teacher, by the loop that Llambas generate with.

use mlx_llamba::evaluate::{Window, compare};
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::{Dtype, floats};
use mlx_llamba::{Error, Generation, Reason};
use mlx_llamba_teacher::{Llama, Teacher, Wanted};
use mlx_rs::Array;
use mlx_rs::ops::indexing::argmax_axis;

use crate::support::{fixture, open};

fn teacher() -> Teacher {
    Teacher::open(fixture("mixed.gguf"), Dtype::Float32, Backend::CPU).unwrap()
}

/// The most likely continuation, each token by a forward pass over everything.
fn greedy(llama: &Llama, mut ids: Vec<u32>, count: usize) -> Vec<u32> {
    let wanted = Wanted { logits: true, ..Wanted::default() };
    for _ in 0..count {
        let tokens = Array::from_slice(&ids, &[1, ids.len() as i32]);
        let logits = llama.trace(&tokens, None, wanted).unwrap().logits.unwrap();
        let likeliest = floats(&argmax_axis(&logits, -1, None).unwrap()).unwrap();
        ids.push(*likeliest.last().unwrap() as u32);
    }
    ids.split_off(ids.len() - count)
}

fn options() -> Generation {
    Generation::greedy().eos(Vec::new())
}

#[test]
fn greedy_text_is_what_forward_passes_say() {
    let teacher = teacher();
    let prompt = teacher.tokenizer().unwrap().encode("The boats", true).unwrap();
    let expected = greedy(teacher.llama(), prompt, 20);
    for (prefill, pipelined) in [(512, false), (512, true), (2, false)] {
        let options = options().max_tokens(20);
        let options = options.prefill(prefill).pipelined(pipelined);
        let completion = teacher.generate("The boats", &options).unwrap();
        assert_eq!(completion.tokens, expected, "{prefill} {pipelined}");
        assert_eq!(completion.reason, Reason::Length);
    }
}

#[test]
fn a_text_goes_on_and_forks() {
    let teacher = teacher();
    let expected = teacher.generate("The boats", &options().max_tokens(14)).unwrap().tokens;
    let part = teacher.generate("The boats", &options().max_tokens(5)).unwrap();
    let fork = part.context.clone();
    for context in [part.context, fork] {
        let rest = teacher.resume(context, "", &options().max_tokens(9)).unwrap().finish();
        assert_eq!([&part.tokens[..], &rest.unwrap().tokens].concat(), expected);
    }
}

#[test]
fn bad_prompts_are_refused() {
    let teacher = teacher();
    let refused = |ids: &[u32]| teacher.generate(ids, &options()).unwrap_err();
    assert!(matches!(refused(&[]), Error::EmptyPrompt));
    assert!(matches!(refused(&[1, 277]), Error::TokenOutOfRange { id: 277, position: 1, .. }));
    let llama = teacher.llama().clone();
    let silent = Teacher::new(llama, None).unwrap();
    assert!(matches!(
        silent.generate("text", &options()).unwrap_err(),
        Error::TokenizerMissing { .. }
    ));
    let tokenizer = teacher.tokenizer().cloned();
    let error = Teacher::new(open("plain", Backend::PLAIN), tokenizer).err().unwrap();
    assert!(error.to_string().contains("it belongs to another model"), "{error}");
}

#[test]
fn two_models_are_compared_within_their_context() {
    let llama = open("plain", Backend::PLAIN);
    let other = Llama::from_parameters(
        llama.config(),
        &mlx_llamba_teacher::init(llama.config(), 1).unwrap(),
        Backend::PLAIN,
    )
    .unwrap();
    // Two contexts of 64 tokens and a bit: the third begins at token 128.
    let window = Window::default().stride(64);
    let ids: Vec<u32> = (0..140).map(|i| (i * i + i / 7) % 23).collect();
    let same = compare(&llama, &llama, &ids, window, &mut mlx_llamba::progress::ignore).unwrap();
    assert_eq!((same.mean_kl.value, same.top1_agreement.value, same.tokens), (0.0, 1.0, 139));
    let wanted = Wanted { logits: true, ..Wanted::default() };
    let mut total = 0.0;
    for start in [0, 64, 128] {
        let end = 139.min(start + 64);
        let tokens = Array::from_slice(&ids[start..end], &[1, (end - start) as i32]);
        let logits = llama.trace(&tokens, None, wanted).unwrap().logits.unwrap();
        for (row, next) in floats(&logits).unwrap().chunks(23).zip(&ids[start + 1..]) {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            total += sum.ln() - f64::from(row[*next as usize]);
        }
    }
    let perplexity = (total / 139.0).exp();
    let found = same.other.perplexity.value;
    assert!((found / perplexity - 1.0).abs() < 1e-5, "{perplexity} {same:?}");
    let differ = compare(&llama, &other, &ids, window, &mut mlx_llamba::progress::ignore).unwrap();
    assert!(differ.mean_kl.value > 0.1);
    assert!((differ.reference.perplexity.value - found).abs() < 1e-9);
    let error = compare(&llama, teacher().llama(), &ids, window, &mut mlx_llamba::progress::ignore)
        .unwrap_err();
    let error = error.to_string();
    assert!(error.contains("vocab_size = 277"), "{error}");
}
