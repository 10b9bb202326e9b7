//! Runs the `mlx-llamba` command as a user does, without a network.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The command. Only tests of its own package know its path, as `CARGO_BIN_EXE_mlx-llamba`.
#[derive(Debug, Clone, Copy)]
pub struct Cli(pub &'static str);

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Cli {
    /// Returns the command with `args`, an unreachable hub and an empty cache.
    pub fn command(self, args: &[&str]) -> Command {
        let mut command = Command::new(self.0);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("HF_") || text.to_ascii_lowercase().ends_with("_proxy") {
                command.env_remove(&name);
            }
        }
        command
            .args(args)
            .env("HF_ENDPOINT", "http://127.0.0.1:1")
            .env("HF_HOME", "/proc/nowhere")
            .env("MLX_LLAMBA_CONFIG", "/dev/null")
            .stdin(Stdio::null());
        listens_to_interrupts(&mut command);
        command
    }

    /// Runs it to the end.
    pub fn run(self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Runs it and returns its standard output. Panics if it fails or writes to standard error.
    pub fn ok(self, args: &[&str]) -> String {
        let run = self.run(args);
        assert!(run.code == Some(0) && run.err.is_empty(), "{args:?}: {run:?}");
        run.out
    }

    /// Runs a command that must fail. Returns its one line of error, which contains all `parts`.
    pub fn fails(self, args: &[&str], parts: &[&str]) -> String {
        self.run(args).fails(parts)
    }

    /// Runs it with arguments that are impossible: see [`Run::is_refused`].
    pub fn refuses(self, args: &[&str], parts: &[&str]) -> String {
        self.run(args).is_refused(parts)
    }

    /// Runs it with `input` on standard input.
    pub fn with_input(self, args: &[&str], input: &[u8]) -> Run {
        let mut child = self.spawn(args, Stdio::piped());
        let mut stdin = child.stdin.take().expect("a pipe");
        // A command may stop reading early.
        let _ = stdin.write_all(input);
        drop(stdin);
        Run::from(child.wait_with_output().expect("it ends"))
    }

    /// Starts it with piped output.
    pub fn spawn(self, args: &[&str], stdin: Stdio) -> Child {
        let mut command = self.command(args);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the command starts")
    }
}

impl Run {
    /// Runs a command to the end.
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().expect("the command starts"))
    }

    /// Asserts a failure with one line on standard error that contains all `parts`, and no output.
    pub fn fails(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.says(parts)
    }

    /// The same for impossible arguments, which have a status of their own.
    pub fn is_refused(self, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(2), "{self:?}");
        self.says(parts)
    }

    fn says(self, parts: &[&str]) -> String {
        assert!(self.err.starts_with("error: ") && self.err.lines().count() == 1, "{self:?}");
        assert!(!self.err.contains("panicked") && !self.err.contains("at path"), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is missing: {self:?}");
        }
        assert_eq!(self.out, "", "{self:?}");
        self.err
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// Runs a command under limits of the shell's `ulimit`, such as `-v 100000`, and ends it with a signal
/// after 30 seconds.
pub fn limited(command: &Command, limits: &str) -> Run {
    let mut shell = Command::new("bash");
    let script = format!("ulimit -c 0; ulimit {limits} && exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().expect("a shell");
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Run::from(child.wait_with_output().expect("it has ended"))
}

/// Lets a command notice Ctrl-C also where these tests run in the background of a shell.
fn listens_to_interrupts(command: &mut Command) {
    // SAFETY: between fork and exec only a system call is made, which may be made there.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
}

/// Sends a signal, by its short name, to a process of this test.
pub fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
    assert!(status.success(), "{kill}");
}

/// Waits until another process has done something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lists the names in a directory, including hidden ones.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Writes a checkpoint of 60 million zeros as a sparse file: work for a second or more.
pub fn large_model(directory: &Path) {
    let config = serde_json::json!({
        "model_type": "llamba", "vocab_size": 2048, "tie_embeddings": true, "d_model": 512,
        "n_layer": 18, "norm_epsilon": 1e-5,
        "mlp_cfg": { "intermediate_size": 1536, "bias": false, "act_fn": "silu" },
        "ssm_cfg": { "d_state": 16, "n_v_heads": 8, "n_qk_heads": 8, "expand": 1,
            "chunk_size": 128, "activation": "identity", "bias": false },
    });
    std::fs::write(directory.join("config.json"), config.to_string()).expect("written");
    let mut tensors = vec![("embedding.weight".to_owned(), vec![2048, 512])];
    for i in 0..18 {
        let layer = |name: &str, shape: &[usize]| (format!("layers.{i}.{name}"), shape.to_vec());
        tensors.extend([
            layer("input_layernorm.weight", &[512]),
            layer("post_attention_layernorm.weight", &[512]),
            layer("mixer.in_proj.weight", &[512 + 256 + 512 + 8, 512]),
            layer("mixer.conv1d.weight", &[768, 1, 4]),
            layer("mixer.conv1d.bias", &[768]),
            layer("mixer.z_bias", &[512]),
            layer("mixer.D", &[8]),
            layer("mixer.out_proj.weight", &[512, 512]),
            layer("mlp.gate_proj.weight", &[1536, 512]),
            layer("mlp.up_proj.weight", &[1536, 512]),
            layer("mlp.down_proj.weight", &[512, 1536]),
        ]);
    }
    tensors.push(("final_layernorm.weight".to_owned(), vec![512]));
    let mut end = 0;
    let header: serde_json::Map<_, _> = tensors
        .into_iter()
        .map(|(name, shape)| {
            let start = end;
            end += 4 * shape.iter().product::<usize>();
            let info = serde_json::json!({
                "dtype": "F32", "shape": shape, "data_offsets": [start, end]
            });
            (format!("backbone.{name}"), info)
        })
        .collect();
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::fs::File::create(directory.join("model.safetensors")).expect("created");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len((8 + header.len() + end) as u64).expect("a sparse file");
}
