#!/usr/bin/env bash
# Installs the clients that the tests ask with: curl, h2load, Chromium from Debian (as root), Python's into ~/.cache/rockpool/clients.
set -euo pipefail
cd "$(dirname "$0")"
need=()
for tool in curl:curl h2load:nghttp2-client openssl:openssl chromium:chromium; do command -v "${tool%%:*}" >/dev/null || need+=("${tool##*:}"); done
if [ "${#need[@]}" -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "the tests ask with ${need[*]}: sudo apt-get install ${need[*]}" >&2
    exit 1
  fi
  echo "installing ${need[*]}" >&2
  apt-get update -qq && apt-get install -y -qq "${need[@]}" >/dev/null
fi
folder="${ROCKPOOL_CLIENTS:-$HOME/.cache/rockpool/clients}"
# Packages are of one Python: another one fetches its own.
wanted="$(python3 --version; cat requirements.txt)"
if [ "$wanted" != "$(cat "$folder/installed" 2>/dev/null)" ]; then
  echo "fetching what requirements.txt lists into $folder" >&2
  rm -rf "$folder.new"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$folder.new" -r requirements.txt
  printf '%s\n' "$wanted" >"$folder.new/installed"
  rm -rf "$folder" && mv "$folder.new" "$folder"
fi
