# scripts/installers writes the version and the checksums. The result is a file of a tap.
class MlxLlamba < Formula
  desc "Generate with, serve, quantize and distill Llamba language models"
  homepage "https://github.com/mlx-llamba/mlx-llamba"
  version "@VERSION@"
  license any_of: ["MIT", "Apache-2.0"]

  on_macos do
    depends_on arch: :arm64
    depends_on macos: :sonoma
    url "@URL@/mlx-llamba-@VERSION@-aarch64-apple-darwin.tar.gz"
    sha256 "@SHA256:aarch64-apple-darwin@"
  end

  on_linux do
    on_intel do
      url "@URL@/mlx-llamba-@VERSION@-x86_64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256:x86_64-unknown-linux-gnu@"
    end
    on_arm do
      url "@URL@/mlx-llamba-@VERSION@-aarch64-unknown-linux-gnu.tar.gz"
      sha256 "@SHA256:aarch64-unknown-linux-gnu@"
    end
  end

  # The command finds MLX beside itself. Changed names would break the libraries' signatures.
  preserve_rpath

  def install
    libexec.install "bin", "lib", "licenses"
    bin.install_symlink libexec/"bin/mlx-llamba"
    man1.install Dir["share/man/man1/*.1"]
    bash_completion.install "share/bash-completion/completions/mlx-llamba"
    zsh_completion.install "share/zsh/site-functions/_mlx-llamba"
    fish_completion.install "share/fish/vendor_completions.d/mlx-llamba.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/mlx-llamba --version")
    assert_match "Once upon", shell_output("#{bin}/mlx-llamba generate --echo --max-tokens 4 'Once upon'")
  end
end
