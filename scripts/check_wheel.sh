#!/usr/bin/env bash
# Build the wheel, install it with its runtime dependencies only in a clean environment, outside the checkout, and use it.
# PYTHON: the interpreter of that environment (PYTHON=python3.12 bash scripts/check_wheel.sh).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/src" && cd "$root" && git ls-files -z --cached --others --exclude-standard -- spectramind configs schemas nbs/runs setup.py settings.ini pyproject.toml README.md LICENSE | xargs -0 cp --parents -t "$tmp/src"
python -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation --no-index -w "$tmp" "$tmp/src"
"$python" -m venv "$tmp/env"
index=$(python -m pip config get global.index-url 2>/dev/null || true); index=${PIP_INDEX_URL:-$index}
if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$index; fi
fast() { command -v uv >/dev/null && uv pip install -q --system-certs -p "$tmp/env/bin/python" --no-deps --require-hashes -r requirements-runtime.lock; }
fast || "$tmp/env/bin/python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements-runtime.lock
"$tmp/env/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-index "$tmp"/spectramind-*.whl
"$tmp/env/bin/python" -m pip check
cd "$tmp"
alone() { env -i HOME="$tmp" PATH="$tmp/env/bin:/usr/bin:/bin" "$@"; }
alone "$tmp/env/bin/python" "$root/scripts/use_wheel.py" "$root"
for words in --version "config lint" selftest "doctor --fail-on-mismatch"; do alone spectramind $words; done

# A tiny sky, from raw counts to a valid submission. Compiling every kernel anew would take a minute, so numba is switched off here
# (the doctor, above, has compiled and compared them); the bytes would be the same.
quick() { alone env SPECTRAMIND_WITHOUT=numba "$@"; }
settings=(data=kaggle data.root="$tmp/sky/tree" paths.work="$tmp/work" executor=serial diag=light)
quick "$tmp/env/bin/python" "$root/scripts/use_wheel.py" "$root" --sky "$tmp/sky"
quick spectramind run model=physics_only "${settings[@]}" | tee "$tmp/said"
grep -q 'rows (1 physics)' "$tmp/said"
alone spectramind validate "$tmp/work/dist/submission.csv" --sample "$tmp/sky/tree/sample_submission.csv"
mv "$tmp/work/dist/submission.csv" "$tmp/first.csv"
quick spectramind predict model=physics_only "${settings[@]}"
quick spectramind submit model=physics_only "${settings[@]}"
cmp "$tmp/first.csv" "$tmp/work/dist/submission.csv"

# The network is an extra: without it the settings are refused (code 3), and the refusal says what to install.
code=0; quick spectramind run model=v50 "${settings[@]}" >"$tmp/refused" 2>&1 || code=$?
if [ "$code" != 3 ] || ! grep -q 'spectramind\[network\]' "$tmp/refused" || grep -q Traceback "$tmp/refused"; then
    echo "model=v50 without the extra: code $code, wanted 3 and the name of the extra" >&2; cat "$tmp/refused" >&2; exit 1
fi
echo "the wheel works on $("$tmp/env/bin/python" --version): run, predict, submit; model=v50 asks for the extra (code 3)"
