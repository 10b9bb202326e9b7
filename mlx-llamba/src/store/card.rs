//! The model card of a checkpoint written here.

use std::fmt::Write;

use super::rewrite::Job;
use crate::checkpoint::Checkpoint;

/// A short README in the form that model hubs expect.
pub(crate) fn card(job: &Job<'_>, written: &Checkpoint, bits_per_weight: f64) -> String {
    let config = written.config();
    let name = |path: &std::path::Path| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    };
    let (source, own) = (name(job.source.path()), name(job.output));
    let mut text = String::from("---\nlibrary_name: mlx-llamba\ntags: [llamba, mlx]\n---\n");
    let _ = writeln!(text, "# {own}\n\n{} `{source}`.\n", job.made_from);
    let _ = writeln!(
        text,
        "A Llamba of {} layers, width {}, {} heads of {} with a state of {}; {:.2} bits per weight.",
        config.n_layer,
        config.d_model,
        config.ssm.n_v_heads,
        config.dims().p,
        config.ssm.d_state,
        bits_per_weight
    );
    if let Some(block) = &config.quantization {
        let _ = writeln!(
            text,
            "Matrices are quantized to {} bits in groups of {} ({}){}.",
            block.scheme.bits,
            block.scheme.group_size,
            block.scheme.mode,
            if block.overrides.is_empty() {
                ""
            } else {
                ", some of them otherwise: see config.json"
            }
        );
    }
    if config.split_a_log {
        text.push_str(
            "The rows of `in_proj` that decide how fast the state decays are kept dense, as \
             `mixer.A_log_proj.weight`.\n",
        );
    }
    let _ = write!(text, "\n```sh\nmlx-llamba generate --model {own} \"Once upon a time\"\n```\n");
    text
}
