#!/usr/bin/env bash
# Resolve settings.ini into requirements.lock (runtime + dev) and requirements-runtime.lock, with hashes.
set -euo pipefail
cd "$(dirname "$0")/.."
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
python3 - "$tmp" <<'PY'
import configparser, pathlib, sys
c = configparser.ConfigParser(delimiters=["="]); c.read("settings.ini"); c = c["DEFAULT"]
rows = lambda k: [l.strip() for l in c[k].splitlines() if l.strip()]
t = pathlib.Path(sys.argv[1])
(t/"runtime.in").write_text("\n".join(rows("requirements")))
(t/"dev.in").write_text("\n".join(rows("requirements")+rows("dev_requirements")))
PY
flags=(--quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links --emit-build-options --no-emit-package torch)
uv=${UV:-.venv/bin/uv}
"$uv" pip compile "${flags[@]}" "$tmp/dev.in" -o requirements.lock
"$uv" pip compile "${flags[@]}" -c requirements.lock "$tmp/runtime.in" -o requirements-runtime.lock
