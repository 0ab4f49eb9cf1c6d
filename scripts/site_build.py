"""The documentation site, from the same notebooks.

    python scripts/site_build.py                    the whole of it: _proc (the project), then _docs (the pages)
    python scripts/site_build.py --only project     only the project: Quarto's input, checked
    python scripts/site_build.py --renderer quarto  by Quarto or not at all; `plain` never asks for Quarto; `auto` takes Quarto where it is
    python scripts/site_build.py --work DIR         where to look for executed run notebooks (artifacts/runs below DIR; default: here)

Exit codes: 0 the site stands (by Quarto, or by the plain renderer, which says so), 3 Quarto was demanded and is missing, 5 Quarto failed,
6 the project has a fault (a link that leads nowhere, a page without a title, an error in an output ...).
"""
import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
import site_check
import site_process as process
from site_process import ROOT, Book, Page

QUARTO = "1.9.37"   # the version that .github/workflows/docs.yml installs
HOW = f"""Quarto is not on the PATH. The site has been rendered without it: the same pages, plainer, complete.
To have it by Quarto, install version {QUARTO} or newer and run `make docs` again:
    Linux    download quarto-{QUARTO}-linux-amd64.deb from https://quarto.org/docs/download/ and install it with dpkg -i
    macOS    brew install --cask quarto
    Windows  winget install --id Posit.Quarto"""
FLOOR = re.compile(r"\d\d_([a-z]\w*)$")
ABOUT = {  # what a floor teaches, in the words of the README
    "core": "errors that say what to do, nouns, files that survive a crash, seeds, logs",
    "challenge": "the challenge's data, read in place",
    "physics": "limb darkening, transits, molecules, atmospheres",
    "simulate": "a complete challenge tree from a seed, held against the measured statistics",
    "detector": "raw counts to electrons, with variance",
    "photometry": "frames to light curves",
    "lightcurve": "light curves to depths: noise, drift, pointing, populations, the prior, the joint fit, the error budget",
    "scoring": "the official score, submissions, export for other tools",
    "network": "what the network looks at, selective scan, wavelength graph, fusion, heads",
    "symbolic": "differentiable terms of physics, and a small language for rules",
    "training": "losses and phases, a trainer that survives a kill, the ensemble and its gate",
    "uncertainty": "coverage, temperature, conformal factors, planets unlike the others",
    "diagnostics": "the pictures, the dashboard, injection and recovery, attribution",
    "pipeline": "configuration, executors, stages, records, the command line",
}
STAGES = ("run", "simulate", "calibrate", "features", "fit", "train", "uncertainty", "predict", "diagnose", "submit", "ablate")


def read(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))


def bare(name: str) -> str: return re.sub(r"^\d+_", "", name)


def source_of(path: Path) -> str: return path.relative_to(ROOT).as_posix()


# --- what there is ----------------------------------------------------------------------------------------------------------------

def floors() -> list: return sorted(p for p in (ROOT/"nbs").iterdir() if p.is_dir() and FLOOR.fullmatch(p.name))


def notebook_page(book: Book, path: Path, out: str):
    nb = read(path)
    title, about = process.read_head(nb)
    try: found, names = process.read_exports(nb)
    except SyntaxError as error: raise process.Problem(f"{source_of(path)}: an exported cell is not Python ({error.msg}): {str(error.text).strip()[:80]}") from None
    book.add(Page(out, source_of(path), title, about, found, names, nb))


def markdown_page(book: Book, path: Path, out: str):
    title, about, body = process.head_of(path.read_text(encoding="utf-8"))
    book.add(Page(out, source_of(path), title, about, body=body))


def last_run(work: Path, stage: str) -> Path:
    "The last finished run of a stage that kept its notebook; None when there is none."
    names = ("demo", "run") if stage == "run" else (stage,)
    for folder in sorted((p for name in names for p in (work/"artifacts"/"runs"/name).glob("*/")), key=lambda p: p.name, reverse=True):
        try: done = read(folder/"status.json").get("state") == "done"
        except (OSError, ValueError): done = False
        if done and (folder/"executed.ipynb").is_file(): return folder/"executed.ipynb"
    return None


def run_page(book: Book, path: Path, work: Path):
    "A run notebook, as its last run has left it, or as it is committed."
    nb, stage = read(path), path.stem
    executed = last_run(work, stage)
    title, about = process.read_head(nb)
    if executed:
        note = f"As the last run of this stage left it (`artifacts/runs/{executed.parent.parent.name}/{executed.parent.name}`)."
        nb = read(executed)
    else:
        how = "spectramind demo --engine papermill" if stage == "run" else f"spectramind {'diagnose dashboard' if stage == 'diagnose' else stage} --engine papermill"
        note = f"This is the notebook before it is run: it has no pictures yet. `{how}` runs it and keeps the executed copy, pictures included, beside the run; the next `make docs` shows that copy here."
    if stage == "run" and not executed: note = note.replace("`spectramind", "`make demo`, or `spectramind")
    at = next(k for k, cell in enumerate(nb["cells"]) if cell["cell_type"] == "markdown") + 1
    nb["cells"].insert(at, dict(cell_type="markdown", metadata={}, source=f"::: {{.callout-note}}\n{note}\n:::"))
    book.add(Page(f"runs/{stage}.ipynb", source_of(path), title, about, body=nb))


PROJECT = ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")   # pages at the repository's root


def collect(work: Path) -> Book:
    "Every page, with the body it has in the repository."
    book = Book()
    notebook_page(book, ROOT/"nbs"/"index.ipynb", "index.ipynb")
    for path in sorted((ROOT/"docs").glob("*.md")): markdown_page(book, path, path.name)
    for name in PROJECT: markdown_page(book, ROOT/name, name.lower())
    for path in sorted((ROOT/"docs"/"adr").glob("*.md")):
        markdown_page(book, path, "adr/index.md" if path.stem == "README" else f"adr/{path.name}")
    for path in sorted((ROOT/"benchmarks").glob("*.md")):
        markdown_page(book, path, "benchmarks/index.md" if path.stem == "README" else f"benchmarks/{path.stem.lower()}.md")
    for path in sorted((ROOT/"nbs"/"tutorials").glob("*.ipynb")): notebook_page(book, path, f"tutorials/{bare(path.stem)}.ipynb")
    for path in sorted((ROOT/"nbs"/"runs").glob("*.ipynb"), key=lambda p: (STAGES.index(p.stem) if p.stem in STAGES else 99, p.stem)): run_page(book, path, work)
    for floor in floors():
        name = bare(floor.name)
        book.add(Page(f"{name}/index.md", source_of(floor), f"Floor {floor.name[:2]}: {name}", ABOUT.get(name, "")))
        for path in sorted(floor.glob("*.ipynb")): notebook_page(book, path, f"{name}/{bare(path.stem)}.ipynb")
    book.places |= {"README.md": "index.ipynb", "nbs": "reference.md", "docs/adr": "adr/index.md", "benchmarks": "benchmarks/index.md",
                    "nbs/tutorials": "tutorials/index.md", "nbs/runs": "runs/index.md", "docs": "start.md"}
    book.add(Page("reference.md", "", "Reference", "every floor, every room, every function"))
    book.add(Page("tutorials/index.md", "", "Tutorials", "longer walks through the house, each a notebook that runs in minutes"))
    book.add(Page("runs/index.md", "", "Run notebooks", "one notebook for each stage: papermill runs it, and the executed copy stays with the run"))
    book.add(Page("gallery.md", "", "Gallery", "the pictures of this project, each a link to the page that explains it"))
    return book


def name_symbols(book: Book):
    "Which words in prose are links: modules, and names that only one room exports."
    where = {}
    for page in book.pages.values():
        if not page.entries and not page.names: continue
        module = page.out.removesuffix(".ipynb").replace("/", ".")
        anchors = {e.name for e in page.entries}
        book.symbols[module] = (page.out, "")
        for name in page.names:
            target = (page.out, name if name in anchors else "")
            book.symbols[f"{module}.{name}"] = target
            where.setdefault(name, []).append(target)
    for name, targets in where.items():
        if len(targets) == 1 and targets[0][1] and re.search(r"[a-z0-9]_[a-z0-9]|[a-z][A-Z]", name): book.symbols[name] = targets[0]


# --- pages made here ----------------------------------------------------------------------------------------------------------------

def rooms(book: Book, floor: str) -> list: return [p for p in book.pages.values() if p.out.startswith(f"{floor}/") and not p.out.endswith("index.md")]


def plain(title: str) -> str: return re.sub(r"[`$\\]", "", title)


def floor_body(book: Book, page: Page) -> str:
    lines = ["| room | why it exists | it exports |", "|---|---|---|"]
    floor = page.out.partition("/")[0]
    for room in rooms(book, floor):
        names = ", ".join(f"[`{e.name}`]({Path(room.out).name}#{e.name})" for e in room.entries)
        lines.append(f"| [{room.title}]({Path(room.out).name}) | {room.about} | {names} |")
    return "\n".join(lines)


def reference_body(book: Book) -> str:
    parts = ["Each folder of `nbs/` is a floor, and its number is its height: a notebook imports only from lower floors. Each notebook explains one idea and becomes one module; "
             "here is every public function and class, with the first sentence of what it says about itself. A room's page has the arguments with their shapes and units, and the source."]
    for floor in floors():
        name = bare(floor.name)
        parts.append(f"## {floor.name[:2]} {name}\n\n{ABOUT.get(name, '').capitalize()}. [The floor's page]({name}/index.md).")
        for room in rooms(book, name):
            module = "spectramind." + room.out.removesuffix(".ipynb").replace("/", ".")
            parts.append(f"### [{module}]({room.out}) {{#{module.replace('.', '-')}}}\n\n{room.about}")
            lines = [f"| [`{e.name}`]({room.out}#{e.name}) | {process.reference._cell(re.split(r'(?<=[.;]) ', e.doc)[0].rstrip(';'))} |" for e in room.entries]
            if lines: parts.append("\n".join(["| | |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def list_body(book: Book, folder: str, lead: str) -> str:
    lines = [f"| [{p.title}]({Path(p.out).name}) | {p.about} |" for p in rooms(book, folder)]
    return "\n".join([lead, "", "| | |", "|---|---|", *lines])


def gallery_body(book: Book, pictures: dict) -> str:
    parts = ["Pictures that can be moved, zoomed and read with the pointer are in [the figures' own notebook](diagnostics/figures.ipynb): one `show_*` for each, on one shared simulated planet. "
             "Those below are small ones from the notebooks; each leads to the page that explains it."]
    for floor in ("tutorials", *(bare(f.name) for f in floors())):
        cards = []
        for page in rooms(book, floor):
            if page.out not in pictures: continue
            image, name = pictures[page.out], f"gallery/{page.out.removesuffix('.ipynb').replace('/', '-')}.png"
            book.files[name] = image
            cards.append(f'<a class="sm-card" href="{page.html}"><img src="{name}" alt="a picture from the page {escape(plain(page.title), quote=True)}" loading="lazy"><span>{escape(plain(page.title))}</span></a>')
        if cards: parts.append(f"## {floor.capitalize()}\n\n" + process.raw_html(f'<div class="sm-gallery">{"".join(cards)}</div>'))
    return "\n\n".join(parts)


def first_pictures(book: Book) -> dict:
    "The first picture of each notebook."
    found = {}
    for page in book.pages.values():
        if not isinstance(page.body, dict): continue
        images = [out["data"]["image/png"] for cell in page.body["cells"] for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        if images: found[page.out] = base64.b64decode(process.text_of(images[-1] if page.out.startswith("tutorials") else images[0]))
    return found


# --- the project --------------------------------------------------------------------------------------------------------------------

def entry(page: Page, text: str = "") -> dict: return dict(href=page.out, text=text or plain(page.title))


def sidebar(book: Book) -> list:
    "What the side of each page lists; every page once."
    p = book.pages
    own = {"index.ipynb", "start.md", "reference.md", "gallery.md", *map(str.lower, PROJECT)}
    guides = [page for page in p.values() if "/" not in page.out and page.out not in own]
    section = lambda text, pages: dict(section=text, contents=[entry(page) for page in pages])
    overview = lambda folder: dict(entry(p[f"{folder}/index.md"], "Overview"))
    numbered = lambda page: entry(page)
    parts = [entry(p["index.ipynb"], "Home"), entry(p["start.md"], "Get started"),
             dict(section="Tutorials", contents=[overview("tutorials"), *map(entry, rooms(book, "tutorials"))]),
             entry(p["gallery.md"]), section("Guides", guides),
             dict(section="Reference", contents=[entry(p["reference.md"], "All of it"),
                  *(dict(section=f"{f.name[:2]} {bare(f.name)}", contents=[overview(bare(f.name)), *map(entry, rooms(book, bare(f.name)))]) for f in floors())]),
             dict(section="Run notebooks", contents=[overview("runs"), *map(entry, rooms(book, "runs"))]),
             dict(section="Decisions", contents=[overview("adr"), *map(numbered, rooms(book, "adr"))]),
             dict(section="Measured", contents=[overview("benchmarks"), *map(entry, rooms(book, "benchmarks"))]),
             section("Project", [p[name.lower()] for name in PROJECT])]
    return parts


def quarto_yaml(book: Book) -> str:
    "The project's settings: _quarto.yml of the repository, with the pages filled in."
    settings = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    settings["project"].pop("pre-render")
    settings["project"]["render"] = list(book.pages)
    settings["project"]["resources"] = sorted({name.partition("/")[0] + "/**" for name in book.files})
    settings["website"]["sidebar"]["contents"] = sidebar(book)
    return yaml.safe_dump(settings, allow_unicode=True, sort_keys=False, width=1000)


def assets(book: Book):
    from plotly.offline import get_plotlyjs
    for path in sorted((ROOT/"docs"/"site").iterdir()): book.files[f"assets/{path.name}"] = path.read_bytes()
    book.files["assets/plotly.min.js"] = get_plotlyjs().encode("utf-8")


def write(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))


def make_project(target: Path, work: Path) -> Book:
    "Write the processed project; raises process.Problem on the first thing that cannot be shown."
    book = collect(work)
    name_symbols(book)
    pictures = first_pictures(book)
    made = {"reference.md": reference_body, "tutorials/index.md": lambda b: list_body(b, "tutorials", "Each is a notebook: open it in JupyterLab and run it, or read it here."),
            "runs/index.md": lambda b: list_body(b, "runs", "With `--engine papermill` a command is done by its notebook, and the executed copy, with its pictures, stays with the run."),
            "gallery.md": lambda b: gallery_body(b, pictures)}
    if target.exists(): shutil.rmtree(target)
    for page in book.pages.values():
        if isinstance(page.body, dict): text = json.dumps(process.notebook(book, page, page.body), ensure_ascii=False, indent=1) + "\n"
        else:
            if page.body is not None: body = process.markdown(page.body, book, page.source, page.out)
            else: body = made[page.out](book) if page.out in made else floor_body(book, page)
            text = f"{process.front_matter(page, False)}\n\n{body.strip()}\n"
        write(target/page.out, text)
    assets(book)
    for name, content in book.files.items(): write(target/name, content)
    write(target/"_quarto.yml", quarto_yaml(book))
    return book


def render_quarto(project: Path, target: Path) -> int:
    "Quarto's rendering, moved to its place; nothing is executed."
    done = subprocess.run(["quarto", "render", "--no-execute"], cwd=project)
    if done.returncode:
        print(f"make docs: quarto ended with code {done.returncode}; its words are above", file=sys.stderr)
        return 5
    if target.exists(): shutil.rmtree(target)
    shutil.move(project/"_docs", target)
    return 0


def main(words=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("project",))
    parser.add_argument("--renderer", choices=("auto", "quarto", "plain"), default="auto")
    parser.add_argument("--work", type=Path, default=ROOT)
    parser.add_argument("--project", type=Path, default=ROOT/"_proc")
    parser.add_argument("--out", type=Path, default=ROOT/"_docs")
    parser.add_argument("--refuse", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.refuse:
        print("quarto render: the notebooks are not rendered as they lie here; `make docs` makes the project in _proc and renders that", file=sys.stderr)
        return 3
    have = shutil.which("quarto")
    if args.renderer == "quarto" and not have:
        print(HOW.replace("The site has been rendered without it: the same pages, plainer, complete.\n", ""), file=sys.stderr)
        return 3
    try: book = make_project(args.project, args.work)
    except process.Problem as problem:
        print(f"make docs: {problem}", file=sys.stderr)
        return 6
    faults = book.problems + site_check.faults(args.project)
    for fault in faults: print(f"make docs: {fault}", file=sys.stderr)
    if faults: return 6
    print(f"{len(book.pages)} pages in {args.project}, no fault")
    if args.only: return 0
    if have and args.renderer != "plain": code = render_quarto(args.project, args.out)
    else:
        import site_plain
        pages = site_plain.render(args.project, args.out)
        code = 0
        print(f"{pages} pages in {args.out} (by nbconvert)")
        if not have: print(HOW)
    if not code: print(f"open {args.out/'index.html'}")
    return code


if __name__ == "__main__": sys.exit(main())
