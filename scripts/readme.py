"README.md is nbs/index.ipynb in Markdown: `python scripts/readme.py` writes it, `--check` only compares."
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def markdown(nb: dict) -> str:
    parts = []
    for cell in nb["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown": parts.append(source)
        elif source and not source.startswith("#|"):
            parts.append(f"```python\n{source}\n```")
            for out in cell.get("outputs", []):
                text = "".join(out.get("text", out.get("data", {}).get("text/plain", [])))
                if text: parts.append("\n".join("    "+line for line in text.rstrip().splitlines()))
    text = "\n\n".join(parts).replace("](../", "](")
    local = {p.name for p in (ROOT/"nbs").iterdir()}
    return re.sub(r"\]\((?=([^/):]+)[/)])", lambda m: "](nbs/" if m[1] in local else m[0], text) + "\n"


want = markdown(json.loads((ROOT/"nbs"/"index.ipynb").read_text(encoding="utf-8")))
readme = ROOT/"README.md"
if "--check" in sys.argv[1:]:
    if not readme.exists() or readme.read_text(encoding="utf-8") != want: sys.exit("README.md is not what nbs/index.ipynb says: run `make readme` and commit it")
    print("README.md: in step")
else: readme.write_text(want, encoding="utf-8")
