//! `mlx-llamba completions`

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  mlx-llamba completions zsh > ~/.zfunc/_mlx-llamba")]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "mlx-llamba", &mut script);
        crate::output::show(&String::from_utf8_lossy(&script))
    }
}
