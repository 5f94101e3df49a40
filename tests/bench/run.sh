#!/bin/sh
# What `make bench-raft` runs: builds the benchmark, sees to it that etcd is here, and measures. Arguments go to the benchmark.
set -eu
cd "$(dirname "$0")/../.."

if ! command -v etcd >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: etcd is not here; as root: apt-get install etcd-server" >&2
        exit 1
    fi
    echo "installing Debian's etcd …"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-server >/dev/null
fi

# Beside the nodes' binary, where it looks for it.
target="${CARGO_TARGET_DIR:-target}"
cargo build --manifest-path tests/bench/Cargo.toml --bin bench-raft --target-dir "$target"
exec "$target/debug/bench-raft" "$@"
