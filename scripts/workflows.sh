#!/usr/bin/env bash
# workflows.sh [FOLDER]: are the workflows what GitHub understands, and safe? Actions pinned by hash, no more rights than needed, nothing from outside in a script.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.github/workflows}
quiet() { local log; log=$(mktemp); "$@" >"$log" 2>&1 || { local rc=$?; cat "$log" >&2; rm -f "$log"; return "$rc"; }; rm -f "$log"; }
quiet check-jsonschema --builtin-schema vendor.github-workflows "$folder"/*.yml
quiet zizmor --offline --no-progress --persona=pedantic --strict-collection --collect=all "$folder"/*.yml
python - "$folder" <<'PY'
"Beyond the linter: only actions of GitHub's own, the same hash for each everywhere, its version beside it; rights that write only where a job says why."
import re, sys
from pathlib import Path
import yaml
pinned, faults, files = {}, [], sorted(Path(sys.argv[1]).glob("*.yml"))
for path in files:
    text = path.read_text(encoding="utf-8")
    for line in re.findall(r"uses:.*", text):
        found = re.fullmatch(r"uses: (actions/[\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line.strip())
        if not found: faults.append(f"{path.name}: {line.strip()}: wanted actions/NAME@HASH # vX.Y.Z")
        elif pinned.setdefault(found[1], found.groups()[1:]) != found.groups()[1:]: faults.append(f"{path.name}: {found[1]}: another hash or version than elsewhere")
    flow = yaml.safe_load(text)
    if flow.get("permissions") != {"contents": "read"}: faults.append(f"{path.name}: permissions: found {flow.get('permissions')}, wanted contents: read")
    for name, job in flow["jobs"].items():
        if job.get("timeout-minutes") is None: faults.append(f"{path.name}: {name}: no timeout-minutes")
        if any(right == "write" for right in (job.get("permissions") or {}).values()) and any("checkout" in str(step.get("uses")) for step in job["steps"]):
            faults.append(f"{path.name}: {name}: may write, and runs what it has checked out")
for fault in faults: print(fault, file=sys.stderr)
if faults: sys.exit(1)
print(f"{len(files)} workflows, {len(pinned)} actions, all by hash")
PY
