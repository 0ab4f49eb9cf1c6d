"Clean is a no-op, export is a no-op: run both and compare every notebook and module with what was there before."
import hashlib, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def snapshot(): 
    files = [p for d, pat in (("nbs", "*.ipynb"), ("spectramind", "*.py")) for p in (ROOT/d).rglob(pat) if ".ipynb_checkpoints" not in p.parts]
    return {str(p.relative_to(ROOT)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


failed = False
for command in ("nbdev_clean", "nbdev_export"):
    before = snapshot()
    subprocess.run([command], cwd=ROOT, check=True)
    after = snapshot()
    changed = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    print(f"{command}: {'no-op' if not changed else 'changed ' + ', '.join(changed)}")
    failed |= bool(changed)
if failed: sys.exit("clean or export changed files: look at them and commit them with your change")
