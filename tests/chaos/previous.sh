#!/usr/bin/env bash
# Builds the edge-node of an earlier commit, once, and prints where it is: what rolling upgrades start from.
#   tests/chaos/previous.sh [COMMIT]      without one: the last tag, or else the commit before the present one
# Fails, and says why, where there is no history (a tarball): without --previous rockpool-chaos upgrades from the present binary to itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
git rev-parse --git-dir >/dev/null 2>&1 || { echo "no git history here: there is no previous binary" >&2; exit 1; }
commit=$(git rev-parse --verify --quiet "${1:-$(git describe --tags --abbrev=0 2>/dev/null || echo 'HEAD^')}^{commit}") || {
  echo "no such commit: there is no previous binary" >&2
  exit 1
}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
binary=$target/previous/edge-node-${commit:0:12}
if [ ! -x "$binary" ]; then
  tree=$target/previous/tree-${commit:0:12}
  mkdir -p "$target/previous"
  # A worktree shows up in `git worktree list` until it is removed; it is, whatever happens.
  trap 'git worktree remove --force "$tree" >/dev/null 2>&1 || true' EXIT
  git worktree add --detach --force "$tree" "$commit" >&2
  # The same target folder: what others wrote is built already. `cargo build` puts the present binary back in its place.
  (cd "$tree" && CARGO_TARGET_DIR=$target cargo build -p edge-node --bins >&2)
  cp "$target/debug/edge-node" "$binary.part"
  mv "$binary.part" "$binary"
fi
echo "$binary"
