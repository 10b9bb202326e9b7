//! Checkpoints that are damaged, wrong or hostile: each kind is refused with an error that names
//! what is wrong with it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mlx_llamba::error::{FieldProblem, TensorProblem};
use mlx_llamba::{Checkpoint, Error};
use mlx_llamba_tests::fixtures::{self, edit};
use serde_json::{Value, json};
use tempfile::TempDir;

fn fails(path: impl AsRef<Path>) -> Error {
    match Checkpoint::open(path) {
        Ok(checkpoint) => panic!("{} opened", checkpoint.path().display()),
        Err(error) => error,
    }
}

/// A fixture's copy and its weight file.
fn copy(fixture: &str) -> (TempDir, PathBuf) {
    let directory = fixtures::copy(fixture);
    let file = directory.path().join("model.safetensors");
    (directory, file)
}

/// Changes the header of a copy, and opens it.
fn with_header(fixture: &str, change: impl FnOnce(&mut Value)) -> Error {
    let (directory, file) = copy(fixture);
    edit(&file, |header, _| change(header));
    fails(directory.path())
}

/// Changes the configuration of a copy, and opens it.
fn with_config(change: impl FnOnce(&mut Value)) -> Error {
    let (directory, _) = copy("a_base");
    let path = directory.path().join("config.json");
    let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    fails(directory.path())
}

/// Puts other bytes in place of a weight file.
fn with_bytes(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Error {
    let (directory, file) = copy("a_base");
    let bytes = change(std::fs::read(&file).unwrap());
    std::fs::write(&file, bytes).unwrap();
    fails(directory.path())
}

fn raw(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

fn reason(error: Error) -> String {
    match error {
        Error::Header { reason, path } => {
            assert!(path.ends_with("model.safetensors"));
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn tensors(error: Error) -> Vec<TensorProblem> {
    match error {
        Error::Tensors { problems, .. } => problems,
        other => panic!("{other:?}"),
    }
}

fn fields(error: Error) -> Vec<FieldProblem> {
    match error {
        Error::Config { problems, .. } | Error::Index { problems, .. } => problems,
        other => panic!("{other:?}"),
    }
}

fn names(error: Error) -> Vec<String> {
    fields(error).into_iter().map(|problem| problem.field).collect()
}

const NORM: &str = "backbone.layers.1.input_layernorm.weight";
const Z_BIAS: &str = "backbone.layers.0.mixer.z_bias";

// Weight files.

#[test]
fn truncated_files() {
    let whole = std::fs::read(fixtures::path("a_base").join("model.safetensors")).unwrap();
    for length in [0, 1, 7, 8, 9, 1000, 2535, 2536, 2537, whole.len() - 1] {
        let reason = reason(with_bytes(|bytes| bytes[..length].to_vec()));
        assert!(reason.contains("truncated") || reason.contains("no header"), "{length}: {reason}");
    }
}

#[test]
fn bytes_after_the_last_tensor() {
    let reason = reason(with_bytes(|mut bytes| {
        bytes.push(0);
        bytes
    }));
    assert!(reason.contains("belong to none"), "{reason}");
}

#[test]
fn overlapping_tensors() {
    let error = with_header("a_base", |header| {
        let first = header[NORM]["data_offsets"].clone();
        header[Z_BIAS]["data_offsets"] = first;
    });
    assert!(reason(error).contains("overlap"));
}

#[test]
fn lengths_that_do_not_fit_the_shape() {
    let error = with_header("a_base", |header| header[NORM]["shape"] = json!([65]));
    assert!(reason(error).contains("shape"));
}

#[test]
fn shapes_whose_product_overflows() {
    let error = with_header("a_base", |header| {
        header[NORM]["shape"] = json!([1_u64 << 40, 1_u64 << 40]);
    });
    assert!(reason(error).contains("overflow"));
}

#[test]
fn oversized_headers() {
    let declare = |n: u64| {
        reason(with_bytes(|mut bytes| {
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            bytes
        }))
    };
    assert_eq!(declare(100_000_001), "header of 100000001 bytes, at most 100000000 allowed");
    assert!(declare(u64::MAX).contains("at most 100000000"));
    assert!(declare(90_000_000).contains("in a file of"));
}

#[test]
fn headers_that_are_no_plain_table_of_tensors() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    for header in [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        r#"{"a":1}"#,
        r#"{"__metadata__":{"a":1}}"#,
        r#"{"__metadata__":{"a":{"b":[]}}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}"#,
        &deep,
    ] {
        reason(with_bytes(|_| raw(header)));
    }
    reason(with_bytes(|_| [&3_u64.to_le_bytes()[..], b"{\xff}"].concat()));
}

#[test]
fn the_same_tensor_twice_in_a_header() {
    let one = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let two = r#""a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}"#;
    reason(with_bytes(|_| [raw(&format!("{{{one},{two}}}")), vec![0; 8]].concat()));
}

#[test]
fn names_that_are_no_names() {
    for name in ["a\u{1b}[2Jb".to_owned(), "x".repeat(10_000)] {
        let error = with_header("a_base", |header| {
            let norm = header.as_object_mut().unwrap().remove(NORM).unwrap();
            header[&name] = norm;
        });
        let text = error.to_string();
        assert!(text.len() < 500 && !text.contains('\u{1b}'), "{text}");
        reason(error);
    }
}

#[test]
fn wrong_dtypes() {
    let error = with_header("a_base", |header| {
        header[NORM]["dtype"] = json!("I32");
        header[Z_BIAS]["dtype"] = json!("U32");
        // Two bytes each where four were: the shape has to follow for the header to be sound.
        header["lm_head.weight"]["dtype"] = json!("I16");
        header["lm_head.weight"]["shape"] = json!([257, 128]);
    });
    let mut problems = tensors(error);
    let shape = problems.pop().unwrap();
    assert!(matches!(shape, TensorProblem::Dtype { name, .. } if name == "lm_head.weight"));
    let shape = problems.pop().unwrap();
    assert!(matches!(shape, TensorProblem::Shape { name, .. } if name == "lm_head.weight"));
    let expected = |name: &str, found: &str| TensorProblem::Dtype {
        name: name.into(),
        found: found.into(),
        expected: "F32, F16 or BF16".into(),
    };
    assert_eq!(problems, [expected(Z_BIAS, "U32"), expected(NORM, "I32")]);
}

#[test]
fn missing_unknown_and_misshapen_tensors_all_at_once() {
    let error = with_header("a_base", |header| {
        let header = header.as_object_mut().unwrap();
        let bias = header.remove(Z_BIAS).unwrap();
        header.insert("backbone.layers.0.mixer.dt_bias".into(), bias);
        let conv = header.get_mut("backbone.layers.0.mixer.conv1d.weight").unwrap();
        conv["shape"] = json!([4, 1, 192]);
    });
    assert!(
        error.to_string().contains("backbone.layers.0.mixer.dt_bias is not part of this model")
    );
    let conv = "backbone.layers.0.mixer.conv1d.weight".into();
    let expected = [
        TensorProblem::Shape { name: conv, found: vec![4, 1, 192], expected: vec![192, 1, 4] },
        TensorProblem::Missing { name: Z_BIAS.into(), expected: vec![64] },
        TensorProblem::Unknown { name: "backbone.layers.0.mixer.dt_bias".into() },
    ];
    assert_eq!(tensors(error), expected);
}

#[test]
fn a_model_far_too_small_for_its_configuration() {
    let error = with_config(|config| config["n_layer"] = json!(4096));
    assert!(error.to_string().len() < 4000, "a message for people");
    assert_eq!(tensors(error).len(), 4094 * 11, "a list for programs");
}

#[test]
fn a_second_head_in_a_tied_model() {
    let (directory, file) = copy("c_tied_exp2");
    let add_head = |change: u8| {
        std::fs::copy(fixtures::path("c_tied_exp2").join("model.safetensors"), &file).unwrap();
        edit(&file, |header, data| {
            let mut head = header["backbone.embedding.weight"].clone();
            let range = head["data_offsets"].as_array().unwrap();
            let at = |i: usize| range[i].as_u64().unwrap() as usize;
            let mut copy = data[at(0)..at(1)].to_vec();
            copy[0] ^= change;
            head["data_offsets"] = json!([data.len(), data.len() + copy.len()]);
            data.extend_from_slice(&copy);
            header["lm_head.weight"] = head;
        });
    };
    add_head(1);
    let problems = tensors(fails(directory.path()));
    assert_eq!(problems, [TensorProblem::Unknown { name: "lm_head.weight".into() }]);
    add_head(0);
    Checkpoint::open(directory.path()).expect("the same to the bit is the same model");
}

// Configurations.

#[test]
fn configurations_that_are_no_json() {
    let (directory, _) = copy("a_base");
    for text in ["", "{", "{\"a\":}", &"[".repeat(100_000)] {
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        assert!(matches!(fails(directory.path()), Error::Json { .. }));
    }
    std::fs::write(directory.path().join("config.json"), "[]").unwrap();
    assert_eq!(names(fails(directory.path())), ["config"]);
}

#[test]
fn missing_fields() {
    let error = with_config(|config| {
        let config = config.as_object_mut().unwrap();
        config.remove("vocab_size");
        config.remove("d_model");
        config["ssm_cfg"].as_object_mut().unwrap().remove("d_state");
    });
    assert!(error.to_string().contains("vocab_size is missing, expected a whole number from 1 to"));
    assert_eq!(names(error), ["vocab_size", "d_model", "ssm_cfg.d_state"]);
}

#[test]
fn negative_zero_huge_and_broken_fields() {
    for bad in [json!(-1), json!(0), json!(1_u64 << 40), json!(u64::MAX), json!(2.5), json!("64")] {
        let error = with_config(|config| {
            config["d_model"] = bad.clone();
            config["ssm_cfg"]["n_v_heads"] = bad.clone();
        });
        assert_eq!(names(error), ["d_model", "ssm_cfg.n_v_heads"], "{bad}");
    }
}

#[test]
fn fields_that_contradict_each_other() {
    let error = with_config(|config| config["ssm_cfg"]["n_qk_heads"] = json!(3));
    assert_eq!(names(error), ["ssm_cfg.n_qk_heads"]);
    let error = with_config(|config| {
        config["ssm_cfg"]["n_v_heads"] = json!(5);
        config["ssm_cfg"]["n_qk_heads"] = json!(5);
    });
    assert_eq!(names(error), ["ssm_cfg.n_v_heads"]);
}

#[test]
fn configurations_of_other_models() {
    let error = with_config(|config| config["model_type"] = json!("mamba2"));
    assert_eq!(names(error), ["model_type"]);
    let error = with_config(|config| config["ssm_cfg"]["activation"] = json!("relu"));
    assert_eq!(names(error), ["ssm_cfg.activation"]);
}

// Quantized checkpoints.

/// A quantized copy of a fixture, its configuration and header changed.
fn quantized(config: impl FnOnce(&mut Value), header: impl FnOnce(&mut Value)) -> Error {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("q");
    let source = Checkpoint::open(fixtures::path("a_base")).unwrap();
    mlx_llamba::quantize::quantize(&source, &output, &Default::default()).unwrap();
    let path = output.join("config.json");
    let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config(&mut value);
    value.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(&path, value.to_string()).unwrap();
    edit(&output.join("model.safetensors"), |value, _| header(value));
    fails(output)
}

#[test]
fn unknown_bits_group_sizes_and_modes() {
    for (key, bad) in [
        ("bits", json!(7)),
        ("bits", json!(-4)),
        ("bits", json!("4")),
        ("group_size", json!(48)),
        ("group_size", json!(0)),
        ("mode", json!("gptq")),
    ] {
        let error = quantized(|config| config["quantization"][key] = bad.clone(), |_| ());
        let names = names(error);
        assert!(names[0].starts_with("quantization"), "{key} {bad}: {names:?}");
    }
}

#[test]
fn a_group_size_that_does_not_divide_the_rows() {
    let error = quantized(|config| config["quantization"]["group_size"] = json!(128), |_| ());
    assert!(error.to_string().contains("rows of 64 values do not divide into groups of 128"));
    let problems = tensors(error);
    let one = problems.iter().filter(|p| matches!(p, TensorProblem::Scheme { .. })).count();
    assert_eq!(one, 2 * 4 + 2);
}

#[test]
fn bits_that_do_not_fit_the_packed_shapes() {
    let error = quantized(|config| config["quantization"]["bits"] = json!(8), |_| ());
    let expected = TensorProblem::Shape {
        name: "lm_head.weight".into(),
        found: vec![257, 8],
        expected: vec![257, 16],
    };
    assert!(tensors(error).contains(&expected));
}

#[test]
fn scales_and_biases_of_the_wrong_kind() {
    let error = quantized(
        |_| (),
        |header| {
            let header = header.as_object_mut().unwrap();
            // Four u8 for one f32.
            header["lm_head.scales"]["dtype"] = json!("U8");
            header["lm_head.scales"]["shape"] = json!([257, 4]);
            let moved = header.remove("backbone.layers.0.mixer.in_proj.biases").unwrap();
            header.insert("backbone.layers.0.mixer.in_proj.zeros".into(), moved);
        },
    );
    let text = error.to_string();
    for part in [
        "lm_head.scales has dtype U8, expected F32, F16 or BF16",
        "lm_head.scales has shape [257, 4], expected [257, 1]",
        "backbone.layers.0.mixer.in_proj.biases is missing",
        "backbone.layers.0.mixer.in_proj.zeros is not part of this model",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn overrides_that_fit_nothing() {
    let error = quantized(|config| config["quantization"]["q_proj"] = json!(false), |_| ());
    assert_eq!(names(error), ["quantization.q_proj"]);
    let error = quantized(|config| config["quantization"]["lm_head"] = json!(false), |_| ());
    let text = error.to_string();
    assert!(text.contains("lm_head.weight has dtype U32"), "{text}");
    assert!(text.contains("lm_head.scales is not part of this model"), "{text}");
}

#[test]
fn split_checkpoints_need_their_extra_rows() {
    let error = quantized(|config| config["split_a_log"] = json!(true), |_| ());
    assert!(error.to_string().contains("mixer.A_log_proj.weight is missing"), "{error}");
}

// Cartesia's files.

fn cartesia(change: impl FnOnce(&mut Value)) -> Error {
    with_header("m_mlx_4bit", |header| change(&mut header["__metadata__"]))
}

#[test]
fn cartesia_keys_that_contradict_the_tensors() {
    let error = cartesia(|keys| {
        keys["d_model"] = json!("128");
        keys["model.n_layer_repeats"] = json!("3");
        keys["model.unique_layers.0.layer.d_state"] = json!("32");
        keys["model.unique_layers.1.layer.expand"] = json!("4.0");
        keys["n_tokens"] = json!("1000");
    });
    let expected = [
        "n_tokens",
        "d_model",
        "model.n_layer_repeats",
        "model.unique_layers.0.layer.d_state",
        "model.unique_layers.1.layer.expand",
    ];
    assert_eq!(names(error), expected);
}

#[test]
fn cartesia_keys_for_other_maths() {
    let error = cartesia(|keys| {
        keys["_class_"] = json!("\"models.mamba.Mamba\"");
        keys["model.unique_layers.0.layer.dt_limit.1"] = json!("0.1");
        keys["model.unique_layers.1.layer.activation"] = json!("\"gelu\"");
        keys.as_object_mut().unwrap().remove("model.unique_layers.0.layer.conv_swish");
    });
    let mut names = names(error);
    names.sort_unstable();
    let expected = [
        "_class_",
        "model.unique_layers.0.layer.conv_swish",
        "model.unique_layers.0.layer.dt_limit.1",
        "model.unique_layers.1.layer.activation",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_stale_group_size_gives_way_to_the_shapes() {
    let (directory, file) = copy("m_mlx_4bit");
    edit(&file, |header, _| {
        header["__metadata__"]["quantization_kwargs.group_size"] = json!("128");
        header["__metadata__"]["quantization_kwargs.bits"] = json!("8");
    });
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let scheme = checkpoint.scheme("lm_head").unwrap();
    assert_eq!((scheme.group_size, scheme.bits), (64, 4));
    let warning = warnings_of("which are used", directory.path());
    assert!(warning.contains("8 bits in groups of 128"), "{warning}");
}

#[test]
fn cartesia_shapes_that_fit_no_scheme() {
    let name = "model.layers.1.layer.gate_proj.scales";
    let error = with_header("m_mlx_4bit", |header| header[name]["shape"] = json!([1, 128]));
    assert!(error.to_string().contains("fit no group size and bits"), "{error}");
}

#[test]
fn files_that_downloads_leave_in_place_of_weights() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n";
    for (text, expected) in [(pointer, "Git LFS pointer"), ("<!DOCTYPE html>", "HTML page")] {
        let reason = reason(with_bytes(|_| text.as_bytes().to_vec()));
        assert!(reason.contains(expected), "{reason}");
        let (directory, _) = copy("a_base");
        std::fs::write(directory.path().join("config.json"), text).unwrap();
        let error = fails(directory.path()).to_string();
        assert!(error.contains("config.json") && error.contains(expected), "{error}");
    }
}

#[test]
fn hidden_files_of_macos_are_no_weights() {
    let (directory, file) = copy("a_base");
    std::fs::rename(file, directory.path().join("llamba.safetensors")).unwrap();
    std::fs::write(directory.path().join("._llamba.safetensors"), b"\0\x05\x16\x07").unwrap();
    Checkpoint::open(directory.path()).unwrap();
    std::fs::rename(
        directory.path().join("llamba.safetensors"),
        directory.path().join(".llamba.safetensors"),
    )
    .unwrap();
    let error = fails(directory.path()).to_string();
    assert!(error.contains("no other .safetensors file"), "{error}");
}

#[test]
fn a_file_without_any_configuration() {
    let (directory, file) = copy("a_base");
    assert!(matches!(fails(&file), Error::NotACheckpoint { .. }));
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    assert!(matches!(fails(directory.path()), Error::NotACheckpoint { .. }));
}

// Directories.

#[test]
fn paths_that_hold_nothing() {
    assert!(matches!(fails("/no/such/place"), Error::Io { .. }));
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(fails(directory.path()), Error::NotACheckpoint { .. }));
    assert!(matches!(fails("/dev/null"), Error::NotACheckpoint { .. }));
}

#[test]
fn pipes_are_not_waited_for() {
    for name in ["model.safetensors", "config.json"] {
        let (directory, _) = copy("a_base");
        let path = directory.path().join(name);
        std::fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(fails(directory.path()), Error::NotACheckpoint { .. }));
    }
}

#[test]
fn damage_inside_the_program() {
    let config = include_str!("../fixtures/a_base/config.json");
    let weights: &'static [u8] = include_bytes!("../fixtures/a_base/model.safetensors");
    let sound = Checkpoint::from_static("built in", config, weights).unwrap();
    let file = Checkpoint::open(fixtures::path("a_base")).unwrap();
    assert_eq!(sound.fingerprint(), file.fingerprint());
    let error = Checkpoint::from_static("built in", config, &weights[..5000]).unwrap_err();
    assert!(matches!(&error, Error::Header { path, .. } if path == Path::new("built in")));
    let error = Checkpoint::from_static("built in", "{}", weights).unwrap_err();
    assert!(matches!(&error, Error::Config { path, .. } if path == Path::new("built in")));
}

/// Replaces the weight file of a copy by one shard and an index with these entries changed.
fn sharded(change: impl FnOnce(&mut Value, &Path)) -> Error {
    let (directory, file) = copy("a_base");
    let bytes = std::fs::read(&file).unwrap();
    let header = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let names: serde_json::Map<String, Value> =
        header.names().iter().map(|name| ((*name).to_owned(), json!("one.safetensors"))).collect();
    std::fs::rename(&file, directory.path().join("one.safetensors")).unwrap();
    let mut index = json!({"metadata": {}, "weight_map": names});
    change(&mut index, directory.path());
    let path = directory.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();
    fails(directory.path())
}

#[test]
fn shards_outside_the_directory() {
    for name in ["../one.safetensors", "/etc/passwd", "a/one.safetensors", "..", ".", ""] {
        let error = sharded(|index, _| index["weight_map"][NORM] = json!(name));
        assert!(names(error).contains(&NORM.to_owned()), "{name}");
    }
    let error = sharded(|index, _| index["weight_map"][NORM] = json!(7));
    assert!(names(error).contains(&NORM.to_owned()));
}

#[test]
fn missing_shards_and_wrong_entries_all_at_once() {
    let error = sharded(|index, _| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map[NORM] = json!("two.safetensors");
        map.insert("another".into(), json!("one.safetensors"));
    });
    assert_eq!(names(error), ["another", NORM, "two.safetensors"]);
}

#[test]
fn an_index_without_entries() {
    assert_eq!(names(sharded(|index, _| *index = json!({}))), ["weight_map"]);
    assert_eq!(names(sharded(|index, _| index["weight_map"] = json!({}))), ["weight_map"]);
}

#[test]
fn a_tensor_in_two_shards() {
    let error = sharded(|index, directory| {
        std::fs::copy(directory.join("one.safetensors"), directory.join("two.safetensors"))
            .unwrap();
        index["weight_map"][NORM] = json!("two.safetensors");
    });
    let text = error.to_string();
    assert!(text.contains(&format!("{NORM} is in one.safetensors")), "{text}");
}

// Values.

/// Keeps every warning of this process.
struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// The warning with these words, after everything in `path` was read once.
fn warnings_of(words: &str, path: &Path) -> String {
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Warn);
    let checkpoint = Checkpoint::open(path).unwrap();
    for (name, _) in checkpoint.tensors() {
        checkpoint.array(name).unwrap().eval().unwrap();
    }
    let path = path.display().to_string();
    let log = LOG.0.lock().unwrap();
    let mine: Vec<&String> =
        log.iter().filter(|line| line.contains(words) && line.contains(&path)).collect();
    assert_eq!(mine.len(), 1, "{log:?}");
    mine[0].clone()
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let (directory, file) = copy("a_base");
    edit(&file, |header, data| {
        let start = header[NORM]["data_offsets"][0].as_u64().unwrap() as usize;
        data[start + 8..start + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let warning = warnings_of("holds NaN or infinity", directory.path());
    assert!(warning.contains(NORM), "{warning}");
}
