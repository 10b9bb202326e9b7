#![allow(clippy::unwrap_used)]

use super::*;

const STAGE: &str = "tokens = 1000\nlr = 1e-3\nbatch = 2\nlength = 16\n";

fn parse(text: &str, changes: &[&str]) -> Result<Recipe> {
    let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
    Recipe::parse("r.toml", text, &changes)
}

#[test]
fn recipes_inside_are_sound() {
    for (name, text) in RECIPES {
        match name.ends_with("teacher") {
            true => drop(Recipe::parse_training(name, text, &[]).unwrap()),
            false => drop(Recipe::parse(name, text, &[]).unwrap()),
        }
    }
    assert_eq!(builtin("tiny").unwrap(), RECIPES[0].1);
    assert!(builtin("x").unwrap_err().to_string().contains("tiny-teacher"));
}

#[test]
fn what_is_left_out_has_defaults() {
    let recipe = parse(&format!("[alignment]\n{STAGE}"), &[]).unwrap();
    assert_eq!((recipe.seed, &recipe.student), (0, &StudentOptions::default()));
    assert_eq!((recipe.data.heldout_every, recipe.compute), (50, Precision::Float32));
    assert!(recipe.data.resets && recipe.orientation.is_none());
    let options = recipe.alignment.unwrap();
    assert_eq!((options.warmup, options.decay, options.weight_decay), (0.1, 0.1, 0.1));
    assert_eq!((options.beta1, options.beta2, options.clip), (0.9, 0.95, 1.0));
    assert_eq!((options.steps(), options.micro_batch), (32, 0));
}

#[test]
fn mixers_are_calibrated_unless_the_recipe_says_otherwise() {
    let init = |text: &str| parse(text, &[]).unwrap().student.mixer_init();
    assert_eq!(init(""), MixerInit::Calibrated);
    assert_eq!(init("[student]\ninit = \"random\""), MixerInit::Random);
    assert_eq!(init("[student]\ncopy_qkvo = true\nskip = 0.0"), MixerInit::Copy);
    assert_eq!(init("[student]\ncopy_qkvo = false"), MixerInit::Random);
}

#[test]
fn blocks_of_muon_by_name() {
    let text = format!("[alignment]\n{STAGE}muon_rows = {{ \"mixer.in_proj.weight\" = 3 }}\n");
    let options = parse(&text, &[]).unwrap().alignment.unwrap();
    let rows = |part: &str| options.muon_rows(&format!("backbone.layers.0.{part}.weight"));
    assert_eq!((rows("mixer.in_proj"), rows("mlp.up_proj")), (3, 0));
    let options = parse(&text, &["alignment.muon_rows=4"]).unwrap().alignment.unwrap();
    assert_eq!(options.muon_rows("mlp.up_proj.weight"), 4);
}

#[test]
fn sources_and_what_is_learned() {
    let text = "[data]\nweights = [2, 1.5]\nlearned = \"responses\"";
    let data = parse(text, &[]).unwrap().data;
    assert_eq!((data.weights, data.learned), (vec![2.0, 1.5], Learned::Responses));
    for (change, part) in [
        ("data.weights=[1, 0]", "above 0"),
        ("data.packing=cut", "documents"),
        ("data.learned=some", "responses"),
    ] {
        let error = parse(text, &[change]).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn changes_come_last() {
    let text = format!("seed = 1\n[distillation]\n{STAGE}");
    let changes = [
        "seed=7",
        "compute=bfloat16",
        "distillation.lr=2e-3",
        "data.field=story",
        "data.begin=\"<s>\"",
        "distillation.freeze=[\"a.*\"]",
    ];
    let recipe = parse(&text, &changes).unwrap();
    let options = recipe.distillation.as_ref().unwrap();
    assert_eq!((recipe.seed, recipe.compute, options.lr), (7, Precision::Bfloat16, 2e-3));
    assert_eq!((recipe.data.field.as_str(), recipe.data.begin.as_deref()), ("story", Some("<s>")));
    assert_eq!(options.freeze, ["a.*"]);
}

#[test]
fn errors_name_the_key() {
    let stage = |text: &str| format!("[alignment]\n{STAGE}{text}");
    for (text, changes, parts) in [
        (stage("learn = 1"), &[][..], &["r.toml", "alignment", "unknown field `learn`"][..]),
        (stage("clip = \"x\""), &[], &["alignment.clip", "string"]),
        (stage("clip = -1"), &[], &["alignment.clip", "0 or above"]),
        (stage("warmup = 0.8\ndecay = 0.3"), &[], &["alignment.decay", "together with warmup"]),
        (stage("next_token = 0.5"), &[], &["alignment.next_token", "only distillation"]),
        (stage("lr = 5"), &[], &["line 6", "duplicate key"]),
        ("[alignment]\nlr = 1".into(), &[], &["alignment", "missing field `tokens`"]),
        ("[align]\n".into(), &[], &["unknown field `align`"]),
        ("seed = -1\n".into(), &[], &["seed", "-1"]),
        ("seed 1\n".into(), &[], &["line 1"]),
        ("compute = \"int8\"".into(), &[], &["compute", "int8", "float32", "bfloat16"]),
        (stage("compute = \"bfloat16\""), &[], &["alignment", "unknown field `compute`"]),
        ("[data]\nheldout_every = 1".into(), &[], &["data.heldout_every", "2 and above"]),
        ("[student]\nstate = 1.5".into(), &[], &["student.state", "floating point"]),
        (
            "[student]\nskip = 0.0".into(),
            &[],
            &["student.skip", "student.init = \"copy\" or \"random\""],
        ),
        (
            "[student]\ninit = \"copy\"\ncopy_qkvo = true".into(),
            &[],
            &["student.copy_qkvo", "not both"],
        ),
        ("[student]\ninit = \"new\"".into(), &[], &["student.init", "calibrated"]),
        (stage("compared = \"matrix\""), &[], &["alignment.compared", "only orientation"]),
        (String::new(), &["seed"], &["--set", "KEY=VALUE"]),
        ("seed = 1".into(), &["seed.x=2"], &["--set", "seed.x=2"]),
    ] {
        let error = parse(&text, changes).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn stages_are_chosen_by_number() {
    use StageName::{Alignment, Distillation, Orientation};
    assert_eq!(StageName::parse_list("all").unwrap(), StageName::MOHAWK);
    assert_eq!(StageName::parse_list("2+3").unwrap(), [Alignment, Distillation]);
    assert_eq!(StageName::parse_list("1").unwrap(), [Orientation]);
    for text in ["", "0", "4", "3+2", "2+2", "1,2", "all+1"] {
        assert!(StageName::parse_list(text).is_err(), "{text}");
    }
}

#[test]
fn a_total_is_shared_as_in_the_recipe() {
    let section = |name: &str, tokens: u64| {
        format!("[{name}]\ntokens = {tokens}\nlr = 1e-3\nbatch = 2\nlength = 16\n")
    };
    let text =
        section("orientation", 1000) + &section("alignment", 3000) + &section("distillation", 6000);
    let tokens = |wanted: &[StageName], total| {
        let recipe = parse(&text, &[]).unwrap().only(wanted, total).unwrap();
        StageName::MOHAWK.map(|stage| recipe.stage(stage).map(|options| options.tokens))
    };
    assert_eq!(tokens(&StageName::MOHAWK, None), [Some(1000), Some(3000), Some(6000)]);
    assert_eq!(tokens(&StageName::MOHAWK[1..], None), [None, Some(3000), Some(6000)]);
    assert_eq!(tokens(&StageName::MOHAWK[1..], Some(10_000)), [None, Some(3333), Some(6666)]);
    assert_eq!(tokens(&StageName::MOHAWK[2..], Some(10_000)), [None, None, Some(10_000)]);
    let error =
        parse(&section("alignment", 1), &[]).unwrap().only(&StageName::MOHAWK, None).unwrap_err();
    assert!(error.to_string().contains("orientation"), "{error}");
}
