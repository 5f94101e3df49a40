#!/bin/sh
# What `make bench-peers` runs: sees to it that the peers are here (from Debian as root, from PyPI into ~/.cache/rockpool/bench),
# builds the benchmark, and measures. Arguments go to the benchmark.
set -eu
cd "$(dirname "$0")/../.."

missing=""
for tool in nginx:nginx-light varnishd:varnish hitch:hitch redis-server:redis-server setpriv:util-linux; do
    command -v "${tool%%:*}" >/dev/null || [ -x "/usr/sbin/${tool%%:*}" ] || missing="$missing ${tool##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: the peers are not here; as root: apt-get install$missing" >&2
        exit 1
    fi
    echo "installing Debian's$missing …"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    # Debian starts them as services; the benchmark starts its own, and those only share the cores with it.
    for package in $missing; do
        systemctl disable --now --quiet "${package%-light}" 2>/dev/null || true
    done
fi
# Where Debian keeps servers; not in everybody's PATH.
PATH="$PATH:/usr/sbin"

# Packages are of one Python: another one fetches its own.
python="${ROCKPOOL_BENCH:-$HOME/.cache/rockpool/bench}/python"
wanted="$(python3 --version; cat tests/bench/fastapi/requirements.txt)"
if [ "$wanted" != "$(cat "$python/installed" 2>/dev/null)" ]; then
    echo "fetching what tests/bench/fastapi/requirements.txt lists into $python …"
    rm -rf "$python.new"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-warn-conflicts \
        --only-binary :all: --target "$python.new" -r tests/bench/fastapi/requirements.txt
    printf '%s\n' "$wanted" >"$python.new/installed"
    rm -rf "$python" && mv "$python.new" "$python"
fi

# Beside the nodes' binary, where it looks for it.
target="${CARGO_TARGET_DIR:-target}"
cargo build --manifest-path tests/bench/Cargo.toml --bin bench-peers --target-dir "$target"
exec "$target/debug/bench-peers" --python "$python" "$@"
