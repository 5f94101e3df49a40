#!/usr/bin/env bash
# Fuzzes proto's decoders for a bounded time: ./run.sh [seconds, 60]. Needs a C++ compiler for libFuzzer; no nightly and
# no cargo-fuzz, as LLVM's coverage pass can be asked for on stable. Begins with the golden bytes; what it learns stays in
# corpus/, and an input that breaks a decoder in artifacts/ (run the binary with that file to see it again).
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/$host/release

mkdir -p corpus/decode artifacts/decode
while IFS=': ' read -r name hex; do
    case $name in '#'* | '') continue ;; esac
    # The stored forms have no header; the first byte says which one is tried, as in fuzz_targets/decode.rs.
    case $name in
    Manifest*) hex=0000000001$hex ;;
    SignedManifest*) hex=0100000001$hex ;;
    Profile*) hex=0200000001$hex ;;
    Command*) hex=030000000101$hex ;;
    Event*) hex=0400000001$hex ;;
    esac
    # shellcheck disable=SC2059 # the format is the bytes
    printf "$(sed 's/../\\x&/g' <<<"$hex")" >"corpus/decode/$name"
done <../tests/it/golden.txt

# What cargo-fuzz passes, but for a sanitizer: the code under test is safe Rust.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
RUSTFLAGS="--cfg fuzzing ${coverage//$'\n'/ }" cargo build --release --target "$host" --bin decode
"$folder/decode" -max_total_time="$seconds" -rss_limit_mb=512 -max_len=8192 -timeout=5 -print_final_stats=1 \
    -artifact_prefix=artifacts/decode/ corpus/decode
