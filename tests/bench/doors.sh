#!/bin/sh
# What `make bench-doors` runs: builds the benchmark, and measures a node under overload and with hostile connections at its doors.
# The nodes' binaries must be beside it. Arguments go to the benchmark.
set -eu
cd "$(dirname "$0")/../.."

command -v taskset >/dev/null || { echo "error: taskset is not here; as root: apt-get install util-linux" >&2; exit 1; }
# Both the node and the generator hold 10,000 connections; root may raise the limit for both.
wanted=32768
if [ "$(ulimit -Hn)" != unlimited ] && [ "$(ulimit -Hn)" -lt "$wanted" ]; then
    ulimit -Hn "$wanted" 2>/dev/null || echo "at most $(ulimit -Hn) open files" >&2
fi
ulimit -Sn "$(ulimit -Hn)"

target="${CARGO_TARGET_DIR:-target}"
cargo build --manifest-path tests/bench/Cargo.toml --bin bench-doors --target-dir "$target"
exec "$target/debug/bench-doors" "$@"
