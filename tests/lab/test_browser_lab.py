"JupyterLab in a headless browser, with no network: the tour runs to its end, `explore` is on the page and moves without a kernel, and with one when it is live."
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from browser import Look

ROOT = Path(__file__).parents[2]
TOUR = ROOT/"nbs"/"tutorials"/"20_tour.ipynb"
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},                     # all cells are on the page, not only those in sight
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}}
SMALL = ("""import numpy as np
from spectramind.diagnostics.explore import explore_live, fitted_visits
from spectramind.lightcurve.fit import fit_planet
from spectramind.simulate.curves import simulate_light_curves
from spectramind.simulate.population import draw_population
planet = draw_population(1, 11)[0]
curves = simulate_light_curves(planet, seed=11)
posterior = fit_planet(curves, planet.star)
visits = fitted_visits(curves, planet.star)""",
         "explore_live(visits, posterior.mean, np.sqrt(np.diag(posterior.cov)), planet.depth, 'a planet')")


@contextmanager
def jupyterlab(folder):
    "A server of its own on any free port: nobody's settings, no network but this machine."
    chosen = Path(folder)/"settings"/"@jupyterlab"
    for name, values in SETTINGS.items():
        path = chosen/f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    place = {"HOME": "home", "IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
             "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    for name in (*place.values(), "books"): (Path(folder)/name).mkdir(exist_ok=True)
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    env = os.environ | {name: f"{folder}/{part}" for name, part in place.items()} | nowhere | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "JUPYTER_PREFER_ENV_PATH": "1"}
    env.pop("PYTEST_CURRENT_TEST", None)
    token = secrets.token_hex(16)
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}/books",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]
    with open(f"{folder}/server.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log, cwd=folder)
        try:
            began = time.monotonic()
            while not (notes := list((Path(folder)/"runtime").glob("jpserver-*.json"))):
                if server.poll() is not None or time.monotonic() - began > 120: pytest.fail(f"JupyterLab did not start:\n{Path(folder, 'server.log').read_text()[-2000:]}")
                time.sleep(.2)
            yield json.loads(notes[0].read_text())["url"], token
        finally:
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    "A function: notebook to an open page, and what the browser complained of or asked others for. One server for all."
    folder, contexts = tmp_path_factory.mktemp("lab"), []
    with jupyterlab(folder) as (url, token):
        def open_notebook(book, name):
            nbformat.write(book, folder/"books"/name)
            contexts.append(chromium.new_context(viewport={"width": 1440, "height": 1000}))
            contexts[-1].route(lambda asked: not asked.startswith(("http://127.0.0.1:", "data:", "blob:")), lambda route: route.abort())        # nobody else is there
            look = Look(contexts[-1].new_page())
            look.page.goto(f"{url}lab/workspaces/{name.partition('.')[0]}/tree/{name}?token={token}")      # each notebook in a workspace of its own
            look.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
            return look.page, lambda: [line for line in look.said if line.startswith("error:")] + [to for to in look.asked if not to.startswith(("http://127.0.0.1:", "data:", "blob:"))]
        yield open_notebook
        for context in contexts: context.close()


def run_all(page, limit_s):
    "Run > Run All Cells, as a reader would; returns when every cell has its number, one has failed, or the time is over."
    page.locator(".jp-StatusBar-TextItem", has_text="| Idle").filter(has_text="Python 3").wait_for(timeout=120_000)
    page.locator(".lm-MenuBar-item", has_text="Run").click()
    page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        prompts = [text.strip("[]: ") for text in page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()]
        if errors(page) or all(prompt.isdigit() for prompt in prompts): break
        assert page.locator(".jp-Dialog").count() == 0, page.locator(".jp-Dialog").first.inner_text()
        page.wait_for_timeout(300)
    return prompts, time.monotonic() - began


def errors(page):
    "Tracebacks and what was said on standard error."
    return page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error'], .jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()


def figure_at(plot):
    "What plotly has drawn: width, the plots' share of it, and for each visible light curve its second value."
    return plot.evaluate("""node => {const size = node._fullLayout._size, width = node._fullLayout.width;
        return {width, share: size.w/width, cell: node.closest('.jp-OutputArea-output').clientWidth,
                curves: node._fullData.filter(trace => trace.visible === true && trace.xaxis !== 'x' && trace.xaxis !== 'x2').map(trace => trace.y[1])};}""")


def test_the_tour_runs_in_jupyterlab_and_explore_moves_without_a_kernel(lab, tmp_path):
    page, complaints = lab(nbformat.read(TOUR, 4), "tour.ipynb")
    prompts, seconds = run_all(page, 600)
    page.screenshot(path=tmp_path/"tour.png")
    assert errors(page) == [] and prompts == [str(k + 1) for k in range(len(prompts))] and len(prompts) > 10
    assert seconds < 300                                                                 # the five minutes that the tour promises, on a busy machine
    assert page.locator(".js-plotly-plot").count() >= 6 and page.locator(".jp-RenderedHTMLCommon table svg").count() >= 4
    plot = page.locator(".js-plotly-plot", has=page.locator(".slider-container"))
    assert plot.count() == 1
    kernels = page.evaluate("async () => {const base = location.origin, all = await (await fetch(base + '/api/kernels')).json(); return all.map(kernel => kernel.execution_state);}")
    assert kernels == ["idle"]
    page.locator(".lm-MenuBar-item", has_text="Kernel").click()
    page.locator(".lm-Menu-item[data-command='kernelmenu:shutdown']").click()
    page.wait_for_function("async () => (await (await fetch(location.origin + '/api/kernels')).json()).length === 0")
    plot.locator(".slider-group").scroll_into_view_if_needed()
    white, said = figure_at(plot), plot.locator(".slider-label").first.text_content()
    assert white["share"] > .7 and white["width"] > .95*white["cell"]
    rail = plot.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + .8*rail["width"], rail["y"] + rail["height"]/2)
    page.wait_for_timeout(600)
    part = figure_at(plot)
    assert plot.locator(".slider-label").first.text_content() != said and len(part["curves"]) == len(white["curves"]) and part["curves"] != white["curves"]
    plot.locator(".updatemenu-button", has_text="as measured").click()
    page.wait_for_timeout(600)
    assert figure_at(plot)["curves"] != part["curves"]
    page.screenshot(path=tmp_path/"explore.png")
    assert complaints() == []
    page.close()


def notebook(*cells):
    "A notebook of code cells."
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
                                    metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}})


def test_explore_with_a_kernel_follows_its_widgets(lab, tmp_path):
    page, complaints = lab(notebook(*SMALL), "live.ipynb")
    prompts, _ = run_all(page, 300)
    assert errors(page) == [] and prompts == ["1", "2"]
    plot = page.locator(".js-plotly-plot")
    plot.wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    before = figure_at(plot)
    page.screenshot(path=tmp_path/"before.png")
    assert plot.locator(".slider-container").count() == plot.locator(".updatemenu-container").count() == 0     # the widgets do that
    assert before["share"] > .7 and .6*before["cell"] < before["width"] <= before["cell"]           # plotly draws its widget 700 px wide, whatever the cell
    page.locator(".widget-dropdown select").select_option("as measured")
    page.wait_for_function("([node, old]) => JSON.stringify(node._fullData.filter(t => t.visible === true && !['x', 'x2'].includes(t.xaxis)).map(t => t.y[1])) !== old",
                           arg=[plot.element_handle(), json.dumps(before["curves"], separators=(",", ":"))], timeout=60_000)
    page.screenshot(path=tmp_path/"after.png")
    assert errors(page) == [] and complaints() == []
    page.close()


def test_a_cell_that_fails_is_noticed(lab):
    page, _ = lab(notebook("1 + 1", "1/0", "2 + 2"), "broken.ipynb")
    prompts, seconds = run_all(page, 120)
    assert seconds < 120 and ["ZeroDivisionError" in text for text in errors(page)] == [True] and prompts[0] == "1" and not prompts[2].isdigit()
    page.close()
    page, _ = lab(notebook("import sys; print('careful', file=sys.stderr)"), "warned.ipynb")
    run_all(page, 120)
    assert [text.strip() for text in errors(page)] == ["careful"]
    page.close()
