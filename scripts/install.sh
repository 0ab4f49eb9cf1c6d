#!/usr/bin/env bash
# install.sh VENV: a virtual environment with everything in requirements.lock and this project, editable.
# uv does the work (seconds); where uv cannot be had or cannot reach the index, pip does the same from the same lock.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: install.sh VENV}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "SpectraMind needs Python 3.11 or newer, found "+sys.version.split()[0]+": set PYTHON=/path/to/python3.11")'
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
py=$venv/bin/python
echo "setting up $venv ..."
# uv does not read pip's settings: hand an index mirror on
index=$("$py" -m pip config get global.index-url 2>/dev/null || true)
index=${PIP_INDEX_URL:-$index}
if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX=$index; fi
fast() {
  "$py" -m pip install -q --disable-pip-version-check uv==0.13.8 &&
  "$venv/bin/uv" pip install -q --system-certs -p "$py" --no-deps --require-hashes -r requirements.lock
}
fast || { echo "uv could not do it, falling back to pip" >&2; "$py" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock; }
# PyTorch first and apart: a wheel that pip's find-links know, or the CPU build from TORCH_INDEX (for CUDA: TORCH_INDEX=https://download.pytorch.org/whl/cu130)
torch=${TORCH:-torch==2.13.0}
has_torch() { "$py" -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '${torch##*=}')" 2>/dev/null; }
install_torch() { "$py" -m pip install -q --disable-pip-version-check --no-deps "$@" "$torch"; }
if ! has_torch; then
  if [ -n "${TORCH_INDEX:-}" ]; then install_torch --index-url "$TORCH_INDEX"
  else install_torch --no-index 2>/dev/null || install_torch --index-url https://download.pytorch.org/whl/cpu ||
    { echo "no CPU build of PyTorch to be had; taking the package index's, which may bring several GB of CUDA libraries" >&2
      "$py" -m pip install -q --disable-pip-version-check "$torch"; }; fi
fi
quietly() { local log; log=$(mktemp); "$@" >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; return 1; }; rm -f "$log"; }
quietly "$py" -m pip install --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
quietly "$py" -m ipykernel install --sys-prefix --name python3
"$py" -m pip check
