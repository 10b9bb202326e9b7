//! The model card of a checkpoint written here.

use std::fmt::Write;
use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::units::count;

/// A short README, as model hubs expect one, for a checkpoint that will be called `output`.
pub(super) fn card(made_from: &str, source: &Path, output: &Path, written: &Checkpoint) -> String {
    let config = written.config();
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (source, own) = (name(source), name(output));
    let mut text = String::from("---\nlibrary_name: mlx-llamba\ntags: [llamba, mlx]\n---\n");
    let _ = writeln!(text, "# {own}\n\n{made_from} `{source}`.\n");
    let _ = writeln!(
        text,
        "A Llamba of {}, width {}, {} of {} with a state of {}; {:.2} bits per weight.",
        count(config.n_layer as u64, "layer"),
        config.d_model,
        count(config.ssm.n_v_heads as u64, "head"),
        config.dims().p,
        config.ssm.d_state,
        written.bits_per_weight()
    );
    if let Some(block) = &config.quantization {
        let _ = writeln!(
            text,
            "Matrices are quantized to {} bits in groups of {} ({}){}.",
            block.scheme.bits,
            block.scheme.group_size,
            block.scheme.mode,
            if block.overrides.is_empty() { "" } else { ", with exceptions: see config.json" }
        );
    }
    if config.split_a_log {
        text.push_str(
            "The rows of `in_proj` that give the state's decay (`A_log`) are dense, in \
             `mixer.A_log_proj.weight`.\n",
        );
    }
    let _ = write!(text, "\n```sh\nmlx-llamba generate --model {own} \"Once upon a time\"\n```\n");
    text
}
