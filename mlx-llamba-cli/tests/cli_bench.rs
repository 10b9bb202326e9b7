//! `mlx-llamba bench`: its rows and their contents, never the speed itself.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use mlx_llamba_tests::command::{Cli, names, signal};
use serde_json::Value;

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));
/// A small shape whose sizes all differ; 80072 weights.
const SHAPE: [&str; 15] = [
    "bench", "--shape", "custom", "--layers", "2", "--width", "64", "--mlp", "96", "--heads", "4",
    "--state", "8", "--vocab", "128",
];
const NAME: &str =
    "random custom --layers 2 --width 64 --mlp 96 --heads 4 --state 8 --vocab 128, float32";

fn rows(arguments: &[&str]) -> Vec<Value> {
    let out = CLI.ok(&[&SHAPE, arguments].concat());
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap()
}

#[test]
fn a_sweep_measures_every_combination_once() {
    let sweep = ["-d", "20,0,8,8", "-b", "1,3", "-p", "5", "-n", "2,3", "-r", "2", "--json"];
    let rows = rows(&sweep);
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            let n = |name| number(row, name);
            (row["test"].as_str().unwrap(), n("depth"), n("batch"), n("tokens"), n("repetitions"))
        })
        .collect();
    let mut expected = Vec::new();
    for (depth, before) in [(0, 0), (8, 0), (20, 8)] {
        if depth > 0 {
            expected.push(("fill", before, 1, depth - before, 1));
        }
        for batch in [1, 3] {
            expected.push(("read", depth, batch, 5, 2));
            expected.extend([2, 3].map(|n| ("generate", depth, batch, n, 2)));
        }
    }
    assert_eq!(found, expected);
    for row in &rows {
        let float = |name: &str| row[name].as_f64();
        let speed = float("tokens_per_second").unwrap();
        assert!(speed > 0.0, "{row}");
        let whole = float("tokens_per_second_per_row").unwrap() * number(row, "batch") as f64;
        assert!((whole / speed - 1.0).abs() < 1e-12, "{row}");
        assert_eq!(float("deviation").is_some(), row["test"] != "fill", "{row}");
        assert_eq!(float("time_to_first_token").is_some(), row["test"] == "read", "{row}");
        assert_eq!(number(row, "weight_bytes"), 4 * 80_072);
        let active = number(row, "active_memory");
        assert!(4 * 80_072 < active && active <= number(row, "peak_memory"), "{row}");
        assert!(!cfg!(target_os = "linux") || number(row, "resident_memory") > active, "{row}");
        // The head is the embedding, so a step reads all weights.
        let read = float("weight_bytes_per_second");
        assert_eq!(read.is_some(), row["test"] == "generate", "{row}");
        let per_row = float("tokens_per_second_per_row").unwrap();
        let ratio = read.map(|read| read / (per_row * f64::from(4 * 80_072)));
        assert!(ratio.is_none_or(|ratio| (ratio - 1.0).abs() < 1e-12), "{row}");
        let memory = float("read_bandwidth");
        assert_eq!(memory.is_some(), row["test"] == "generate", "{row}");
        assert!(memory.is_none_or(|speed| speed > 0.0), "{row}");
        assert_eq!(row["dtype"], "float32");
        assert_eq!(row["model"], NAME);
        assert!(!row["kernels"].as_str().unwrap().is_empty());
    }
}

#[test]
fn memory_in_use_grows_with_the_batch_and_not_with_the_depth() {
    let active = |batch: &str| -> Vec<u64> {
        let rows = rows(&["-d", "40,1k", "-b", batch, "-p", "7", "-n", "2", "-r", "1", "--json"]);
        let measured = rows.iter().filter(|row| row["test"] != "fill");
        measured.map(|row| number(row, "active_memory")).collect()
    };
    let (one, four) = (active("1"), active("4"));
    // MLX may return a buffer that is somewhat larger than requested.
    for (shallow, deep) in [(one[0], one[2]), (one[1], one[3]), (four[0], four[2])] {
        assert!(shallow.abs_diff(deep) < shallow / 10, "{one:?} {four:?}");
    }
    // A row's states: 2 layers of 4 x 16 x 8 and 3 x 128 floats, before and after.
    assert!(four[0] >= one[0] + 3 * 2 * 2 * 4 * (512 + 384), "{one:?} {four:?}");
}

#[test]
fn the_same_rows_in_every_format() {
    let fixed = ["-p", "3,2k", "-n", "0", "-d", "1k", "-r", "1"];
    let print = |format: &[&str]| CLI.ok(&[&SHAPE[..], &fixed, format].concat());
    let table = print(&[]);
    let mut lines = table.lines();
    let head = lines.next().unwrap();
    for part in [NAME, "0.3 MiB of weights", "float32 activations", "kernels: "] {
        assert!(head.contains(part), "{head}");
    }
    assert_eq!(lines.next(), Some(""));
    let report = print(&["--report"]);
    let (machine, rest) = report.split_once("\n\n").unwrap();
    assert!(machine.starts_with(concat!("mlx-llamba ", env!("CARGO_PKG_VERSION"), ", MLX ")));
    assert!(machine.contains("\nmemory ") && machine.ends_with(" GB/s"), "{machine}");
    assert!(rest.starts_with(NAME), "{rest}");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let table: Vec<_> = lines.map(cells).collect();
    assert_eq!(table.len(), 2 + 3);
    assert!(table.iter().all(|line| line.len() == table[0].len()), "{table:?}");
    let first: Vec<_> = table[2..].iter().map(|line| line[..3].join(" ")).collect();
    assert_eq!(first, ["fill 1k 0 1", "read 3 1k 1", "read 2k 1k 1"]);

    let csv = print(&["--format", "csv"]);
    let csv: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(csv.len(), 1 + 3);
    assert_eq!(csv[2][..5], ["read", "3", "1024", "1", "1"]);
    // The shape's name has a comma.
    assert_eq!(csv[2][12..14].join(","), format!("\"{NAME}\""));
    let json: Value =
        serde_json::from_str(print(&["--format", "json"]).lines().last().unwrap()).unwrap();
    let mut names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let mut columns = csv[0].clone();
    // Formats have the same fields, not necessarily in the same order.
    names.sort_unstable();
    columns.sort_unstable();
    assert_eq!(names, columns);
}

#[test]
fn a_plot_has_every_line_and_title() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("plot.svg");
    let plot = |arguments: &[&str]| {
        let fixed = ["-r", "2", "--plot", file.to_str().unwrap()];
        CLI.ok(&[&SHAPE[..], arguments, &fixed].concat());
        std::fs::read_to_string(&file).unwrap()
    };
    // Another format is refused before anything is measured.
    CLI.refuses(&["bench", "--plot", "plot.png"], &["plot.png", "end the name with .svg"]);
    let depths = plot(&["-d", "0,1k,64", "-p", "3", "-n", "2", "-b", "1,2"]);
    assert!(depths.starts_with("<svg ") && depths.trim_end().ends_with("</svg>"), "{depths}");
    for text in [
        "reading, tokens per second",
        "generating, tokens per second",
        "peak memory, MiB",
        "tokens read before",
        "read 3, batch 1",
        "generate 2, batch 2",
        NAME,
        "\n1k\n",
    ] {
        assert!(depths.contains(text), "{text}: {depths}");
    }
    // 4 lines of 3 points, each in a chart of speed and in that of memory, and 4 in the legend.
    assert_eq!(depths.matches("<circle").count(), 4 * 3 * 2 + 4);
    let batches = plot(&["-p", "3", "-n", "0", "-b", "1,2,5"]);
    assert!(batches.contains("batch size") && !batches.contains("generating"), "{batches}");
    assert_eq!(batches.matches("<circle").count(), 3 * 2 + 1);
    let filling = plot(&["-p", "0", "-n", "0", "-d", "16,32"]);
    assert!(filling.contains("\nfill\n"), "{filling}");
    assert_eq!(filling.matches("<circle").count(), 2 * 2 + 1);
    assert_eq!(names(directory.path()), ["plot.svg"]);
}

#[test]
fn shapes_by_file_and_by_sizes_and_bits() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let config = r#"{ "model_type": "llamba", "vocab_size": 128, "tie_embeddings": true,
        "d_model": 64, "n_layer": 5, "norm_epsilon": 1e-5,
        "mlp_cfg": { "intermediate_size": 96, "bias": false, "act_fn": "silu" },
        "ssm_cfg": { "d_state": 8, "n_v_heads": 4, "n_qk_heads": 4, "expand": 1, "chunk_size": 16,
                     "activation": "identity", "bias": false } }"#;
    std::fs::write(&file, config).unwrap();
    let bytes = |arguments: &[&str]| {
        let fixed = ["bench", "-p", "2", "-n", "0", "-r", "1", "--json", "--shape"];
        let out = CLI.ok(&[&fixed, arguments].concat());
        number(&serde_json::from_str(&out).unwrap(), "weight_bytes")
    };
    let (file, directory) = (file.to_str().unwrap(), directory.path().to_str().unwrap());
    assert_eq!(bytes(&[file]), 4 * (80_072 + 3 * 35_908));
    assert_eq!(bytes(&[directory, "--layers", "2"]), 4 * 80_072);
    assert_eq!(bytes(&["custom", "--layers", "2", "--width", "128", "--vocab", "256"]), {
        // 2 heads, state 64, MLPs of 512.
        let mixer = (128 + 2 * 2 * 64 + 128 + 2) * 128 + 384 * 5 + 128 + 2 + 128 * 128;
        4 * (256 * 128 + 2 * (2 * 128 + mixer + 3 * 512 * 128) + 128)
    });
    assert!(bytes(&[file, "--width", "128", "--mlp", "192", "--bits", "4"]) < 4 * 150_000);
}

/// A Llama of random weights, by name and by file, dense and in codes.
#[test]
fn shapes_of_llamas() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    std::fs::write(
        &file,
        r#"{ "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2,
             "rms_norm_eps": 1e-5, "max_position_embeddings": 64, "tie_word_embeddings": true }"#,
    )
    .unwrap();
    let rows = |arguments: &[&str]| -> Value {
        let fixed = ["bench", "-p", "3", "-n", "0", "-r", "1", "-b", "2", "--json", "--shape"];
        serde_json::from_str(&CLI.ok(&[&fixed, arguments].concat())).unwrap()
    };
    let file = file.to_str().unwrap();
    let layer = (2 * 64 + 2 * 16) * 64 + 3 * 96 * 64 + 2 * 64;
    let weights = 100 * 64 + 2 * layer + 64;
    assert_eq!(number(&rows(&[file]), "weight_bytes"), 4 * weights);
    // As wide heads as before, a quarter of them for keys and values; the head is untied.
    let small = ["--layers", "2", "--width", "64", "--mlp", "96", "--heads", "8", "--vocab", "100"];
    let named = rows(&[&["llama-3.1-8b"], &small[..]].concat());
    assert_eq!(number(&named, "weight_bytes"), 4 * (weights + 100 * 64));
    let codes = rows(&[&["llama-3.2-1b"], &small[..4], &["--mlp", "128", "--bits", "4"]].concat());
    assert!(number(&codes, "weight_bytes") > 0 && number(&codes, "tokens") == 3, "{codes}");
    CLI.refuses(&["bench", "--shape", "llama-3.2-3b", "--state", "8"], &["--state", "Llambas"]);
}

#[test]
fn what_cannot_be_measured() {
    for (arguments, part) in [
        (&["-r", "0"][..], "from 1 to 10000"),
        (&["-b", "0"], "from 1 to 4096"),
        (&["-b", "1,5000"], "from 1 to 4096"),
        (&["-d", "2M"], "from 0 to 1M"),
        (&["-d", "-1"], "'-1'"),
        (&["-p", "1.5k"], "from 0 to 1M"),
        (&["-n", ""], "from 0 to 1M"),
        (&["--shape", "2b"], "1b, 3b, 8b, custom, llama-3.2-1b"),
        (&["--layers", "3"], "--shape"),
        (&["--bits", "4"], "--shape"),
        (&["--shape", "1b", "--model", "x"], "cannot be used with"),
        (&["--json", "--format", "csv"], "cannot be used with"),
    ] {
        let run = CLI.run(&[&["bench"], arguments].concat());
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}: {run:?}");
        assert!(run.err.contains(part), "{arguments:?}: {run:?}");
    }
    let fails = |arguments: &[&str], parts: &[&str]| {
        CLI.fails(&[&["bench"], arguments].concat(), parts);
    };
    let refuses = |arguments: &[&str], parts: &[&str]| {
        CLI.refuses(&[&["bench"], arguments].concat(), parts);
    };
    refuses(&["-p", "0", "-n", "0"], &["nothing to measure"]);
    refuses(&["--shape", "custom", "--layers", "2"], &["--width", "--layers"]);
    fails(
        &["--shape", "custom", "--layers", "2", "--width", "100", "--heads", "7"],
        &["--shape custom", "n_v_heads is 7"],
    );
    fails(&["--shape", "1b", "--bits", "7"], &["7 bits"]);
    // 200 billion weights.
    fails(&["--shape", "8b", "--layers", "1000"], &["random 8b", "does not fit", "GiB"]);
    fails(
        &["--shape", "1b", "--bits", "4", "--layers", "1", "-b", "4096"],
        &["batch of 4096", "GiB"],
    );
    fails(&["--plot", "/nowhere/x.svg"], &["/nowhere is not a directory"]);
    #[cfg(target_os = "linux")]
    fails(&["--device", "gpu", "--shape", "1b"], &["--device gpu"]);
}

#[test]
#[cfg(unix)]
fn an_interruption_keeps_what_was_measured() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("plot.svg");
    let long = ["-p", "2", "-n", "0", "-d", "0,1M", "-r", "1", "--format", "csv", "--plot"];
    let arguments = [&SHAPE[..], &long, &[plot.to_str().unwrap()]].concat();
    let mut child = CLI.spawn(&arguments, Stdio::null());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    assert!(line().starts_with("test,tokens,depth"));
    assert!(line().starts_with("read,2,0,1,1,"));
    signal(&child, "INT");
    assert_eq!(line(), "");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(130), ""));
    assert!(std::fs::read_to_string(&plot).unwrap().contains("\nread 2\n"));
}

/// Writes a Llama of 2 layers with 3 key/value heads of 8 and a context of 4k. Returns its directory.
fn teacher(directory: &Path) -> String {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlx-llamba-teacher/tests/fixtures/plain");
    let config = std::fs::read_to_string(fixture.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = 4096.into();
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(fixture.join("model.safetensors"), directory.join("model.safetensors")).unwrap();
    directory.to_str().unwrap().to_owned()
}

#[test]
fn a_teacher_is_measured_as_a_llamba_is_and_its_memory_grows_with_the_depth() {
    let directory = tempfile::tempdir().unwrap();
    let model = teacher(directory.path());
    let plot = directory.path().join("plot.svg");
    let bench = |arguments: &[&str]| -> Vec<Value> {
        let base = ["bench", "-m", &model, "-r", "2", "--json"];
        let out = CLI.ok(&[&base, arguments].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let sweep = ["-d", "0,2k,1k", "-b", "3,1", "-p", "100", "-n", "5", "--plot"];
    let rows = bench(&[&sweep[..], &[plot.to_str().unwrap()]].concat());
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row["test"].as_str().unwrap(), number(row, "depth"), number(row, "batch")))
        .collect();
    let mut expected = Vec::new();
    for (depth, before) in [(0, None), (1024, Some(0)), (2048, Some(1024))] {
        expected.extend(before.map(|before| ("fill", before, 1)));
        for batch in [3, 1] {
            expected.extend([("read", depth, batch), ("generate", depth, batch)]);
        }
    }
    assert_eq!(found, expected);
    for row in &rows {
        assert_eq!(row["model"], model.as_str());
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["time_to_first_token"].is_null(), row["test"] != "read", "{row}");
    }
    // The head has its own matrix, so a step does not read the embedding (23 x 12).
    let generated = rows.iter().find(|row| row["test"] == "generate").unwrap();
    let float = |name: &str| generated[name].as_f64().unwrap();
    let step = float("weight_bytes_per_second") / float("tokens_per_second_per_row");
    assert!((step - (float("weight_bytes") - 4.0 * 23.0 * 12.0)).abs() < 1e-6, "{generated}");

    // Keys and values per token of a row: 2 layers x 2 x 3 x 8 floats, held once.
    let token = 2 * 2 * 3 * 8 * 4;
    let active = |test: &str, depth: u64, batch: u64| {
        let has = |row: &&Value| number(row, "depth") == depth && number(row, "batch") == batch;
        let row = rows.iter().filter(has).find(|row| row["test"] == test).unwrap();
        number(row, "active_memory")
    };
    for test in ["read", "generate"] {
        let grown = active(test, 2048, 1) - active(test, 1024, 1);
        assert!(grown.abs_diff(1024 * token) < 100 * token, "{test}: {grown}");
        // Three rows, and the one that they continue.
        let grown = active(test, 2048, 3) - active(test, 1024, 3);
        assert!(grown.abs_diff(4 * 1024 * token) < 400 * token, "{test}: {grown}");
    }
    let plot = std::fs::read_to_string(&plot).unwrap();
    assert!(plot.contains("read 100, batch 3") && plot.contains("generate 5"), "{plot}");

    let refused = |arguments: &[&str], parts: &[&str]| {
        CLI.fails(&[&["bench", "-m", &model], arguments].concat(), parts);
    };
    refused(&["-d", "8k"], &["cannot measure", "end at 10240", "context ends at 4096", "--depth"]);
    refused(&["-d", "4k", "-p", "0", "-n", "1"], &["1 token at depth 4096 would end at 4097"]);
    refused(&["-d", "3k", "-b", "4k", "-p", "512"], &["batch of 4096 needs at least", "GiB"]);
    let last = bench(&["-d", "4090", "-p", "6", "-n", "0"]);
    assert_eq!((last.len(), number(&last[1], "depth")), (2, 4090));
}
