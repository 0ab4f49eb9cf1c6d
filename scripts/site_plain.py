"The processed project as plain HTML, by nbconvert: the same pages and the same sidebar where Quarto is missing. Nothing in it needs a network."
import json
import re
import shutil
from html import escape, unescape
from pathlib import Path

import yaml

import site_check
import site_process as process

TEMPLATE = """{% extends 'basic/index.html.j2' %}
{% block input %}{% if cell.metadata.fold %}<details class="source"><summary>{{ cell.metadata.fold | e }}</summary>{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock input %}
"""
ALT = "picture made by the code above"
_CALLOUT = re.compile(r"^::: *\{\.(callout-\w+)[^}]*\}\n(.*?)\n:::[ \t]*$", re.M | re.S)
_RAW = re.compile(r"^(`{3,})\{=html\}\n(.*?)\n\1[ \t]*$", re.M | re.S)


def formula(text: str) -> str:
    "TeX between dollars as MathML."
    from latex2mathml.converter import convert
    block = text.startswith("$$")
    tex = text.strip("$").replace("\\Vert", "\\|").replace("\\tfrac", "\\frac")
    html = convert(tex, display="block" if block else "inline")
    if not block and len(tex) < 60: return html
    return f'<span class="formula{"" if block else " inline"}" tabindex="0" role="group" aria-label="formula">{html}</span>'      # may be wider than a phone


def _tables(html: str) -> str:
    "Wide tables move inside a frame of their own."
    return re.sub(r"<table\b.*?</table>", lambda m: f'<div class="scroll" tabindex="0" role="group" aria-label="table">{m[0]}</div>', html, flags=re.S)


class Writer:
    "Notebooks and Markdown to the inside of a page."

    def __init__(self):
        import nbformat
        from jinja2 import DictLoader, pass_context
        from nbconvert.exporters import HTMLExporter, TemplateExporter
        from nbconvert.filters.highlight import Highlight2HTML
        from nbconvert.filters.markdown_mistune import markdown2html_mistune
        prose = self.prose
        class Pages(HTMLExporter):
            @pass_context
            def markdown2html(self, context, source): return prose(source)
            def from_notebook_node(self, nb, resources=None, **more):   # HTMLExporter's own would read every page again with BeautifulSoup
                self.register_filter("highlight_code", Highlight2HTML(pygments_lexer="python", parent=self))
                return TemplateExporter.from_notebook_node(self, nb, resources, **more)
        self.format, self.mistune, self.used = nbformat, markdown2html_mistune, {}
        self.exporter = Pages(template_name="basic", extra_loaders=[DictLoader({"site.html.j2": TEMPLATE})], template_file="site.html.j2")
        self.exporter.exclude_input_prompt = self.exporter.exclude_output_prompt = True

    def prose(self, text: str) -> str:
        "Markdown as Pandoc would read it: raw HTML, callouts, headings with their anchors, formulas."
        blocks = []
        def keep(html): blocks.append(html); return f"SITEBLOCK{len(blocks) - 1}END"
        text = _RAW.sub(lambda m: "\n" + keep(m[2]) + "\n", text)
        text = _CALLOUT.sub(lambda m: "\n" + keep(f'<div class="{m[1]}">{self.prose(m[2])}</div>') + "\n", text)
        masked, kept = process.masked(text, fence=process._FENCE, code=process._SPAN)
        masked = process._MATH.sub(lambda m: keep(formula(m[0])), masked)
        text = process.unmasked(masked, kept)
        html = re.sub(r'(<a\b[^>]*\bhref="(?![a-z]+:)[^"#]*)\.(ipynb|md)(?=["#])', r"\1.html", self.mistune(text))
        html = re.sub(r"<h([1-6])[^>]*>(.*?)</h\1>", self._heading, html, flags=re.S)
        html = _tables(html).replace("<pre", '<pre tabindex="0"')
        html = re.sub(r"<p>\s*SITEBLOCK(\d+)END\s*</p>", lambda m: blocks[int(m[1])], html)
        while "SITEBLOCK" in html: html = re.sub(r"SITEBLOCK(\d+)END", lambda m: blocks[int(m[1])], html)
        return html

    def _heading(self, match) -> str:
        words = re.sub(r'<a class="anchor-link".*?</a>', "", match[2], flags=re.S).strip()
        attributes = re.search(r"\s*\{([^{}]*)\}$", words)
        name, classes = "", ""
        if attributes:
            marks = attributes[1].split()
            name = next((m[1:] for m in marks if m.startswith("#")), "")
            classes = " ".join(m[1:] for m in marks if m.startswith("."))
            words = words[:attributes.start()]
        if not name:
            name = process.slug(unescape(re.sub(r"<[^>]+>", "", words)))
            self.used[name] = self.used.get(name, -1) + 1
            if self.used[name]: name = f"{name}-{self.used[name]}"
        return f'<h{match[1]} id="{escape(name)}"{f" class={chr(34)}{classes}{chr(34)}" if classes else ""}>{words}</h{match[1]}>'

    def body(self, path: Path) -> tuple:
        "Front matter and HTML of a page."
        self.used = {}
        cells = site_check.page_cells(path)
        if path.suffix == ".md": return site_check.head(cells), self.prose(cells[1][1])
        nb = self.format.reads(path.read_text(encoding="utf-8"), 4)
        nb.cells = nb.cells[1:]
        for cell in nb.cells:
            if cell.cell_type == "code": cell.source = re.sub(r"^#\| .*\n", "", cell.source, flags=re.M)
        html, _ = self.exporter.from_notebook_node(nb)
        html = re.sub(r"<img (?![^>]*\balt=)", f'<img alt="{escape(ALT, quote=True)}" ', html)
        return site_check.head(cells), html.replace("<pre>", '<pre tabindex="0">')


def href(name: str, page: str) -> str: return process.relative(str(Path(name).with_suffix(".html")), page)


def side(items: list, page: str) -> str:
    "The sidebar; the section in which the page lies is open."
    parts = []
    for item in items:
        if "section" in item:
            inside = page in site_check.hrefs(item["contents"])
            parts.append(f'<li><details{" open" if inside else ""}><summary>{escape(item["section"])}</summary>{side(item["contents"], page)}</details></li>')
        else:
            here = ' aria-current="page"' if item["href"] == page else ""
            parts.append(f'<li><a href="{href(item["href"], page)}"{here}>{escape(item["text"])}</a></li>')
    return f"<ul>{''.join(parts)}</ul>"


def trail(items: list, page: str) -> list:
    "The names of the sections in which a page lies."
    for item in items:
        if "section" in item and page in site_check.hrefs(item["contents"]): return [item["section"], *trail(item["contents"], page)]
    return []


def contents(html: str) -> list:
    "(level, identifier, words) of a page's headings of the second and third level."
    found = re.findall(r'<h([23])\b[^>]*?\bid="([^"]+)"[^>]*>(.*?)</h\1>', html, flags=re.S)
    return [(int(level), name, re.sub(r"<[^>]+>", "", words)) for level, name, words in found]


def whole(settings: dict, page: str, head: dict, html: str, order: list, titles: dict) -> str:
    "A page with everything round it."
    website, up = settings["website"], process.relative(".", page)
    base = "" if up == "." else f"{up}/"
    items = website["sidebar"]["contents"]
    bar = "".join(f'<a href="{href(i["href"], page)}"{" aria-current=page" if i["href"] == page else ""}>{escape(i["text"])}</a>' for i in website["navbar"]["left"])
    heads = contents(html)
    toc = "".join(f'<li class="l{level}"><a href="#{escape(name)}">{words}</a></li>' for level, name, words in heads)
    k = order.index(page)
    before = f'<a href="{href(order[k - 1], page)}" rel="prev">← {escape(titles[order[k - 1]])}</a>' if k else "<span></span>"
    after = f'<a href="{href(order[k + 1], page)}" rel="next">{escape(titles[order[k + 1]])} →</a>' if k + 1 < len(order) else "<span></span>"
    crumbs = " › ".join(escape(w) for w in trail(items, page))
    scripts = "".join(f'<script defer src="{base}assets/{name}"></script>' for name in (["plotly.min.js", "figures.js"] if "sm-figure" in html else []))
    fold = '<div class="tools"><button type="button" id="fold">Show the sources</button></div>' if '<details class="source"' in html else ""
    title = f"{head['title']} · {website['title']}" if head["title"] != website["title"] else website["title"]
    about = str(head.get("description") or "")
    return f"""<!doctype html>
<html lang="en-GB" data-base="{base}">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><meta name="description" content="{escape(about, quote=True)}">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{base}assets/pygments.css"><link rel="stylesheet" href="{base}assets/plain.css"><link rel="stylesheet" href="{base}assets/site.css">
<script src="{base}assets/plain.js"></script><script defer src="{base}assets/search.js"></script>{scripts}
</head>
<body>
<a class="skip" href="#main">to the text</a>
<header class="top"><a class="brand" href="{base}index.html">{escape(website['title'])}</a>
<nav aria-label="main pages">{bar}</nav>
<div class="search" role="search"><input id="search" type="search" placeholder="Search" aria-label="search this site" autocomplete="off"><ul id="found" aria-label="found pages"></ul></div>
<button type="button" id="menu" class="menu-button" aria-expanded="false" aria-controls="side">Pages</button>
<button type="button" id="theme">Dark</button></header>
<div class="page">
<nav class="side" id="side" aria-label="all pages">{side(items, page)}</nav>
<main id="main">{fold}{f'<p class="crumbs">{crumbs}</p>' if crumbs else ''}
<h1>{_title(head['title'])}</h1>
{f'<p class="about">{_title(about)}</p>' if about else ''}
{html}
<div class="turn">{before}{after}</div></main>
<aside class="toc" aria-label="on this page">{f'<p>On this page</p><ul>{toc}</ul>' if toc else ''}</aside>
</div>
<footer>{escape(str(website['page-footer']['center']))}</footer>
</body></html>
"""


def _title(text: str) -> str:
    "A title or a line of words: code and formulas only."
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", process._MATH.sub(lambda m: formula(m[0]), escape(str(text), quote=False)))


def colours() -> str:
    "Pygments' styles for both themes."
    from pygments.formatters import HtmlFormatter
    light, dark = HtmlFormatter(style="default").get_style_defs(".highlight"), HtmlFormatter(style="github-dark").get_style_defs(":root[data-theme=dark] .highlight")
    keep = lambda css: "\n".join(line for line in css.splitlines() if not re.match(r"(pre|td\.linenos|span\.linenos)", line))
    return f"{keep(light)}\n{keep(dark)}\n.highlight,:root[data-theme=dark] .highlight{{background:none}}\n"


def render(project: Path, target: Path, only=None) -> int:
    "Write the site; the number of its pages. `only`: some of the pages, for a quick look."
    settings = yaml.safe_load((project/"_quarto.yml").read_text(encoding="utf-8"))
    order = site_check.hrefs(settings["website"]["sidebar"]["contents"])
    writer, index = Writer(), []
    titles = {name: str(site_check.head(site_check.page_cells(project/name))["title"]) for name in order}
    if target.exists(): shutil.rmtree(target)
    for resource in settings["project"]["resources"]: shutil.copytree(project/resource.removesuffix("/**"), target/resource.removesuffix("/**"))
    (target/"assets"/"pygments.css").write_text(colours(), encoding="utf-8")
    for name in order if only is None else only:
        head, html = writer.body(project/name)
        path = (target/name).with_suffix(".html")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(whole(settings, name, head, html, order, titles), encoding="utf-8")
        page = str(Path(name).with_suffix(".html"))
        index.append(dict(t=re.sub(r"[`$]", "", titles[name]), s=str(head.get("description") or ""), h=page, x=""))
        index += [dict(t=unescape(words), s=titles[name], h=f"{page}#{anchor}", x="") for _, anchor, words in contents(html)]
    (target/"assets"/"search.js").write_text("window.SM_SEARCH = " + json.dumps(index, ensure_ascii=False).replace("<", "\\u003c") + ";\n", encoding="utf-8")
    return len(order if only is None else only)
