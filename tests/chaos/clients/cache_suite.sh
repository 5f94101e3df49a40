#!/usr/bin/env bash
# Fetches the public suite for HTTP caches (npm: http-cache-tests) where it is missing, and says where it lies.
set -euo pipefail
folder="${ROCKPOOL_CLIENTS:-$HOME/.cache/rockpool/clients}/../cache-suite"
if ! command -v npm >/dev/null; then
  if [ "$(id -u)" != 0 ]; then
    echo "the suite is fetched with npm: sudo apt-get install npm" >&2
    exit 1
  fi
  echo "installing npm" >&2
  apt-get update -qq && apt-get install -y -qq --no-install-recommends npm >/dev/null
fi
if [ ! -e "$folder/node_modules/http-cache-tests/cli.mjs" ]; then
  echo "fetching http-cache-tests into $folder" >&2
  # Not its own dependencies: a whole npm is among them.
  rm -rf "$folder.new"
  mkdir -p "$folder.new"
  npm install --silent --no-audit --no-fund --prefix "$folder.new" node-fetch@2 liquidjs@9 >/dev/null
  (cd "$folder.new" && npm pack --silent http-cache-tests@0.4.5 >/dev/null)
  mkdir "$folder.new/node_modules/http-cache-tests"
  tar xzf "$folder.new/http-cache-tests-0.4.5.tgz" --strip-components 1 -C "$folder.new/node_modules/http-cache-tests"
  rm -rf "$folder" && mv "$folder.new" "$folder"
fi
realpath "$folder"
