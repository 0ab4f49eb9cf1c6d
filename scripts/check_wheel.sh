#!/usr/bin/env bash
# Build the wheel, install it with its runtime dependencies only in a clean environment, outside the checkout, and use it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/src" && cd "$root" && git ls-files -z --cached --others --exclude-standard -- spectramind configs schemas nbs/runs setup.py settings.ini pyproject.toml README.md LICENSE | xargs -0 cp --parents -t "$tmp/src"
python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -w "$tmp" "$tmp/src"
python -m venv "$tmp/env"
index=$(python -m pip config get global.index-url 2>/dev/null || true); index=${PIP_INDEX_URL:-$index}
if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$index; fi
fast() { command -v uv >/dev/null && uv pip install -q --system-certs -p "$tmp/env/bin/python" --no-deps --require-hashes -r requirements-runtime.lock; }
fast || "$tmp/env/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-runtime.lock
"$tmp/env/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-index "$tmp"/spectramind-*.whl
"$tmp/env/bin/python" -m pip check
cd "$tmp"
env -i HOME="$tmp" PATH="$tmp/env/bin:/usr/bin:/bin" "$tmp/env/bin/python" "$root/scripts/use_wheel.py" "$root"
for words in --version "config lint" selftest "doctor --fail-on-mismatch"; do env -i HOME="$tmp" PATH="$tmp/env/bin:/usr/bin:/bin" spectramind $words; done
