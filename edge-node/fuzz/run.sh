#!/usr/bin/env bash
# Fuzzes what an edge node reads of what strangers send, each target for a bounded time: ./run.sh [seconds, 60] [target …, all].
# Needs a C++ compiler for libFuzzer; no nightly and no cargo-fuzz, as LLVM's coverage pass can be asked for on stable. The first
# build takes minutes: it is the whole node. Begins with seeds/; what it learns stays in corpus/, and an input that breaks
# something in artifacts/ (run the binary with that file to see it again).
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || for target in fuzz_targets/*.rs; do targets+=("$(basename "$target" .rs)"); done
host=$(rustc -vV | sed -n 's/^host: //p')
# A folder of its own beside the others' builds: these flags are for nobody else.
export CARGO_TARGET_DIR=$HOME/.cache/rockpool/fuzz

# What cargo-fuzz passes, but for a sanitizer: the code under test is safe Rust.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
RUSTFLAGS="--cfg fuzzing ${coverage//$'\n'/ }" cargo build --release --target "$host" "${targets[@]/#/--bin=}"
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -rss_limit_mb=512 -max_len=8192 -timeout=5 \
        -print_final_stats=1 -dict=words.dict -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target"
done
