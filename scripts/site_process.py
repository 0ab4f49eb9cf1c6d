"""Notebooks and Markdown pages as the site wants them: no directives, titles in front matter, links that lead somewhere,
exported cells as an annotated reference, pictures with an HTML form."""
import ast
import copy
import json
import os
import re
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import yaml

import site_reference as reference

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/spectramind/spectramind"
DIRECTIVE = re.compile(r"^#\s*\|\s*(\S+?):?(\s.*)?$")
PLOTLY = "application/vnd.plotly.v1+json"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")
_FENCE = re.compile(r"^(`{3,}|~{3,})[^\n]*\n.*?^\1[ \t]*$", re.M | re.S)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
_MATH = re.compile(r"\$\$.+?\$\$|(?<![\\\w$])\$(?=[^\s$])[^$\n]*?(?<=[^\s\\])\$(?![\w$])", re.S)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(\s*<?([^)\s>]+)>?(\s+\"[^\"]*\")?\s*\)")


class Problem(Exception):
    "Something in a page that would be broken on the site."


@dataclass
class Page:
    "One page of the site."
    out: str                       # path in the project, with suffix
    source: str                    # path in the repository; '' for a page that is made here
    title: str = ""
    about: str = ""                # one line
    entries: list = field(default_factory=list)   # what its notebook exports
    names: list = field(default_factory=list)     # the same by name, constants included
    body: object = None            # notebook (dict) or Markdown (str)

    @property
    def html(self): return str(Path(self.out).with_suffix(".html"))


@dataclass
class Book:
    "Everything the pages share."
    pages: dict = field(default_factory=dict)      # path in the project -> Page
    places: dict = field(default_factory=dict)     # path in the repository -> path in the project
    symbols: dict = field(default_factory=dict)    # public name -> (path in the project, anchor)
    files: dict = field(default_factory=dict)      # path in the project -> bytes
    problems: list = field(default_factory=list)   # what would be broken

    def add(self, page: Page):
        if page.out in self.pages: raise Problem(f"{page.out}: made from {self.pages[page.out].source} and from {page.source}")
        self.pages[page.out] = page
        if page.source: self.places[page.source] = page.out


# --- Markdown -------------------------------------------------------------------------------------------------------------------

def masked(text: str, **patterns) -> tuple:
    "Text with each match of a pattern replaced by a token of its kind, and the tokens' meaning."
    kept = []
    for kind, pattern in patterns.items():
        def keep(match, kind=kind):
            kept.append(match[0])
            return f"\x02{kind}{len(kept) - 1}\x03"
        text = pattern.sub(keep, text)
    return text, kept


def unmasked(text: str, kept: list) -> str:
    "The text with its tokens put back."
    while "\x02" in text: text = re.sub("\x02[a-z]+(\\d+)\x03", lambda m: kept[int(m[1])], text)
    return text


def unquoted(text: str) -> tuple:
    "Text without what is not prose: fences, code and formulas are tokens."
    return masked(text, fence=_FENCE, code=_SPAN, math=_MATH)


def slug(title: str) -> str:
    "A heading's identifier by Pandoc's rule."
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    text = re.sub(r"[`*$\\]", "", text).lower()
    text = re.sub(r"[^\w\s.-]", "", text)
    text = re.sub(r"\s+", "-", text.strip())
    return re.sub(r"^[^a-z]+", "", text) or "section"


def headings(text: str) -> list:
    "(level, title, identifier) of each heading."
    plain, _ = masked(text, fence=_FENCE)
    found, used = [], {}
    for match in re.finditer(r"^(#{1,6})\s+(.+?)\s*#*\s*$", plain, re.M):
        title, name = match[2], None
        attributes = re.search(r"\s*\{([^}]*)\}$", title)
        if attributes:
            name = next((word[1:] for word in attributes[1].split() if word.startswith("#")), None)
            title = title[:attributes.start()]
        if not name:
            name = slug(title)
            used[name] = used.get(name, -1) + 1
            if used[name]: name = f"{name}-{used[name]}"
        found.append((len(match[1]), title, name))
    return found


def relative(target: str, page: str) -> str:
    "A path in the project as seen from a page."
    return Path(os.path.relpath(target, Path(page).parent)).as_posix()


def _place(book: Book, source: str, page: str, target: str, image: bool) -> str:
    "Where a link leads on the site; a target that does not exist is a problem."
    if re.match(r"[a-z][a-z0-9+.-]*:", target) or target.startswith("#"): return target
    path, _, anchor = target.partition("#")
    found = os.path.normpath(Path(source).parent/path)
    tail = f"#{anchor}" if anchor else ""
    if found in book.places: return relative(book.places[found], page) + tail
    full = ROOT/found
    if found.startswith("..") or not full.exists():
        book.problems.append(f"{source}: the link {target} leads nowhere")
        return target
    if image:
        name = f"images/{Path(found).name}"
        if book.files.setdefault(name, full.read_bytes()) != full.read_bytes(): raise Problem(f"{name}: two pictures of this name")
        return relative(name, page)
    return f"{REPOSITORY}/{'tree' if full.is_dir() else 'blob'}/main/{found}{tail}"


def _linked(book: Book, page: str, code: str) -> str:
    "Inline code as a link, where it names something that has a place of its own on the site."
    word = code.strip("`")
    name = re.sub(r"\(.*\)$", "", word)
    name = re.sub(r"^spectramind\.", "", name)
    out, anchor = book.symbols.get(name, ("", ""))
    if not out or (out == page and not anchor): return code
    href = (relative(out, page) if out != page else "") + (f"#{anchor}" if anchor else "")
    return f"[{code}]({href})"


def markdown(text: str, book: Book, source: str, page: str) -> str:
    "Markdown with links that lead somewhere on the site, and names of functions that lead to their reference."
    text, kept = unquoted(text)
    aside = lambda words: words.replace("\x02code", "\x02plain")       # code that is not to become a link
    text = re.sub(r"^#{1,6} .*$", lambda m: aside(m[0]), text, flags=re.M)
    text = _LINK.sub(lambda m: f"{m[1]}[{aside(m[2])}]({_place(book, source, page, m[3], bool(m[1]))}{m[4] or ''})", text)
    text = re.sub("\x02code(\\d+)\x03", lambda m: _linked(book, page, kept[int(m[1])]), text)
    return unmasked(text, kept)


# --- notebooks ------------------------------------------------------------------------------------------------------------------

def text_of(value) -> str: return "".join(value) if isinstance(value, list) else value


def directives(source: str) -> tuple:
    "The cell's directives (words only) and the cell without them."
    found, lines = [], []
    for line in source.splitlines():
        match = DIRECTIVE.match(line)
        if match and not (lines and any(x.strip() for x in lines)): found.append(match[1].rstrip(":"))
        else: lines.append(line)
    return found, "\n".join(lines).strip("\n")


def head_of(text: str) -> tuple:
    "Title, one line about it, and the rest of a first Markdown cell."
    match = re.match(r"\s*#[ \t]+([^\n]+?)[ \t]*\n\s*((?:>[^\n]*(?:\n|$))*)(.*)", text.strip() + "\n", re.S)
    if not match: return "", "", text
    about = " ".join(line.lstrip("> ").strip() for line in match[2].splitlines() if line.strip())
    return match[1].strip(), about, match[3].strip()


def figure_of(html: str) -> dict:
    "The plotly figure that a piece of HTML draws; None when it draws none."
    start = re.search(r"Plotly\.newPlot\(\s*\"[^\"]*\",\s*", html)
    if not start: return None
    decoder = json.JSONDecoder()
    data, end = decoder.raw_decode(html, start.end())
    layout, _ = decoder.raw_decode(html, html.index("{", end))
    return dict(data=data, layout=layout)


def figure_html(figure: dict) -> str:
    "A plotly figure as an element that assets/figures.js fills; it needs no other script and no network."
    layout = {k: v for k, v in figure["layout"].items() if k != "width"}
    data = json.dumps(dict(data=figure["data"], layout=layout), ensure_ascii=False, separators=(",", ":"))
    title = layout.get("title", {})
    title = title.get("text", "") if isinstance(title, dict) else str(title)
    axes = [layout.get(axis, {}).get("title", {}) for axis in ("yaxis", "xaxis")]
    words = [a.get("text", "") if isinstance(a, dict) else str(a) for a in axes]
    label = re.sub(r"<[^>]+>", "", title or " against ".join(w for w in words if w) or "figure")
    height, panels = int(layout.get("height") or 360), sum(key.startswith("xaxis") for key in layout)
    wide = ";min-width:34rem" if panels >= 4 else ""     # many panels do not fit on a phone: they move sideways
    element = f'<div class="sm-figure" style="height:{height}px{wide}" role="figure" aria-label="{escape(label, quote=True)}" data-figure="{escape(data, quote=True)}"></div>'
    return f'<div class="sm-frame" tabindex="0" role="group" aria-label="figure that moves sideways">{element}</div>' if wide else element


def raw_html(html: str) -> str:
    "HTML inside Markdown, as Pandoc writes it."
    fence = "`"*max(3, 1 + max((len(run) for run in re.findall("`+", html)), default=0))
    return f"{fence}{{=html}}\n{html.strip()}\n{fence}"


def _html_output(html: str) -> str:
    "HTML of an output: figures as elements, tables that can be moved sideways, nothing that runs."
    figure = figure_of(html)
    if figure: return figure_html(figure)
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.S)
    return f'<div class="sm-output" tabindex="0" role="group" aria-label="output">{html.strip()}</div>'


def output(out: dict, where: str) -> dict:
    "An output as the site shows it; None when nothing is left."
    kind = out["output_type"]
    if kind == "error": raise Problem(f"{where}: an output is the error {out.get('ename')}: {str(out.get('evalue'))[:120]}")
    if kind == "stream":
        text = ADDRESS.sub("", ANSI.sub("", text_of(out["text"])))
        return dict(output_type="stream", name="stdout", text=text) if text.strip() else None
    data = {mime: value if mime.endswith("json") else text_of(value) for mime, value in out["data"].items()}
    shown = lambda mime, value: dict(output_type="display_data", metadata={}, data={mime: value})
    if PLOTLY in data: return shown("text/markdown", raw_html(figure_html(data[PLOTLY])))
    if "text/html" in data: return shown("text/markdown", raw_html(_html_output(data["text/html"])))
    if "text/markdown" in data: return shown("text/markdown", re.sub(r"^#", "####", data["text/markdown"], flags=re.M))
    for mime in ("image/svg+xml", "image/png"):
        if mime in data: return shown(mime, data[mime].strip() if mime == "image/png" else data[mime])
    text = ADDRESS.sub("", ANSI.sub("", data.get("text/plain", "")))
    return shown("text/plain", text) if text.strip() else None


def md_cell(text: str, name: str) -> dict: return dict(cell_type="markdown", id=name, metadata={}, source=text)


def front_matter(page: Page, figures: bool) -> str:
    "YAML at the head of a page."
    head = dict(title=page.title) | (dict(description=page.about) if page.about else {})
    if figures:
        up = relative("assets", page.out)
        head["include-in-header"] = [dict(text=f'<script defer src="{up}/plotly.min.js"></script>\n<script defer src="{up}/figures.js"></script>')]
    return "---\n" + yaml.safe_dump(head, allow_unicode=True, sort_keys=False, width=1000) + "---"


def _exported(source: str, outputs: list, name: str) -> list:
    "An exported cell: the reference of what it defines, and its source, folded."
    found = reference.entries(source)
    cells = [md_cell("\n\n".join(reference.card(e) for e in found), f"{name}-reference")] if found else []
    lines = len([line for line in source.splitlines() if line.strip()])
    if found: summary = f"Source ({lines} line{'s'*(lines != 1)})"
    elif reference.only_imports(source): summary = "Imports"
    elif not reference.names(source) or any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in ast.parse(source).body): summary = f"Helpers ({lines} line{'s'*(lines != 1)})"
    else: summary = ""
    options = f'#| code-fold: true\n#| code-summary: "{summary}"\n' if summary else ""
    return cells + [dict(cell_type="code", id=name, metadata=dict(fold=summary) if summary else {}, execution_count=None,
                         source=options + source, outputs=outputs)]


def notebook(book: Book, page: Page, nb: dict) -> dict:
    "A notebook as the site shows it."
    cells, first, taken = [], True, {e.name for e in page.entries}
    for k, cell in enumerate(copy.deepcopy(nb["cells"])):
        source, name = text_of(cell["source"]), f"c{k:03d}"
        tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] == "raw" or "injected-parameters" in tags: continue
        if cell["cell_type"] == "markdown":
            if first: source, first = head_of(source)[2], False
            source = re.sub(r"^(#{1,6} +)(.+)$", lambda m: f"{m[0]} {{#on-{slug(m[2])}}}" if slug(m[2]) in taken else m[0], source, flags=re.M)
            if source.strip(): cells.append(md_cell(markdown(source, book, page.source, page.out), name))
            continue
        words, source = directives(source)
        if "hide" in words or "default_exp" in words and not source.strip() or "nbdev" in source and "nbdev_export()" in source: continue
        outputs = [shown for shown in (output(out, f"{page.source}, cell {k}") for out in cell.get("outputs", [])) if shown]
        if not source.strip() and not outputs: continue
        if any("image/png" in out.get("data", {}) for out in outputs): source = f'#| fig-alt: "picture made by the code above"\n{source}'
        if {"export", "exports", "exporti"} & set(words): cells += _exported(source, outputs, name)
        else: cells.append(dict(cell_type="code", id=name, metadata={}, execution_count=None, source=source, outputs=outputs))
    figures = any("sm-figure" in str(out.get("data", "")) for cell in cells for out in cell.get("outputs", []))
    head = dict(cell_type="raw", id="head", metadata={}, source=front_matter(page, figures))
    kernel = dict(display_name="Python 3", language="python", name="python3")
    return dict(cells=[head, *cells], metadata=dict(kernelspec=kernel, language_info=dict(name="python")), nbformat=4, nbformat_minor=5)


def read_head(nb: dict) -> tuple:
    "Title and one line about a notebook, from its first Markdown cell."
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown": return head_of(text_of(cell["source"]))[:2]
    return "", ""


def read_exports(nb: dict) -> tuple:
    "Reference entries and public names of a notebook's exported cells."
    found, names = [], []
    for cell in nb["cells"]:
        if cell["cell_type"] != "code": continue
        words, source = directives(text_of(cell["source"]))
        if {"export", "exports", "exporti"} & set(words):
            found += reference.entries(source)
            names += reference.names(source)
    return found, names
