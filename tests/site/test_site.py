"The site without Quarto: the project that Quarto would render has no fault, and the check finds the faults that are put in."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import site_build
import site_check
import site_process as process
import site_reference as reference
import yaml

from spectramind.core import errors

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["SpectraMindError", "SchemaError", "ConfigError", "UsageError", "DataError", "RuntimeLimitError", "InternalError", "QualityGateError"]


def settings_of(project): return yaml.safe_load((project/"_quarto.yml").read_text(encoding="utf-8"))


def outputs_of(project):
    for path in sorted(project.rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for out in cell.get("outputs", []): yield path, out


def test_no_fault(made):
    project, book = made
    assert book.problems == []
    assert site_check.faults(project) == []


def test_every_notebook_and_every_page_is_there(made):
    project, book = made
    sources = {page.source for page in book.pages.values()}
    notebooks = {p.relative_to(ROOT).as_posix() for p in (ROOT/"nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}
    assert notebooks <= sources
    assert {p.relative_to(ROOT).as_posix() for p in [ROOT/"ARCHITECTURE.md", *(ROOT/"docs").rglob("*.md"), *(ROOT/"benchmarks").glob("*.md")]} <= sources
    for name in ("index.ipynb", "start.md", "reference.md", "gallery.md", "glossary.md", "troubleshooting.md", "adr/index.md", "runs/index.md", "tutorials/index.md"): assert (project/name).is_file()


def test_titles_are_those_of_the_notebooks(made):
    project, book = made
    for page in book.pages.values():
        if not page.source.endswith(".ipynb"): continue
        first = next(c for c in json.loads((ROOT/page.source).read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "markdown")
        assert process.text_of(first["source"]).splitlines()[0].lstrip("# ").strip() == page.title


def test_figures_have_an_html_form_and_one_local_plotly(made):
    project, book = made
    def draws(data): return process.PLOTLY in data or process.figure_of(process.text_of(data.get("text/html", ""))) is not None
    committed = sum(draws(out.get("data", {})) for page in book.pages.values() if isinstance(page.body, dict) for cell in page.body["cells"] for out in cell.get("outputs", []))
    shown = sum("sm-figure" in process.text_of(out.get("data", {}).get("text/markdown", "")) for _, out in outputs_of(project))
    assert shown == committed >= 10
    assert (project/"assets"/"plotly.min.js").stat().st_size > 1e6
    for path in project.rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert "cdn.plot.ly" not in text and ("sm-figure" in text) == ("assets/plotly.min.js" in text and "include-in-header" in text), path


def test_quarto_executes_nothing_and_fetches_nothing(made):
    settings = settings_of(made[0])
    assert settings["execute"] == {"enabled": False} and "pre-render" not in settings["project"] and "ipynb-filters" not in settings["format"]["html"]
    assert settings["format"]["html"]["html-math-method"] == "mathml"
    for theme in ("light", "dark"): assert "$web-font-path: false" in (made[0]/"assets"/f"{theme}.scss").read_text() and f"assets/{theme}.scss" in settings["format"]["html"]["theme"][theme]
    for _, out in outputs_of(made[0]): assert set(out.get("data", {})) <= {"text/plain", "text/markdown", "image/png", "image/svg+xml"}     # HTML outputs make Quarto add scripts from elsewhere


def test_settings_are_words_that_quarto_knows(made):
    "Names after Quarto's own schema (website, navigation items, sidebar); an unknown one stops a rendering."
    settings = settings_of(made[0])
    assert set(settings) == {"project", "execute", "lang", "website", "format"} and settings["project"]["type"] == "website"
    assert set(settings["project"]) <= {"type", "output-dir", "render", "resources", "title", "lib-dir"}
    assert set(settings["website"]) <= {"title", "description", "site-url", "repo-url", "repo-actions", "search", "page-navigation", "back-to-top-navigation", "bread-crumbs", "navbar", "sidebar", "page-footer", "favicon"}
    assert set(settings["website"]["sidebar"]) <= {"style", "contents", "collapse-level", "search", "title", "pinned", "border"}
    def look(items):
        for item in items:
            assert set(item) in ({"href", "text"}, {"section", "contents"}), item
            look(item.get("contents", []))
    look(settings["website"]["sidebar"]["contents"]), look(settings["website"]["navbar"]["left"])
    for path in made[0].rglob("*.ipynb"):
        kernel = json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"]
        assert kernel == "python3"


@pytest.mark.parametrize("name", KINDS)
def test_every_error_has_its_paragraph(name, made):
    cls = getattr(errors, name)
    assert {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.SpectraMindError)} == set(KINDS)
    page, _, anchor = str(cls("x", "y", "z") if name == "DataError" else cls("x")).splitlines()[-1].removeprefix("docs: ").partition("#")
    base = settings_of(made[0])["website"]["site-url"]
    assert page == base + "troubleshooting.html" and anchor == cls.slug
    text = (ROOT/"docs"/"troubleshooting.md").read_text(encoding="utf-8")
    assert anchor in site_check.anchors_of(text)
    if name != "SpectraMindError": assert f"*Exit code {cls.exit_code}.*" in text.partition(f"{{#{anchor}}}")[2][:60]


def test_old_address():
    "No committed output of a notebook prints an address of errors that is no longer there."
    old = [p.name for p in (ROOT/"nbs").rglob("*.ipynb") if "spectramind/core/errors.html" in p.read_text(encoding="utf-8")]
    assert old == []


def test_every_public_function_is_in_the_reference(made):
    import importlib
    project, book = made
    text = (project/"reference.md").read_text(encoding="utf-8")
    for page in book.pages.values():
        for entry in page.entries: assert f"[`{entry.name}`]({page.out}#{entry.name})" in text
    for name in ("core.errors", "scoring.score", "lightcurve.drift"):
        module = importlib.import_module(f"spectramind.{name}")
        here = {e.name for e in book.pages[name.replace(".", "/") + ".ipynb"].entries}
        assert {n for n in module.__all__ if callable(getattr(module, n)) and getattr(module, n).__module__ == module.__name__} == here


def test_a_card_has_types_defaults_and_comments():
    source = '''def bend(
    x:np.ndarray,          # (n,) electrons
    how:str|None='so',     # which | way
    *, most:int=3,         # steps
)->np.ndarray:             # (n,)
    "Bend `x`; raises ConfigError."
    return x'''
    entry, = reference.entries(source)
    assert entry.signature == "bend(x, how='so', *, most=3)"
    assert entry.rows == [("x", "np.ndarray", "", "(n,) electrons"), ("how", "str | None", "'so'", "which | way"), ("most", "int", "3", "steps"), ("returns", "np.ndarray", "", "(n,)")]
    card = reference.card(entry)
    assert "### bend {#bend .reference}" in card and "<code>str &#124; None</code>" in card and "which \\| way" in card and "*returns*" in card
    private, = reference.entries("class Box:\n    'A box.'\n    size:int = 3 # mm\n    def open(self, wide): 'Open it.'\n    def _lock(self): pass")
    assert private.rows == [("size", "int", "3", "mm")] and private.methods == [("open(wide)", "Open it.")]
    assert reference.entries("def _hidden(): pass") == []


FAULTS = {
    "a link": (lambda c: c.append(process.md_cell("[gone](../core/nowhere.ipynb)", "x")), "leads nowhere"),
    "a heading": (lambda c: c.append(process.md_cell("[gone](../core/errors.ipynb#no-such)", "x")), "a heading that does not exist"),
    "an image": (lambda c: c.append(process.md_cell("![](../images/none.png)", "x")), "no words that stand for it"),
    "a title": (lambda c: c.__setitem__(0, dict(cell_type="raw", id="h", metadata={}, source="---\ndescription: x\n---")), "no title"),
    "a directive": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="#| export\nx = 1", outputs=[])), "directives are left"),
    "an error": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="1/0", outputs=[dict(output_type="error", ename="E", evalue="", traceback=[])])), "an output is an error"),
    "a warning": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="x", outputs=[dict(output_type="stream", name="stdout", text="a.py:3: UserWarning: x\n")])), "a warning"),
    "a place": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="x", outputs=[dict(output_type="stream", name="stdout", text="wrote /home/me/x\n")])), "somebody's machine"),
    "a bare figure": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="x", outputs=[dict(output_type="display_data", metadata={}, data={process.PLOTLY: {}})])), "no HTML form"),
    "a script": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="x", outputs=[dict(output_type="display_data", metadata={}, data={"text/markdown": "<script>1</script>"})])), "brings a script"),
    "the network": (lambda c: c.append(dict(cell_type="code", id="x", metadata={}, source="x", outputs=[dict(output_type="display_data", metadata={}, data={"text/markdown": '<img alt="a" src="https://a.b/c.png">'})])), "from elsewhere"),
    "a second title": (lambda c: c.append(process.md_cell("# Again", "x")), "a second title"),
    "an anchor": (lambda c: c.append(process.md_cell("## a {#same}\n\n## b {#same}", "x")), "stands twice"),
}


@pytest.fixture(scope="module")
def small(made, tmp_path_factory):
    "A project of a few pages, to break."
    folder = tmp_path_factory.mktemp("small")/"project"
    keep = ["index.ipynb", "core/errors.ipynb"]
    for name in keep: process_copy(made[0]/name, folder/name)
    for name in ("images", "assets"): shutil.copytree(made[0]/name, folder/name)
    settings = settings_of(made[0])
    settings["project"]["render"] = keep
    settings["website"]["navbar"]["left"] = []
    settings["website"]["sidebar"]["contents"] = [dict(href=name, text=name) for name in keep]
    cells = [json.loads((folder/n).read_text())["cells"] for n in keep]
    for name, page in zip(keep, cells):      # links to pages that are not here are not the point
        text = json.dumps(dict(cells=[c if c["cell_type"] != "markdown" else dict(c, source=process._LINK.sub(r"\2", process.text_of(c["source"]))) for c in page]))
        (folder/name).write_text(text)
    (folder/"_quarto.yml").write_text(yaml.safe_dump(settings))
    assert site_check.faults(folder) == []
    return folder


def process_copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, small, tmp_path):
    spoil, words = FAULTS[name]
    project = shutil.copytree(small, tmp_path/"project")
    path = project/"core"/"errors.ipynb"
    page = json.loads(path.read_text())
    spoil(page["cells"])
    path.write_text(json.dumps(page))
    found = site_check.faults(project)
    assert found and any(words in fault for fault in found), found


def test_a_page_that_no_list_knows_and_one_that_is_not_there(small, tmp_path):
    project = shutil.copytree(small, tmp_path/"project")
    (project/"core"/"new.md").write_text("---\ntitle: New\n---\n\ntext\n")
    (project/"index.ipynb").unlink()
    found = "\n".join(site_check.faults(project))
    assert "core/new.md: is not in the sidebar" in found and "core/new.md: is not in _quarto.yml's list" in found and "the sidebar lists index.ipynb, which does not exist" in found


def test_an_error_among_outputs_stops_the_site():
    with pytest.raises(process.Problem, match="ZeroDivisionError"): process.output(dict(output_type="error", ename="ZeroDivisionError", evalue="x"), "a.ipynb, cell 3")


def test_directives_never_reach_the_page():
    book, page = process.Book(), process.Page("a/b.ipynb", "nbs/00_core/b.ipynb", "T", "why", [], [])
    cells = [dict(cell_type="markdown", metadata={}, source="# T\n\n> why\n\nText."), dict(cell_type="code", metadata={}, source="#| default_exp a.b", outputs=[]),
             dict(cell_type="code", metadata={}, source="#| hide\nsecret = 1", outputs=[]), dict(cell_type="code", metadata={}, source="#| export\nimport os", outputs=[]),
             dict(cell_type="code", metadata={}, source="#|export\ndef open_it(\n    path:str, # where\n): 'Open it.'", outputs=[]),
             dict(cell_type="code", metadata={}, source="open_it('x')", outputs=[dict(output_type="stream", name="stdout", text="\x1b[31mred\x1b[0m <object at 0x7f001122aabb>\n")])]
    out = process.notebook(book, page, dict(cells=cells))
    text = json.dumps(out)
    assert "default_exp" not in text and "secret" not in text and "| export" not in text and "|export" not in text and "\\u001b" not in text and "0x7f" not in text
    assert "title: T" in text and "description: why" in text and "{#open_it .reference}" in text
    assert [c["source"].splitlines()[0] for c in out["cells"] if c["cell_type"] == "code"] == ["#| code-fold: true", "#| code-fold: true", "open_it('x')"]


def test_names_in_prose_are_links_and_code_is_left_alone():
    book = process.Book()
    book.symbols = {"fit_planet": ("lightcurve/fit.ipynb", "fit_planet"), "core.store": ("core/store.ipynb", "")}
    text = process.markdown("Call `fit_planet` of `core.store`.\n\n## `fit_planet`\n\n```\nfit_planet `fit_planet`\n```\n\n[see `fit_planet`](https://a.b)", book, "nbs/00_core/x.ipynb", "core/x.ipynb")
    assert "[`fit_planet`](../lightcurve/fit.ipynb#fit_planet)" in text and "[`core.store`](store.ipynb)" in text
    assert "\n## `fit_planet`\n" in text and "fit_planet `fit_planet`\n```" in text and "[see `fit_planet`](https://a.b)" in text


def test_a_link_to_nothing_is_a_problem():
    book = process.Book()
    process.markdown("[x](nowhere.md)", book, "docs/start.md", "start.md")
    assert book.problems == ["docs/start.md: the link nowhere.md leads nowhere"]
    assert process.markdown("[x](../LICENSE)", book, "docs/start.md", "start.md").startswith("[x](https://github.com/")


def test_run_notebooks_show_their_last_run(tmp_path):
    from spectramind.core.store import write_json
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Fit\n\n> a → b"), nbformat.v4.new_code_cell("show()", outputs=[nbformat.v4.new_output("display_data", data={process.PLOTLY: dict(data=[], layout=dict(title=dict(text="<b>T</b>")))})])])
    for k, state in enumerate(("done", "failed")):
        folder = tmp_path/"artifacts"/"runs"/"fit"/f"2026010{k}_000000"
        folder.mkdir(parents=True)
        nbformat.write(nb, folder/"executed.ipynb")
        write_json(folder/"status.json", dict(state=state))
    assert site_build.last_run(tmp_path, "fit").parent.name == "20260100_000000" and site_build.last_run(tmp_path, "train") is None
    book = process.Book()
    site_build.run_page(book, ROOT/"nbs"/"runs"/"fit.ipynb", tmp_path)
    page = book.pages["runs/fit.ipynb"]
    shown = json.dumps(process.notebook(book, page, page.body), ensure_ascii=False)
    assert "20260100_000000" in shown and "sm-figure" in shown and 'aria-label=\\"T\\"' in shown
    site_build.run_page(other := process.Book(), ROOT/"nbs"/"runs"/"train.ipynb", tmp_path)
    assert "--engine papermill" in json.dumps(other.pages["runs/train.ipynb"].body)


def test_a_bare_quarto_render_is_refused_with_the_way():
    command = yaml.safe_load((ROOT/"_quarto.yml").read_text())["project"]["pre-render"].split()
    said = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 3 and "make docs" in said.stderr


def test_without_quarto_it_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert site_build.main(["--renderer", "quarto"]) == 3
    said = capsys.readouterr().err
    assert "quarto.org" in said and site_build.QUARTO in said and "rendered without it" not in said


def test_with_quarto_it_is_given_the_project_and_its_pages_are_moved(monkeypatch, tmp_path, made):
    "A stand-in for Quarto notes how it was called and leaves a page, as Quarto would."
    tool = tmp_path/"bin"/"quarto"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\npwd > "$NOTE"; echo "$@" >> "$NOTE"; mkdir _docs; echo page > _docs/index.html; exit $END\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin"), monkeypatch.setenv("NOTE", str(tmp_path/"note")), monkeypatch.setenv("END", "0")
    project = tmp_path/"project"
    project.mkdir()
    assert site_build.render_quarto(project, tmp_path/"out") == 0
    assert (tmp_path/"note").read_text().split() == [str(project), "render", "--no-execute"] and (tmp_path/"out"/"index.html").read_text() == "page\n"
    monkeypatch.setenv("END", "1")
    assert site_build.render_quarto(project, tmp_path/"out") == 5


def test_the_workflow_publishes_with_the_pinned_quarto():
    text = (ROOT/".github"/"workflows"/"docs.yml").read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    assert flow["env"]["QUARTO"] == site_build.QUARTO and re.fullmatch("[0-9a-f]{64}", flow["env"]["QUARTO_SHA256"])
    assert flow["permissions"] == {"contents": "read"} and flow["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "uses" in step: assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step
    said = "\n".join(step.get("run", "") for step in steps)
    assert "sha256sum --check" in said and "site_build.py --renderer quarto" in said and "make demo" in said
    pinned = {u.split("@")[0]: u for u in re.findall(r"uses: (\S+)", (ROOT/".github"/"workflows"/"ci.yml").read_text())}
    for step in steps:
        name = step.get("uses", "").split("@")[0]
        if name in pinned: assert step["uses"] == pinned[name]


def test_the_readme_is_the_front_page():
    said = subprocess.run([sys.executable, str(ROOT/"scripts"/"readme.py"), "--check"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr + said.stdout
