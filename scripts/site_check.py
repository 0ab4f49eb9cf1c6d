"What would be broken on the site, found in the processed project, without Quarto."
import json
import re
from pathlib import Path
from urllib.parse import unquote

import yaml

import site_process as process

JUNK = re.compile(r"^#\s*\|\s*(export|exports|exporti|hide|default_exp|eval|echo|output)\b|nbdev_export\(\)|show_doc\(|from nbdev", re.M)
OPTIONS = {"code-fold", "code-summary", "fig-alt"}
MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|private|var)/\w")


def page_cells(path: Path) -> list:
    "(kind, text, outputs) of each cell; a Markdown page is one cell."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        head, _, body = text.removeprefix("---\n").partition("\n---\n")
        return [("raw", f"---\n{head}\n---", []), ("markdown", body, [])]
    return [(cell["cell_type"], process.text_of(cell["source"]), cell.get("outputs", [])) for cell in json.loads(text)["cells"]]


def head(cells: list) -> dict:
    "The front matter."
    kind, text, _ = cells[0]
    return yaml.safe_load(text.strip().strip("-")) or {} if kind == "raw" else {}


def markdown_of(cells: list) -> str:
    "All prose of a page, outputs in Markdown included."
    parts = [text for kind, text, _ in cells if kind == "markdown"]
    parts += [process.text_of(out["data"]["text/markdown"]) for _, _, outputs in cells for out in outputs if "text/markdown" in out.get("data", {})]
    return "\n\n".join(parts)


def anchors_of(text: str) -> set:
    return {name for _, _, name in process.headings(text)} | set(re.findall(r"\sid=\"([^\"]+)\"", text))


def links_of(text: str) -> list:
    "(is an image, words, target) of each link, those in HTML blocks included."
    plain, kept = process.masked(text, fence=process._FENCE)
    html = "".join(block for block in kept if block.lstrip("`~").startswith("{=html}"))
    plain, _ = process.masked(plain, code=process._SPAN, math=process._MATH)
    found = [(bool(m[1]), m[2], m[3]) for m in process._LINK.finditer(plain)]
    for match in re.finditer(r"<(a|img)\b([^>]*)>", html + plain):
        attributes = dict(re.findall(r"(\w[\w-]*)=\"([^\"]*)\"", match[2]))
        if match[1] == "img": found.append((True, attributes.get("alt", ""), attributes.get("src", "")))
        elif "href" in attributes: found.append((False, "link", attributes["href"]))
    return found


def _link_faults(page: str, text: str, project: Path, anchors: dict) -> list:
    found = []
    for image, words, target in links_of(text):
        if image and not words.strip(): found.append(f"{page}: the image {target} has no words that stand for it")
        if not target: found.append(f"{page}: an empty link")
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            if image: found.append(f"{page}: the image {target} is not on this site")
            continue
        path, _, anchor = unquote(target).partition("#")
        full = (project/page).parent/path if path else project/page
        for suffix in (".ipynb", ".md"):
            if full.suffix == ".html" and full.with_suffix(suffix).is_file(): full = full.with_suffix(suffix)
        if not full.is_file():
            found.append(f"{page}: the link {target} leads nowhere")
            continue
        name = full.resolve().relative_to(project.resolve()).as_posix()
        if anchor and name in anchors and anchor not in anchors[name]: found.append(f"{page}: the link {target} leads to a heading that does not exist")
    return found


def _cell_faults(page: str, cells: list) -> list:
    found = []
    for k, (kind, text, outputs) in enumerate(cells):
        if kind == "code":
            if JUNK.search(text): found.append(f"{page}, cell {k}: nbdev's directives are left: {JUNK.search(text)[0]}")
            unknown = {m[1] for m in re.finditer(r"^#\|\s*([\w-]+):", text, re.M)} - OPTIONS
            if unknown: found.append(f"{page}, cell {k}: cell options that this site does not use: {', '.join(sorted(unknown))}")
        for out in outputs:
            if out["output_type"] == "error": found.append(f"{page}, cell {k}: an output is an error")
            data = out.get("data", {})
            if process.PLOTLY in data or "Plotly.newPlot" in str(data): found.append(f"{page}, cell {k}: a figure has no HTML form")
            if "text/html" in data: found.append(f"{page}, cell {k}: HTML that would make Quarto load scripts from elsewhere")
            words = process.text_of(out.get("text", "")) + "".join(process.text_of(v) for m, v in data.items() if m.startswith("text/"))
            if "text/markdown" in data and "<script" in words.lower(): found.append(f"{page}, cell {k}: an output brings a script")
            if re.search(r"(src|href)=\\?\"https?:", words): found.append(f"{page}, cell {k}: an output loads something from elsewhere")
            if re.search(r"^\S+:\d+: \w*Warning: ", words, re.M): found.append(f"{page}, cell {k}: an output is a warning")
            if "Traceback (most recent call last)" in words: found.append(f"{page}, cell {k}: an output is a traceback")
            if MACHINE.search(words): found.append(f"{page}, cell {k}: an output names a place on somebody's machine: {words[MACHINE.search(words).start():][:60]!r}")
    return found


def hrefs(items) -> list:
    "Every page that a navigation lists, in order."
    found = []
    for item in items:
        if isinstance(item, str): found.append(item); continue
        if "href" in item: found.append(item["href"])
        found += hrefs(item.get("contents", [])) + hrefs(item.get("menu", []))
    return found


def faults(project: Path) -> list:
    "Everything that is wrong; an empty list when nothing is."
    project = Path(project)
    settings = yaml.safe_load((project/"_quarto.yml").read_text(encoding="utf-8"))
    render, website = settings["project"]["render"], settings["website"]
    pages = {p.relative_to(project).as_posix() for suffix in ("md", "ipynb") for p in project.rglob(f"*.{suffix}")}
    found = [f"_quarto.yml: renders {name}, which does not exist" for name in sorted(set(render) - pages)]
    found += [f"{name}: is not in _quarto.yml's list of pages" for name in sorted(pages - set(render))]
    listed = hrefs(website["sidebar"]["contents"])
    found += [f"_quarto.yml: the sidebar lists {name}, which does not exist" for name in sorted(set(listed) - pages)]
    found += [f"{name}: is not in the sidebar" for name in sorted(pages - set(listed))]
    found += [f"{name}: is in the sidebar more than once" for name in sorted({n for n in listed if listed.count(n) > 1})]
    found += [f"_quarto.yml: the bar on top lists {name}, which does not exist" for name in hrefs(website["navbar"].get("left", []) + website["navbar"].get("right", []))
              if name not in pages and not name.startswith("http")]
    if settings.get("execute", {}).get("enabled") is not False: found.append("_quarto.yml: execute.enabled is not false")
    cells = {name: page_cells(project/name) for name in sorted(pages)}
    texts = {name: markdown_of(c) for name, c in cells.items()}
    anchors = {name: anchors_of(text) for name, text in texts.items()}
    titles = {}
    for name, page in cells.items():
        title = str(head(page).get("title") or "").strip()
        if not title: found.append(f"{name}: no title")
        titles.setdefault(title, []).append(name)
        if name.endswith(".ipynb") and not str(head(page).get("description") or "").strip() and name != "index.ipynb":
            found.append(f"{name}: no line that says why it exists")
        for script in re.findall(r'src="([^"]+)"', str(head(page).get("include-in-header", ""))):
            if not ((project/name).parent/script).is_file(): found.append(f"{name}: the script {script} does not exist")
        if re.search(r"^# \S", process.masked(texts[name], fence=process._FENCE)[0], re.M): found.append(f"{name}: a second title inside the page")
        twice = [a for _, _, a in process.headings(texts[name])]
        found += [f"{name}: the anchor {a} stands twice" for a in sorted({a for a in twice if twice.count(a) > 1})]
        found += _link_faults(name, texts[name], project, anchors) + _cell_faults(name, page)
    return found
