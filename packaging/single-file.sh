#!/bin/sh
# mlx-llamba in one file: this script, followed by an archive, which the first start unpacks.
# scripts/installers writes the version and the checksum.
set -eu
place=${MLX_LLAMBA_UNPACKED:-${XDG_DATA_HOME:-$HOME/.local/share}/mlx-llamba-single}/@NAME@-@SUM@
if [ ! -x "$place/bin/mlx-llamba" ]; then
  mkdir -p "$(dirname "$place")"
  new=$(mktemp -d "$place.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  tail -n +@LINES@ "$0" | tar -xzf - -C "$new" ||
    { echo "mlx-llamba: the file is damaged, or there is no room in $(dirname "$place")" >&2; exit 1; }
  # Another first start may have been faster.
  [ -x "$place/bin/mlx-llamba" ] || mv "$new/@NAME@" "$place"
  rm -rf "$new"
  trap - EXIT
fi
exec "$place/bin/mlx-llamba" "$@"
