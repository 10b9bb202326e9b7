#!/bin/sh
# Installs the mlx-llamba command for the user who runs this, or removes it again. Needs no root, no
# compiler and no Xcode. scripts/installers writes the version and the checksums.
set -eu

usage='usage: install.sh [OPTIONS]

Options:
  --prefix DIR    install into DIR/bin and DIR/share (default: ~/.local)
  --cuda          take the archive for NVIDIA GPUs (Linux on x86-64)
  --archive FILE  take this archive instead of downloading one
  --uninstall     remove what was installed into the prefix
'
version=@VERSION@
# The SHA-256 of each archive.
sums='
@SHA256:aarch64-apple-darwin@ aarch64-apple-darwin
@SHA256:x86_64-unknown-linux-gnu@ x86_64-unknown-linux-gnu
@SHA256:aarch64-unknown-linux-gnu@ aarch64-unknown-linux-gnu
@SHA256:x86_64-unknown-linux-gnu-cuda@ x86_64-unknown-linux-gnu-cuda
'
# A mirror holds the same archives.
url=${MLX_LLAMBA_URL:-@URL@}

say() { printf '%s\n' "$*"; }
die() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

download() {
  if have curl; then
    curl --fail --location --silent --show-error --retry 3 --output "$2" "$1"
  elif have wget; then
    wget --quiet --tries 3 --output-document "$2" "$1"
  else
    die "curl or wget is needed"
  fi || die "cannot download $1"
}

sha256() {
  if have sha256sum; then
    sha256sum "$1"
  elif have shasum; then
    shasum -a 256 "$1"
  else
    openssl dgst -sha256 -r "$1"
  fi | cut -d ' ' -f 1
}

# Prints the name of this machine's archive.
target() {
  case $(uname -s)-$(uname -m) in
    Darwin-arm64)
      [ "$(sw_vers -productVersion | cut -d . -f 1)" -ge 14 ] || die "macOS 14 or later is needed"
      echo aarch64-apple-darwin
      ;;
    Darwin-*) die "only Macs with Apple silicon are supported" ;;
    Linux-x86_64) echo x86_64-unknown-linux-gnu ;;
    Linux-aarch64 | Linux-arm64) echo aarch64-unknown-linux-gnu ;;
    *) die "there is no archive for $(uname -s) on $(uname -m)" ;;
  esac
}

# Removes the links, the files, and the directories that were made for them.
uninstall() {
  [ -f "$place/installed" ] || die "nothing is installed in $prefix"
  list=$(cat "$place/installed")
  rm -rf "$place"
  printf '%s\n' "$list" | while read -r kind path; do
    case $kind in
      link) case $(readlink "$path") in "$place"/*) rm "$path" ;; esac ;;
      directory) rmdir "$path" 2>/dev/null || true ;; # others may use it now
    esac
  done
}

# note LINE: puts a line before those for `uninstall`, so that directories follow what is in them.
note() {
  { printf '%s\n' "$1"; cat "$notes"; } >"$notes.new"
  mv "$notes.new" "$notes"
}

# directory DIR: makes a directory and its parents, if they are missing.
directory() {
  [ -d "$1" ] && return
  directory "$(dirname "$1")"
  mkdir "$1"
  note "directory $1"
}

# link FILE DIR: links to an installed file.
link() {
  directory "$2"
  path=$2/$(basename "$1")
  # Never replaces anything but a link.
  if [ -e "$path" ] && [ ! -L "$path" ]; then
    say "$path exists and is kept"
    return
  fi
  ln -sf "$1" "$path"
  note "link $path"
}

main() {
  prefix=$HOME/.local archive='' cuda='' remove=''
  while [ $# -gt 0 ]; do
    case $1 in
      --prefix) prefix=${2:?--prefix needs a directory} && shift ;;
      --archive) archive=${2:?--archive needs a file} && shift ;;
      --cuda) cuda=-cuda ;;
      --uninstall) remove=1 ;;
      -h | --help) printf '%s' "$usage" && exit ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
  place=$prefix/share/mlx-llamba
  if [ -n "$remove" ]; then
    uninstall
    say "removed mlx-llamba from $prefix"
    exit
  fi

  name=$(target)$cuda
  sum=$(printf '%s' "$sums" | sed -n "s/ $name\$//p")
  case $sum in '' | missing) die "this release has no archive for $name" ;; esac
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM
  if [ -z "$archive" ]; then
    archive=$work/archive.tar.gz
    say "downloading mlx-llamba $version for $name"
    download "$url/mlx-llamba-$version-$name.tar.gz" "$archive"
  fi
  found=$(sha256 "$archive")
  [ "$found" = "$sum" ] || die "the archive has the SHA-256 $found, expected $sum; nothing was installed"

  mkdir "$work/unpacked"
  tar -xzf "$archive" -C "$work/unpacked"
  "$work/unpacked/mlx-llamba-$version-$name/bin/mlx-llamba" --version >/dev/null ||
    die "the command does not run here. It $(sed -n 's/.*\(Needs .*\)/\1/p' "$work/unpacked"/*/README | tr N n)"

  [ ! -f "$place/installed" ] || uninstall
  notes=$work/notes
  : >"$notes"
  directory "$prefix/share"
  # A copy first, because the temporary directory may be on another disk.
  rm -rf "$place.new"
  cp -R "$work/unpacked/mlx-llamba-$version-$name" "$place.new"
  rm -rf "$place"
  mv "$place.new" "$place"
  link "$place/bin/mlx-llamba" "$prefix/bin"
  for page in "$place"/share/man/man1/*.1; do link "$page" "$prefix/share/man/man1"; done
  link "$place/share/bash-completion/completions/mlx-llamba" "$prefix/share/bash-completion/completions"
  link "$place/share/zsh/site-functions/_mlx-llamba" "$prefix/share/zsh/site-functions"
  link "$place/share/fish/vendor_completions.d/mlx-llamba.fish" "$prefix/share/fish/vendor_completions.d"
  cp "$notes" "$place/installed"

  say "installed $("$prefix/bin/mlx-llamba" --version) in $prefix"
  case :$PATH: in
    *":$prefix/bin:"*) say 'try: mlx-llamba generate "Once upon a time"' ;;
    *) say "add it to your PATH: export PATH=\"$prefix/bin:\$PATH\"" ;;
  esac
}

# At the end, so that a script cut short by the network does nothing.
main "$@"
