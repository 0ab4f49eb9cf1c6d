#!/usr/bin/env bash
# browser.sh: see that there is a Chromium for the browser tests; where there is none, and Debian's package manager may be used, install it.
set -euo pipefail
find_one() {
  [ -n "${SPECTRAMIND_CHROMIUM:-}" ] && [ -x "$SPECTRAMIND_CHROMIUM" ] && { echo "$SPECTRAMIND_CHROMIUM"; return; }
  for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v "$name" && return; done
  return 1
}
if ! find_one >/dev/null; then
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "browser: none found, installing Debian's chromium" >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null 2>&1 || true
    apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null
  else
    echo "browser: found none, wanted Chromium: install chromium, or set SPECTRAMIND_CHROMIUM=/path/to/it" >&2
    exit 3
  fi
fi
echo "browser: $(find_one)"
