# shellcheck shell=bash
# shellcheck disable=SC2034 # used by the scripts that source this
# Shared by the scripts here: paths, messages, the toolchain. To be sourced.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}" 2>/dev/null || echo "${CARGO_TARGET_DIR:-$root/target}")
export CARGO_TARGET_DIR=$target_dir

say() { printf '%s\n' "== $*" >&2; }
die() {
  printf '%s\n' "${0##*/}: $*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# use_target_dir DIR: builds in another directory, with the same downloads.
use_target_dir() {
  export CARGO_TARGET_DIR=$1 MLX_LLAMBA_CACHE=${MLX_LLAMBA_CACHE:-$target_dir/mlx-cache}
}

# usage TEXT "$@": prints TEXT and ends when help is asked for.
usage() {
  case ${2:-} in -h | --help)
    printf 'usage: %s\n' "$1"
    exit 0
    ;;
  esac
}

# sha256 FILE: prints its SHA-256.
sha256() { if have sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1; }

# Prints the version of the packages.
package_version() { sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml"; }

# apt_packages NAMES...: installs Debian packages.
apt_packages() {
  have apt-get || die "apt-get is missing; install the equivalent of these Debian packages: $*"
  local as_root=() install
  if ((EUID != 0)); then
    have sudo || die "as root, run: apt-get update && apt-get install $*"
    as_root=(sudo)
  fi
  say "installing $*"
  install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@")
  "${install[@]}" >/dev/null 2>&1 || {
    "${as_root[@]}" apt-get update -qq && "${install[@]}" >/dev/null
  } || die "apt-get could not install $*"
}

# Uses the toolchain of rust-toolchain.toml: an installed one, or one from rustup's servers or, if these
# cannot be reached, the same version under another name.
use_toolchain() {
  have cargo || die "cargo is missing. Install Rust (rustup), then run this again."
  cd "$root" || exit
  RUSTUP_AUTO_INSTALL=0 cargo --version >/dev/null 2>&1 && return
  have rustup || die "$(cargo --version 2>&1)"
  local pinned name
  pinned=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
  say "installing Rust $pinned"
  rustup toolchain install "$pinned" --profile minimal -c clippy -c rustfmt >/dev/null 2>&1 && return
  for name in $(rustup toolchain list | sed 's/ .*//'); do
    if [[ $(rustup run "$name" rustc --version 2>/dev/null) == "rustc $pinned "* ]]; then
      say "rustup cannot download it; this directory uses the toolchain $name, which is the same version"
      rustup override set "$name" --path "$root" >/dev/null 2>&1
      return
    fi
  done
  die "Rust $pinned could not be installed. Try: rustup toolchain install $pinned"
}

# python_packages DIR REQUIREMENTS: unpacks wheels pinned by hash into DIR, completely or not at all.
python_packages() {
  [[ -d $1 ]] && return
  have python3 || die "python3 is missing. Run scripts/setup."
  say "downloading $(sed -n 's/==.*//p' "$2" | paste -sd ' ' -)"
  rm -rf "$1.part"
  PIP_USER=0 python3 -m pip install --quiet --no-input --no-compile --disable-pip-version-check \
    --root-user-action=ignore --no-deps --only-binary=:all: --require-hashes \
    --requirement "$2" --target "$1.part" || die "pip could not install $2. Run scripts/setup, and check that the package registry is reachable."
  mv "$1.part" "$1"
}

# build_command CARGO-ARGS...: builds the command with the profile PACKAGE_PROFILE, by default release.
# Prints its path and, on a second line, the directory of the libmlx it was linked with, as the build
# script of mlx-sys reports it.
build_command() {
  cargo build --profile "${PACKAGE_PROFILE:-release}" --locked -p mlx-llamba-cli "$@" --message-format json-render-diagnostics | python3 -c '
import json, os, sys
executable = libraries = None
for message in map(json.loads, sys.stdin):
    executable = message.get("executable") or executable
    if message["reason"] == "build-script-executed":
        paths = [path.removeprefix("native=") for path in message["linked_paths"]]
        libraries = next((path for path in paths if os.path.exists(f"{path}/mlx.metallib")
            or os.path.exists(f"{path}/libmlx.so")), libraries)
if not executable or not libraries:
    sys.exit(1)
print(executable, os.path.realpath(libraries), sep="\n")'
}

# build_bindings: builds the library of mlx-llamba-bindings with the command, whose build it shares with
# scripts/package. Prints its path and, on a second line, the directory of libmlx.
build_bindings() {
  local built suffix=so
  [[ $(uname -s) != Darwin ]] || suffix=dylib
  built=$(MLX_LLAMBA_RELOCATABLE=1 MACOSX_DEPLOYMENT_TARGET=14.0 build_command -p mlx-llamba-bindings --bin mlx-llamba --lib)
  echo "$(dirname "$(head -n 1 <<<"$built")")/libmlx_llamba_native.$suffix"
  tail -n 1 <<<"$built"
}

# bindings LIBRARY LANGUAGE DIR: writes the sources for python or swift.
bindings() {
  local tools=$target_dir/ci/wheel
  python_packages "$tools" "$root/scripts/wheel.txt"
  "$tools/bin/uniffi-bindgen" generate --library "$1" --language "$2" --no-format --out-dir "$3" >/dev/null
}

# system_libraries FILE DIR LICENSES: copies to DIR the libraries of the system that FILE loads, with their
# licenses, except for those that every such system has.
system_libraries() {
  local library package notice
  while read -r library; do
    # Those in DIR are there already.
    [[ ! $library -ef $2/${library##*/} ]] || continue
    cp -L "$library" "$2/"
    package=$(dpkg -S "$(readlink -f "$library")" 2>/dev/null | head -n 1 | cut -d : -f 1) || true
    notice=/usr/share/doc/$package/copyright
    [[ -n $package && -f $notice ]] || die "no license found for $library"
    cp -L "$notice" "$3/$package.txt"
  done < <(ldd "$1" | awk '$3 ~ /^\// { print $3 }' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so')
}

# glibc_needed DIR: prints the oldest version of glibc that the programs and libraries in DIR run with.
glibc_needed() {
  find "$1" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec objdump -T {} + |
    grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | cut -d _ -f 2
}

# cuda_root: downloads MLX for CUDA with NVIDIA's libraries, if they are missing. Prints their directory.
cuda_root() {
  cargo build --quiet --locked -p mlx-sys --features cuda --message-format json-render-diagnostics | python3 -c '
import json, os, sys
key = "cargo::metadata=cuda="
root = None
for message in map(json.loads, sys.stdin):
    if message["reason"] == "build-script-executed" and "mlx-sys" in message["package_id"]:
        with open(os.path.join(os.path.dirname(message["out_dir"]), "output")) as output:
            root = next((line[len(key):].strip() for line in output if line.startswith(key)), root)
print(root) if root else sys.exit(1)' || die "MLX for CUDA could not be installed"
}
