"The pages as nbconvert makes them, and what a browser says of them."
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
import site_check
import site_plain
import site_process as process

PAGES = ["index.ipynb", "start.md", "troubleshooting.md", "glossary.md", "gallery.md", "core/errors.ipynb", "core/index.md", "lightcurve/drift.ipynb", "runs/fit.ipynb", "adr/index.md"]


@pytest.fixture(scope="module")
def pages(made, tmp_path_factory):
    "Some pages of every kind, and one page with a figure."
    project, book = made
    drawn = min((name for name in book.pages if name.endswith(".ipynb") and "sm-figure" in (project/name).read_text(encoding="utf-8")), key=lambda name: (project/name).stat().st_size)
    out = tmp_path_factory.mktemp("plain")/"_docs"
    assert site_plain.render(project, out, [*PAGES, drawn]) == len(PAGES) + 1
    return out, {name: (out/name).with_suffix(".html").read_text(encoding="utf-8") for name in [*PAGES, drawn]}, drawn


def test_every_link_leads_to_a_page_or_an_anchor(made, pages):
    project, book = made
    out, texts, _ = pages
    anchors = {name: site_check.anchors_of(site_check.markdown_of(site_check.page_cells(project/name))) for name in book.pages}
    htmls = {page.html: page.out for page in book.pages.values()}
    count = 0
    for name, text in texts.items():
        inside = re.sub(r'<pre.*?</pre>|data-figure="[^"]*"', "", text, flags=re.S)
        for _, target in re.findall(r'<[a-z]+\b[^>]*?\s(href|src)="([^"]*)"', inside):
            if re.match(r"[a-z]+:", target) or not target: continue
            path, _, anchor = unquote(unescape(target)).partition("#")
            found = process.os.path.normpath(Path(name).parent/path) if path else Path(name).with_suffix(".html").as_posix()
            assert found in htmls or (out/found).is_file(), (name, target)
            if anchor and found in htmls: assert anchor in anchors[htmls[found]] | {"main"}, (name, target)
            count += 1
    assert count > 1000


def test_the_sidebar_has_every_page_and_knows_where_it_is(made, pages):
    _, texts, _ = pages
    text = texts["core/errors.ipynb"]
    side = text[text.index('class="side"'):text.index("<main")]
    assert len(re.findall("<a ", side)) == len(made[1].pages)
    assert re.findall(r'<a href="([^"]+)" aria-current="page"', side) == ["errors.html"] and "<details open><summary>00 core" in side


def test_formulas_are_mathml_and_sources_are_folded(pages):
    text = pages[1]["lightcurve/drift.ipynb"]
    assert "<math" in text and "$" not in re.sub(r"<pre.*?</pre>|<code.*?</code>", "", text, flags=re.S)
    assert text.count('<details class="source">') >= 4 and 'id="legendre_basis"' in text and "#| " not in re.sub(r"data-figure=\"[^\"]*\"", "", text)
    assert "mathjax" not in text.lower() and 'alt="picture made by the code above"' in text


@pytest.mark.parametrize("tex", [r"$\bar x_i^{2}$", r"$$\sum_{k=1}^{n} \frac{a_k}{\sqrt{b}} \le \big(\tfrac12\big)$$", r"$\Vert x\Vert$"])
def test_a_formula(tex):
    html = site_plain.formula(tex)
    assert "<math" in html and ('class="formula"' in html) == ('display="block"' in html) == tex.startswith("$$") and "\\" not in html


def test_every_formula_of_every_page_can_be_written(made):
    count = 0
    for name in made[1].pages:
        text = site_check.markdown_of(site_check.page_cells(made[0]/name))
        masked, _ = process.masked(text, fence=process._FENCE, code=process._SPAN)
        for match in process._MATH.finditer(masked):
            html = site_plain.formula(match[0])
            assert not re.search(r"\\[a-zA-Z]", html), (name, match[0])
            count += 1
    assert count > 500


def test_foreign_words_are_escaped():
    head = dict(title="<script>alert(1)</script>", description='"><img src=x onerror=alert(1)>')
    settings = dict(website=dict(title="S", navbar=dict(left=[]), sidebar=dict(contents=[dict(href="a.md", text="<b>x</b>")]), **{"page-footer": dict(center="<i>")}))
    text = site_plain.whole(settings, "a.md", head, "<p>x</p>", ["a.md"], {"a.md": "<b>x</b>"})
    assert "<script>alert" not in text and "<img" not in text and "<b>" not in text and "<i>" not in text


# --- in a browser -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("width,theme", [(1440, "light"), (390, "dark")])
def test_pages_in_a_browser(width, theme, pages, chromium):
    "From disk, without a network: no complaint, nothing wider than the screen, nothing that axe calls serious, and figures are drawn."
    from browser import looked_at
    out, texts, drawn = pages
    names = ("index.ipynb", "troubleshooting.md", "gallery.md", "core/errors.ipynb", "lightcurve/drift.ipynb", drawn)
    wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    with looked_at(chromium, width, 900, theme) as look:
        for name in names:
            look.open((out/name).with_suffix(".html"), wait="main")
            assert look.page.evaluate("document.documentElement.dataset.theme") == theme
            assert look.page.evaluate(wider) <= 0, name
            if name == drawn:
                look.page.locator(".sm-figure").first.scroll_into_view_if_needed()
                look.page.wait_for_selector(".sm-figure svg.main-svg", timeout=30_000)
        assert look.faults() == []
        look.page.set_viewport_size(dict(width=820, height=900))
        look.page.wait_for_function(f"{wider} <= 0", timeout=10_000)      # figures follow the window a moment later
    with looked_at(chromium, width, 900, theme) as look:      # apart: axe asks for style sheets in a way that pages from disk may not
        assert [fault for name in names for fault in look.open((out/name).with_suffix(".html"), wait="main").axe(name)] == []


def test_search_theme_sources_and_menu(pages, chromium):
    from browser import looked_at
    out, _, _ = pages
    with looked_at(chromium, 1440, 900, "light") as look:
        look.open(out/"lightcurve"/"drift.html", wait="#fold")
        assert not look.page.locator("details.source[open]").count()
        look.page.click("#fold")
        assert look.page.locator("details.source[open]").count() == look.page.locator("details.source").count() >= 4
        look.page.keyboard.press("/")
        look.page.keyboard.type("QualityGateError")
        links = look.page.locator("#found a")
        assert links.count() >= 1
        look.page.keyboard.press("Enter")
        look.page.wait_for_url(re.compile("(errors|troubleshooting)\\.html#"))
        look.page.click("#theme")
        assert look.page.evaluate("document.documentElement.dataset.theme") == "dark"
        look.open(out/"start.html", wait="main")
        assert look.page.evaluate("document.documentElement.dataset.theme") == "dark" and look.faults() == []
    with looked_at(chromium, 390, 800) as look:
        look.open(out/"index.html", wait="main")
        assert not look.page.locator("#side").is_visible()
        look.page.click("#menu")
        assert look.page.locator("#side").is_visible() and look.page.get_attribute("#menu", "aria-expanded") == "true"
        assert look.faults() == []
