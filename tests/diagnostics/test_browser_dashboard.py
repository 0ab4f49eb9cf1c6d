"The dashboard in a real browser, from disk and without a network: it reads, sorts, turns pages, and shows foreign text as text."
import json

import numpy as np
import pytest
from browser import looked_at

from made_up import explain_parts, injection_document
from spectramind.core.nouns import DepthPosterior, Spectra
from spectramind.diagnostics.catalogue_views import catalogue_pictures
from spectramind.diagnostics.dashboard import write_page
from spectramind.diagnostics.figures import molecule_windows, show_score
from spectramind.diagnostics.model_views import injection_parts
from spectramind.diagnostics.page import Missing, Picture
from spectramind.diagnostics.planet_pages import Image, PlanetView
from spectramind.scoring.score import naive_statistics, score

N, EVIL = 283, '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
IDS = [1000 + 7*k for k in range(24)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "A page of 24 planets, some without a fit; the file, its spectra, truth and scores."
    rng, n, time_h = np.random.default_rng(5), len(IDS), np.linspace(0, 7.5, 281)
    truth = rng.lognormal(-4.4, .3, (n, 1)) + 1e-4*np.sin(np.linspace(0, 9, N))
    sigma = 5e-5*(1 + rng.random((n, 1)))*np.ones(N)
    found = Spectra(np.array(IDS), truth + sigma*rng.normal(size=truth.shape), sigma, tuple("network" if k % 3 else "physics" for k in range(n)))
    report = score((found.planet_id, truth), found, *naive_statistics(truth))

    def part(): return dict(time_h=time_h, flux=1 + 3e-4*rng.normal(size=281) - .01*(np.abs(time_h - 3.7) < 1.5), model=1 - .01*(np.abs(time_h - 3.7) < 1.5))
    views = []
    for k, p in enumerate(IDS):
        curves = {f"visit_{v}": dict(fgs1=part(), airs=part()) for v in range(1 + k % 2)}
        fit = None if k == 4 else DepthPosterior(p, found.mu[k] + 1e-5, np.diag(sigma[k]**2), {}, curves)
        images = (Image("FGS1, calibrated", rng.normal(size=(32, 32)), "e-", EVIL), Image("What is left", rng.normal(size=(20, 30)), "sigma", "", "time (h)", "wavelength (µm)", np.linspace(0, 7, 30), np.linspace(2, 3.9, 20), 4.)) if k == 0 else ()
        views.append(PlanetView(p, found.mu[k], sigma[k], truth[k], fit, dict(FGS1=rng.poisson(90, (32, 32))) if k == 0 else {}, origin=found.origin[k], note=EVIL if k == 2 else "",
                                before=(found.mu[k] - 2e-5, 1.5*sigma[k]) if k % 3 else None, facts=dict(Result={"score": float(report.per_planet[k]), "note": EVIL}, Star={"star temperature (K)": 5000. + k}), images=images, score=float(report.per_planet[k])))
    tabs = dict(catalogue=catalogue_pictures(found.planet_id, truth, found.mu, sigma, report), injection=[Missing("Injection and recovery", "Not made: `spectramind diagnose inject`.")], rules=[Missing("Rules", EVIL)])
    machine = dict(times=dict(head=["stage", "time"], rows=[["fit", "3.0 s"], [EVIL, "1 s"]], lefts=1), runs=dict(head=["folder"], rows=[["artifacts/runs/x"]], lefts=1))
    files = [dict(what="depths", path="artifacts/predictions/mu.csv", sha256="0"*64, href="../predictions/mu.csv")]
    path = write_page(tmp_path_factory.mktemp("page")/"page.html", {"seed": 5, "data": "noise", EVIL: EVIL, "title": "A page", "subtitle": EVIL}, views, spectra=found, report=report, notes={IDS[2]: EVIL, IDS[9]: "features: no star"},
                      compared=[dict(name="this run", what="as `handed in`", report=report)], tabs=tabs, provenance=files, numbers=files, machine=machine, windows=molecule_windows())
    return path, found, truth, report


@pytest.fixture
def look(chromium, page):
    "The page, opened at its full width, with its figures."
    with looked_at(chromium) as found:
        yield found.open(page[0], wait="html[data-ready=all]")
        assert found.faults() == [] and found.page.evaluate("window.hacked") is None


def ids(look): return look.page.evaluate("[...document.querySelectorAll('#planet-table tbody tr')].map(r => r.cells[0].textContent)")
def column(look, key):
    k = look.page.evaluate(f"[...document.querySelectorAll('#planet-table thead th')].findIndex(h => h.dataset.key === '{key}')")
    return look.page.evaluate(f"[...document.querySelectorAll('#planet-table tbody tr')].map(r => r.cells[{k}].dataset.v ?? r.cells[{k}].textContent)")
def go(look, hash_): look.page.evaluate(f"location.hash = '{hash_}'")
def opened(look, planet):
    look.page.wait_for_selector(f"html[data-drawn='{planet}']", state="attached")
    return look.page.inner_text("#planet-name")


def test_text_is_there_before_plotly(chromium, page):
    watch = """new MutationObserver(() => { if (document.documentElement.dataset.ready === 'text') window.then_ = [typeof window.Plotly, document.querySelectorAll('#planet-table tbody tr').length]; })
        .observe(document, {subtree: true, attributes: true, attributeFilter: ['data-ready']});"""
    with looked_at(chromium) as found:
        found.page.add_init_script(watch)
        found.open(page[0], wait="html[data-ready=all]")
        paint = found.page.evaluate("performance.getEntriesByType('paint').find(p => p.name === 'first-contentful-paint').startTime")
        started = found.page.evaluate("performance.getEntriesByName('plotly')[0].startTime")
        assert found.page.evaluate("window.then_") == ["undefined", len(IDS)] and paint < started


def test_the_table_sorts_both_ways_and_by_keyboard(look, page):
    go(look, "planets")
    head = look.page.locator("th[data-key=score] button")
    head.click()
    up = [float(v) for v in column(look, "score")]
    assert up == sorted(up) and ids(look)[0] == str(IDS[int(np.argmin(page[3].per_planet))])
    assert look.page.get_attribute("th[data-key=score]", "aria-sort") == "ascending"
    head.focus()
    look.page.keyboard.press("Enter")
    down = [float(v) for v in column(look, "score")]
    assert down == sorted(down, reverse=True) and look.page.get_attribute("th[data-key=score]", "aria-sort") == "descending"
    look.page.locator("th[data-key=note] button").click()
    assert [bool(v) for v in column(look, "note")] == [True]*2 + [False]*22                     # empty cells last
    look.page.locator("th[data-key=largest_z] button").click()
    assert look.page.get_attribute("th[data-key=largest_z]", "aria-sort") == "descending"       # the worst first, at once


def test_a_thousand_rows_come_as_one_scrolls(chromium, tmp_path):
    n, rng = 700, np.random.default_rng(0)
    found = Spectra(np.arange(n) + 5000, np.full((n, N), .01), 1e-4*(1 + rng.random((n, 1)))*np.ones(N), ("physics",)*n)
    path = write_page(tmp_path/"page.html", {}, spectra=found)
    with looked_at(chromium) as look:
        look.open(path, "#planets", "html[data-ready=all]")
        assert len(ids(look)) == 60 and look.page.inner_text("#filter-count") == "700 planets" and look.page.get_attribute("#planet-table", "aria-rowcount") == "701"
        for _ in range(16):
            look.page.evaluate("(box => box.scrollTop = box.scrollHeight)(document.querySelector('.scroll.tall'))")
            look.page.wait_for_timeout(40)
        assert ids(look) == [str(p) for p in found.planet_id]
        look.page.locator("th[data-key=airs_sigma_ppm] button").click()
        assert len(ids(look)) == 60 and ids(look) == [str(p) for p in found.planet_id[np.argsort(-found.sigma[:, 1], kind="stable")[:60]]]
        look.page.locator("#filter").fill("56")
        assert ids(look) == [p for p in map(str, found.planet_id[np.argsort(-found.sigma[:, 1], kind="stable")]) if "56" in p][:60]
        assert look.faults() == []


def test_the_filter_knows_words_conditions_and_origins(look, page):
    go(look, "planets")
    find, per_planet = look.page.locator("#filter"), dict(zip(map(str, IDS), page[3].per_planet))
    find.fill("1007")
    assert ids(look) == ["1007"] and look.page.inner_text("#filter-count") == "1 of 24 planets"
    limit = round(float(np.median(page[3].per_planet)), 3)
    find.fill(f"score<{limit}")
    assert set(ids(look)) == {p for p, v in per_planet.items() if v < limit}
    find.fill(f"score<{limit} network")
    assert set(ids(look)) == {p for k, (p, v) in enumerate(per_planet.items()) if v < limit and k % 3}
    find.fill("")
    look.page.select_option("#filter-origin", "physics")
    assert ids(look) == [str(p) for p in IDS[::3]]
    look.page.select_option("#filter-origin", "")
    look.page.check("#filter-noted")
    assert ids(look) == [str(IDS[2]), str(IDS[9])]
    find.fill("no such thing")
    assert ids(look) == [] and look.page.is_visible("#filter-none")


def test_every_planet_has_a_page_with_its_own_numbers(look, page):
    _, found, truth, report = page
    go(look, "planets")
    look.page.click(f"#planet-table a[href='#planet={IDS[6]}']")
    assert opened(look, IDS[6]) == f"Planet {IDS[6]}" and look.page.is_hidden("#planet-list")
    drawn = json.loads(look.page.evaluate("JSON.stringify(document.getElementById('planet-spectrum').data.map(t => ({name: t.name, x: [...t.x], y: [...t.y], axis: t.xaxis, y2: t.yaxis})))"))
    line = next(t for t in drawn if t["name"] == "found" and t["axis"] == "x2")
    assert np.allclose(line["y"], 1e6*found.mu[6, 1:], atol=.01) and len(line["x"]) == 282
    told = next(t for t in drawn if t["name"] == "truth" and t["axis"] == "x2")
    assert np.allclose(told["y"], 1e6*truth[6, 1:], atol=.01)
    error = next(t for t in drawn if t["y2"] == "y2" and t["axis"] == "x2")
    assert np.allclose(error["y"], ((found.mu - truth)/found.sigma)[6, 1:], atol=2e-3)
    assert look.page.inner_text("#planet-badges").split() == ["score", f"{report.per_planet[6]:.3f}", "physics"] and "5,006 K" in look.page.inner_text("#planet-facts")
    assert look.page.is_hidden("#planet-change-card") and look.page.is_visible("#planet-curves .main-svg >> nth=0")
    curves = look.page.evaluate("document.getElementById('planet-curves').data.filter(t => t.name === 'measured').map(t => t.x.length)")
    assert curves == [141]*4


def test_pages_turn_by_button_key_and_address(look):
    go(look, f"planet={IDS[0]}")
    assert opened(look, IDS[0]) and look.page.is_disabled("#planet-previous") and look.page.inner_text("#planet-place") == "1 of 24"
    look.page.click("#planet-next")
    assert opened(look, IDS[1]) == f"Planet {IDS[1]}" and look.page.is_visible("#planet-change-card") and look.page.locator("#planet-visits button").count() == 2
    look.page.locator("#planet-visits button").nth(1).click()
    assert look.page.get_attribute("#planet-visits button >> nth=1", "aria-pressed") == "true"
    look.page.keyboard.press("ArrowRight")
    assert opened(look, IDS[2]) and EVIL in look.page.inner_text("#planet-badges")
    look.page.keyboard.press("ArrowLeft")
    assert opened(look, IDS[1])
    look.page.go_back()
    assert opened(look, IDS[2])
    look.page.keyboard.press("Escape")
    look.page.wait_for_selector("#planet-list", state="visible")
    look.page.fill("#filter", "note")                                                           # nothing, but an open page keeps its place
    look.page.fill("#filter", "physics")
    go(look, f"planet={IDS[3]}")
    assert opened(look, IDS[3]) and look.page.inner_text("#planet-place") == "2 of 8"           # of those that the filter lets through
    go(look, "planet=99")
    look.page.wait_for_selector("#planet-missing", state="visible")
    assert "no planet 99" in look.page.inner_text("#planet-missing")


def test_a_link_to_a_planet_opens_it_and_what_is_missing_is_said(chromium, page):
    with looked_at(chromium) as found:
        found.open(page[0], f"#planet={IDS[4]}", "html[data-ready=all]")
        assert opened(found, IDS[4]) == f"Planet {IDS[4]}"
        assert found.page.is_hidden("#planet-curves-card") and found.page.is_visible("#planet-curves-none") and found.page.is_visible("#planets-tab[aria-selected=true]")
        found.open(page[0], f"#planet={IDS[0]}", "html[data-ready=all]")
        found.page.reload()
        opened(found, IDS[0])
        found.page.wait_for_function("document.querySelectorAll('#planet-images .main-svg').length >= 3")
        assert found.page.locator("#planet-images h3").all_inner_texts() == ["FGS1, raw", "FGS1, calibrated", "What is left"]
        assert found.faults() == [] and found.page.evaluate("window.hacked") is None


def test_tabs_by_mouse_and_keys_and_their_figures(look):
    tabs = look.page.locator("[role=tab]")
    assert tabs.all_inner_texts() == ["Overview", "Planets", "Catalogue", "Injection", "Rules", "Provenance"]
    tabs.nth(2).click()
    assert look.page.is_visible("#catalogue-panel") and look.page.is_hidden("#overview-panel") and look.page.url.endswith("#catalogue")
    look.page.wait_for_selector("#catalogue-panel .main-svg")
    look.page.keyboard.press("ArrowRight")
    assert look.page.evaluate("document.activeElement.id") == "injection-tab" and look.page.is_visible("#injection-panel")
    assert "spectramind diagnose inject" in look.page.inner_text("#injection-panel code")
    look.page.keyboard.press("End")
    assert look.page.is_visible("#provenance-panel") and look.page.get_attribute("#provenance-panel a >> nth=0", "href") == "../predictions/mu.csv"
    look.page.keyboard.press("Home")
    assert look.page.is_visible("#overview-panel") and EVIL in look.page.inner_text("[data-machine=times]")


def test_a_point_opens_its_planet(look, page):
    go(look, "catalogue")
    plot = look.page.locator("#catalogue-panel figure:has(h3:text-is('Scores of planets')) .plot")
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
    worst = str(IDS[int(np.argmin(page[3].per_planet))])
    look.page.evaluate("""() => { const node = [...document.querySelectorAll('#catalogue-panel figure')].find(f => f.querySelector('h3').textContent === 'Scores of planets').querySelector('.plot');
        const trace = node.data[1]; node.emit('plotly_click', {points: [{y: trace.y[0], x: trace.x[0]}]}); }""")
    assert opened(look, worst) == f"Planet {worst}"


def test_the_theme_changes_and_figures_follow(look):
    go(look, "catalogue")
    look.page.wait_for_selector("#catalogue-panel .main-svg")
    state = "(() => [getComputedStyle(document.body).backgroundColor, document.querySelector('#catalogue-panel .plot').layout.font.color])()"
    light = look.page.evaluate(state)
    look.page.click(".toggle")
    look.page.wait_for_function(f"{state}[1] !== '{light[1]}'")
    dark = look.page.evaluate(state)
    assert light[0] == "rgb(247, 248, 250)" and dark[0] == "rgb(18, 22, 27)" and look.page.inner_text(".toggle") == "Light theme"


def test_the_policy_stops_a_script_that_slipped_in(look):
    look.page.evaluate("const s = document.createElement('script'); s.textContent = 'window.slipped = 1'; document.body.appendChild(s)")
    assert look.page.evaluate("window.slipped") is None and any("Content Security Policy" in line for line in look.said)
    look.said.clear()
    assert look.page.evaluate("fetch('https://example.org').then(() => 'went', () => 'stopped')") == "stopped"
    look.said.clear(), look.asked.clear()


@pytest.mark.parametrize("width, theme", [(1440, "light"), (390, "dark")])
def test_axe_has_no_serious_complaint_and_nothing_sticks_out(chromium, page, width, theme):
    with looked_at(chromium, width, theme=theme) as found:
        found.open(page[0], wait="html[data-ready=all]")
        wrong = []
        for place in ("overview", "planets", f"planet={IDS[0]}", "catalogue", "injection", "rules", "provenance"):
            go(found, place)
            if place.startswith("planet="): opened(found, IDS[0])
            else: found.page.wait_for_timeout(250)
            wrong += found.axe(place)
            if found.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"): wrong.append(f"{place}: wider than the screen")
        assert wrong == [] and found.faults() == []


def test_numbers_stay_without_javascript(chromium, page):
    with looked_at(chromium, java_script_enabled=False) as found:
        found.open(page[0])
        text = found.page.inner_text("main")
        assert "official score" in text and found.page.locator("noscript").count() == 1
        assert found.page.locator("#planet-table tbody tr").count() == len(IDS)


def test_axe_sees_a_fault_that_is_put_in(look):
    look.page.evaluate("document.querySelector('main').insertAdjacentHTML('afterbegin', '<div role=button></div><input>')")
    assert any("button-name" in line or "aria-command-name" in line for line in look.axe()) and any("label" in line for line in look.axe())


def test_without_a_browser_tests_are_skipped_but_not_where_it_was_promised(monkeypatch):
    import browser
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("SPECTRAMIND_CHROMIUM", raising=False)
    for ci, kind in (("true", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(kind, match="SPECTRAMIND_CHROMIUM"): browser.need_chromium()
    monkeypatch.setenv("SPECTRAMIND_CHROMIUM", __file__)
    assert browser.need_chromium() == __file__


@pytest.fixture(scope="module")
def everything(page, tmp_path_factory):
    "The same planets with every tab full: injection, attribution, attention, rules, images."
    _, found, truth, report = page
    model, rules = explain_parts(found.planet_id)
    tabs = dict(overview=[Picture("The score and its parts", show_score(report), "Score.", full=True)], catalogue=catalogue_pictures(found.planet_id, truth, found.mu, found.sigma, report),
                injection=injection_parts(injection_document()), model=model, rules=rules)
    rng = np.random.default_rng(8)
    views = [PlanetView(p, found.mu[k], found.sigma[k], truth[k], raw=dict(FGS1=rng.poisson(90, (32, 32))) if k == 0 else {}) for k, p in enumerate(IDS)]
    files = [dict(what="depths", path="artifacts/predictions/mu.csv", sha256="0"*64, href="../predictions/mu.csv")]
    return write_page(tmp_path_factory.mktemp("all")/"page.html", dict(seed=5, title="All of it"), views, spectra=found, report=report, compared=[dict(name="this run", what="as handed in", report=report)],
                      tabs=tabs, provenance=files, numbers=files, machine=dict(times=dict(head=["stage", "time"], rows=[["fit", "3.0 s"]], lefts=1)), windows=molecule_windows())


ALL_TABS = ("overview", "planets", "catalogue", "injection", "model", "rules", "provenance")
DRAWN = """async tab => { const plots = [...document.querySelectorAll('#' + tab + '-panel .plot[data-figure]')];
    for (const plot of plots) { plot.scrollIntoView({block: 'center'}); for (let k = 0; k < 300 && !plot.querySelector('.main-svg'); k++) await new Promise(go => setTimeout(go, 20)); }
    return plots.filter(p => !p.querySelector('.main-svg')).map(p => p.parentNode.dataset.label); }"""
OUT = """tab => { const wide = document.documentElement.clientWidth, found = [];
    for (const svg of document.querySelectorAll('#' + tab + '-panel .plot .main-svg')) { const box = svg.getBoundingClientRect(), pan = svg.closest('.pan').getBoundingClientRect();
        if (box.right > pan.right + 2 || box.left < pan.left - 2) found.push(svg.closest('.pan').dataset.label + ': the figure is wider than its card');
        for (const text of svg.querySelectorAll('.xtitle, .ytitle, .xtick text, .gtitle, .annotation-text')) { const t = text.getBoundingClientRect();
            if (t.width && (t.right > pan.right + 3 || t.left < pan.left - 3)) found.push(svg.closest('.pan').dataset.label + ': ' + text.textContent + ' sticks out'); } }
    return found; }"""
ROOM = """tab => [...document.querySelectorAll('#' + tab + '-panel .plot .main-svg:first-of-type')].flatMap(svg => [...svg.querySelectorAll('.cartesianlayer .xy .gridlayer, .cartesianlayer > .subplot')].slice(0, 0).concat([svg]))
    .map(svg => { const node = svg.closest('.plot'), size = node._fullLayout._size; return [svg.closest('.pan').dataset.label, size.w/node.clientWidth]; }).filter(f => f[1] < .45)"""


@pytest.mark.parametrize("width, theme", [(1440, "dark"), (390, "light")])
def test_a_page_with_everything_draws_all_of_it_and_nothing_sticks_out(chromium, everything, width, theme):
    with looked_at(chromium, width, theme=theme) as found:
        found.open(everything, wait="html[data-ready=all]")
        wrong = []
        for tab in ALL_TABS:
            go(found, tab)
            found.page.wait_for_selector(f"#{tab}-panel", state="visible")
            wrong += [f"{tab}: {name} was not drawn" for name in found.page.evaluate(DRAWN, tab)] + [f"{tab}: {line}" for line in found.page.evaluate(OUT, tab)]
            wrong += [f"{tab}: {name} has {share:.0%} of its width for data" for name, share in found.page.evaluate(ROOM, tab)]
            wrong += found.axe(tab)
            if found.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"): wrong.append(f"{tab}: wider than the screen")
        assert wrong == [] and found.faults() == []


def test_panels_beside_each_other_stand_below_each_other_on_a_phone(chromium, everything):
    rows = """() => [...document.querySelectorAll('#catalogue-panel figure')].filter(f => f.querySelector('.main-svg')).map(f => { const l = f.querySelector('.plot').layout;
        return [f.querySelector('h3').textContent, Object.keys(l).filter(k => /^xaxis/.test(k)).map(k => (l[k].domain || [0, 1]).map(v => Math.round(10*v)/10).join(' to '))]; })"""
    seen = {}
    for width in (1440, 390):
        with looked_at(chromium, width) as found:
            found.open(everything, "#catalogue", "html[data-ready=all]")
            assert found.page.evaluate(DRAWN, "catalogue") == []
            seen[width] = dict(found.page.evaluate(rows))
    for name in ("Claimed sigma against error", "Distribution of predicted quantiles", "Scores of planets"):
        assert set(seen[390][name]) == {"0 to 1"} and len(set(seen[1440][name])) == 2, name


def test_the_proof_of_a_large_page_runs_and_measures_everything(tmp_path):
    "`make proof-page` in small, in a process of its own: drawn spectra, every measurement, no fault; its times are judged on 1,100 planets only."
    import subprocess, sys
    from pathlib import Path
    code = f"""
import json, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2]/"benchmarks")!r})
if __name__ == "__main__":
    import proof_dashboard
    path, told = proof_dashboard.write(30, 12, 3, Path({str(tmp_path)!r}), 1, "spectra")
    print(json.dumps(dict(told=told["planets"], bars=sorted(proof_dashboard.BARS), found=proof_dashboard.measure(path, (390,)))))
"""
    (tmp_path/"small.py").write_text(code)
    said = subprocess.run([sys.executable, str(tmp_path/"small.py")], capture_output=True, text=True, timeout=600)
    assert said.returncode == 0, said.stderr[-2000:]
    told = json.loads(said.stdout.splitlines()[-1])
    found = told["found"]
    assert told["told"] == 30 and sorted(found) == told["bars"]
    assert [found[name] for name in ("serious axe faults", "console faults", "wider than the screen")] == [0, 0, 0] and found["size (MB)"] < 5
