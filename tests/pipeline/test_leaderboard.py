"Leaderboards: differences planet by planet, the right way up, written so that programs, spreadsheets and browsers can read them."
import csv
import html.parser
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from spectramind.core.errors import ConfigError, DataError, SchemaError, UsageError
from spectramind.pipeline.leaderboard import (
    DIRECTIONS, PAIRED, Entry, Run, common, compare, leaderboard, markdown_text, paired_interval, read_leaderboard, remarks, sign_of,
    statement, table_of, write_leaderboard,
)
from spectramind.pipeline.leaderboard_page import figures_of, page_text, show_heat, show_overlay, show_trend, write_page

PLANETS = np.arange(100, 180)
TALENT = np.random.default_rng(0).normal(.5, .2, PLANETS.size)


def run(gain=0., seed=0, own=0, ids=PLANETS, order=None, **more):
    rng = np.random.default_rng([seed, own])
    score = TALENT + np.random.default_rng(seed).normal(0, .01, PLANETS.size) + gain + (rng.normal(0, .005, PLANETS.size) if own else 0)
    keep = np.isin(PLANETS, ids)
    per = {name: (score if DIRECTIONS[name] == "up" else -score)[keep] for name in PAIRED}
    at = np.arange(keep.sum()) if order is None else order
    return Run(f"runs/{own:03d}_{seed}", seed, {k: float(v.mean()) for k, v in per.items()}, PLANETS[keep][at], {k: v[at] for k, v in per.items()}, np.full(283, gain), dict(train_s=2. + own, parameters=5000, seconds=3.), "ab"*32, "cd"*32, **more)


def entry(name, gain=0., own=0, seeds=1, values=(), **more): return Entry(name, (f"x={name}",), tuple(values) or (("x", name),), tuple(run(gain, s, own, **more) for s in range(seeds)))


def failed(name, message="it broke", seeds=1): return Entry(name, (f"x={name}",), (("x", name),), tuple(Run(f"runs/{s}", s, error=dict(kind="InternalError", message=message, code=5)) for s in range(seeds)))


BASE = entry("baseline")


def test_directions_are_those_of_early_stopping():
    from spectramind.training.curriculum import DIRECTIONS as training, better
    for name, way in training.items():
        assert DIRECTIONS[name] == way and better(name, sign_of(name)*1., 0.) and not better(name, -sign_of(name)*1., 0.)
    assert set(PAIRED) <= set(DIRECTIONS)


def test_the_interval_of_a_mean_is_the_one_of_theory():
    x = np.random.default_rng(1).normal(.3, 1, (1, 400))
    mean, low, high = paired_interval(x, n_boot=8000)
    assert mean == x.mean() and np.isclose(high - low, 2*1.96*x.std()/20, rtol=.05) and np.isclose((low + high)/2, mean, atol=.01)
    assert paired_interval(x) == paired_interval(x) != paired_interval(x, seed=1)
    assert paired_interval(np.full((2, 9), .25)) == (.25, .25, .25)


def test_seeds_widen_the_interval_by_what_they_scatter():
    rng = np.random.default_rng(2)
    quiet, seeds = rng.normal(0, .1, (8, 200)), rng.normal(0, .05, (8, 1))
    width = lambda v: np.subtract(*paired_interval(v, n_boot=4000)[:0:-1])
    rest = lambda v: v - v.mean(0) - v.mean(1, keepdims=True) + v.mean()
    theory = lambda v: 2*1.96*np.sqrt(v.mean(1).var()/8 + v.mean(0).var()/200 + rest(v).var()/1600)   # the bootstrap over both (Owen 2007)
    assert width(quiet + seeds) > 1.4*width(quiet)
    for v in (quiet, quiet + seeds): assert np.isclose(width(v), theory(v), rtol=.08)


@pytest.mark.parametrize("values", [np.zeros(4), np.zeros((0, 4)), np.zeros((2, 0)), np.full((1, 3), np.nan)])
def test_no_interval_of_nothing(values):
    with pytest.raises(UsageError, match="wanted finite figures"): paired_interval(values)


def test_a_small_gain_is_seen_only_planet_by_planet():
    better = entry("better", .004, own=1)
    d = compare(better, BASE)
    assert d["differs"] == "better" and d["low"] > 0 and d["planets"] == 80 and abs(d["mean"] - .004) < .002
    alone = [paired_interval(table_of(list(e.sound.values()), "score", PLANETS)) for e in (better, BASE)]
    assert alone[0][1] < alone[1][0] < alone[0][2]                                  # by themselves the two cannot be told apart
    assert compare(entry("same", 0., own=2), BASE)["differs"] == "no" and compare(entry("worse", -.004, own=1), BASE)["differs"] == "worse"
    assert compare(better, BASE, "nll")["mean"] == -d["mean"] and compare(better, BASE, "nll")["differs"] == "better"


def test_planets_are_matched_by_name_not_by_row():
    shuffled = entry("shuffled", order=np.random.default_rng(3).permutation(80))
    assert compare(shuffled, BASE) == dict(mean=0., low=0., high=0., differs="no", planets=80, seeds=1)
    fewer = entry("fewer", .1, ids=PLANETS[20:])
    d = compare(fewer, BASE)
    assert d["planets"] == 60 and np.isclose(d["mean"], .1) and np.array_equal(common([*fewer.runs, *BASE.runs]), PLANETS[20:])
    assert compare(entry("others", ids=PLANETS[:40]), entry("baseline", ids=PLANETS[40:])) is None


def test_only_seeds_that_both_have_finished_are_compared():
    base, two = entry("baseline", seeds=3), entry("two", .05, seeds=3)
    two = replace(two, runs=(two.runs[0], Run("runs/x", 1, error=dict(kind="InternalError", message="gone", code=5)), two.runs[2]))
    d = compare(two, base)
    assert d["seeds"] == 2 and np.isclose(d["mean"], .05)
    row = next(r for r in leaderboard([base, two])["rows"] if r["name"] == "two")
    assert row["status"] == "partial" and row["spread"]["score"] > 0 and remarks(row) == ["seed 1: InternalError (code 5): gone"]


@pytest.mark.parametrize("metric, order", [("score", ["best", "baseline", "worst", "broken"]), ("nll", ["best", "baseline", "worst", "broken"])])
def test_rows_are_ranked_in_the_metrics_own_direction(metric, order):
    board = leaderboard([BASE, entry("worst", -.1), failed("broken"), entry("best", .1)], metric)
    assert [row["name"] for row in board["rows"]] == order and [row["rank"] for row in board["rows"]] == [1, 2, 3, None] and board["direction"] == DIRECTIONS[metric]
    with pytest.raises(ConfigError, match="wanted one of score"): leaderboard([BASE], "rmse_airs_ppm")


def test_without_a_baseline_there_is_a_ranking_but_no_comparison():
    board = leaderboard([failed("baseline"), entry("one"), entry("two", .1)])
    assert [row["name"] for row in board["rows"]] == ["two", "one", "baseline"] and all(row["delta"] is None for row in board["rows"])
    assert "nothing can be compared" in statement(board) and figures_of(board, [])
    assert "nothing beside the baseline" in statement(leaderboard([BASE]))


def test_what_chance_would_bring_is_said():
    board = leaderboard([BASE, *(entry(f"v{i}", 0., own=i + 1) for i in range(20)), entry("good", .1)])
    assert re.match(r"\d+ of 21 settings are better .* By chance alone, 1 of 21 would seem to differ\.", statement(board))


def test_a_shut_gate_is_said():
    shut = lambda e: replace(e, runs=tuple(replace(r, metrics=r.metrics | dict(share_fgs1=0., share_airs=0.)) for r in e.runs))
    entries = [shut(BASE), shut(entry("one", own=1))]
    assert "gate let no network in" in statement(leaderboard(entries)) and "gate" not in statement(leaderboard(entries, "score_network"))
    assert "gate" not in statement(leaderboard([BASE, entries[1], replace(entries[1], runs=(replace(entries[1].runs[0], metrics=entries[1].runs[0].metrics | dict(share_airs=.5)),))]))


NASTY = 'a|b <script>alert(1)</script> "q" `c` *d* [e](javascript:f) </table>'


@pytest.fixture(scope="module")
def grid():
    "Two settings, one in words and one in numbers, with nasty names, one failure and two seeds."
    entries = [Entry("baseline" if (m, w) == ("v50", "1e-3") else f"{m} {w}", (f"model={m}", f"lam={w}"), (("model", m), ("lam", w)), tuple(run(.02*(m != "v50") + .01*float(w), s, own=3*i + j + 1) for s in range(2)))
               for i, m in enumerate(("v50", NASTY)) for j, w in enumerate(("1e-3", "0.1", "1"))]
    entries[4] = replace(entries[4], runs=(entries[4].runs[0], Run("runs/b", 1, error=dict(kind="InternalError", message=NASTY, code=5))))
    return leaderboard(entries, name="grid"), entries


def test_json_and_csv_hold_the_same_figures(grid, tmp_path):
    board, entries = grid
    path = write_leaderboard(tmp_path, board)
    assert read_leaderboard(path) == read_leaderboard(tmp_path) == board and not (tmp_path/"leaderboard.html").exists()
    assert write_page(tmp_path, board, entries).read_text() == page_text(board, entries)
    with open(tmp_path/"leaderboard.csv", newline="") as stream: lines = list(csv.DictReader(stream))
    assert len(lines) == 6
    for line, row in zip(lines, board["rows"]):
        assert line["name"] == row["name"] and float(line["score"]) == row["metrics"]["score"] and float(line["delta"]) == row["delta"]["mean"] and line["differs"] == row["delta"]["differs"]
        assert (line["value:model"], line["value:lam"]) == (row["values"]["model"], row["values"]["lam"]) and float(line["train_s"]) == row["cost"]["train_s"] and line["config_sha256"] == "ab"*32


def test_markdown_has_one_row_for_each_setting_and_no_markup_of_others(grid):
    text = markdown_text(grid[0])
    table = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == 2 + 6 and len(columns) == 1 and "<script" not in text and "](javascript" not in text.replace("\\[", "") or "\\[e](" in text
    assert "± " in text and "1 of 2" in text and "score ↑" in text and "nll ↓" in text


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells, self.inside, self.links = [], [], None, []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]
        self.links += [k for k, v in attrs if k.startswith("on")]
        if tag == "td":
            self.inside = dict(attrs).get("data-value", "")
            self.cells.append([self.inside, ""])
    def handle_data(self, data):
        if self.inside is not None: self.cells[-1][1] += data
    def handle_endtag(self, tag):
        if tag == "td": self.inside = None


def test_the_page_is_whole_and_runs_nothing_foreign(grid):
    board, entries = grid
    text = page_text(board, entries)
    reader = Reader()
    reader.feed(text)
    assert reader.tags.count("script") == 3 and reader.tags.count("table") == 1 and reader.tags.count("tr") == 7 and reader.links == ["data:,"]
    names = [shown for _, shown in reader.cells if "alert(1)" in shown]
    assert any(NASTY in shown for shown in names) and "<script>alert" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert "default-src 'none'" in policy and policy.count("sha256-") == 2
    figures = json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S).group(1))
    assert set(figures) == {f"figure-{i}" for i in range(1, 6)} and reader.tags.count("figure") == 5     # gains, two trends, heat map, overlay
    assert "<script>" not in json.dumps(figures)
    exact = {v for v, _ in reader.cells}
    assert {str(row["metrics"]["score"]) for row in board["rows"]} <= exact          # sorted by exact values, shown rounded


def test_pictures_follow_what_was_varied(grid):
    board, entries = grid
    lam, model, heat = show_trend(board, "lam"), show_trend(board, "model"), show_heat(board, "lam", "model")
    assert lam.layout.xaxis.type == "log" and [list(t.x) for t in lam.data] == [[.001, .1, 1.]]*2 and {t.type for t in lam.data} == {"scatter"}
    assert {t.type for t in model.data} == {"bar"} and len(model.data) == 3
    base = next(row for row in board["rows"] if row["baseline"])
    assert 0. in [y for t in model.data for y in t.y] and base["metrics"]["score"] in [y for t in lam.data for y in t.y]
    assert np.array(heat.data[0].z).shape == (2, 3) and list(heat.data[0].x) == ["1e-3", "0.1", "1"]
    assert len(show_overlay(board, entries, most=2).data) == 4
    assert show_overlay(board, [replace(e, runs=tuple(replace(r, per_bin=None) for r in e.runs)) for e in entries]) is None


def test_one_at_a_time_draws_only_what_differs_in_one_setting():
    points = [("1", "a"), ("2", "a"), ("3", "a"), ("1", "b")]
    entries = [Entry("baseline" if p == ("1", "a") else str(p), (), (("k", p[0]), ("w", p[1])), (run(.01*i, own=i + 1),)) for i, p in enumerate(points)]
    board = leaderboard(entries, mode="one_at_a_time")
    assert list(show_trend(board, "k").data[0].x) == [1., 2., 3.] and sorted(show_trend(board, "w").data[0].x) == ["a", "b"]
    assert not any("over both" in caption for caption in figures_of(board, entries))


def test_many_groups_become_one_cloud():
    entries = [Entry("baseline" if i == 0 else str(i), (), (("k", str(i % 3)), ("w", f"w{i//3}")), (run(.01*i, own=i + 1),)) for i in range(21)]
    board = leaderboard(entries)
    assert len(show_trend(board, "k").data) == 1 and show_trend(board, "k").data[0].mode == "markers" and len(show_trend(board, "k").data[0].x) == 21


def test_a_leaderboard_that_is_none_is_refused(tmp_path, grid):
    with pytest.raises(DataError): read_leaderboard(tmp_path)
    for change in (dict(metric="wins"), dict(rows=[]), dict(more=1)):
        (tmp_path/"leaderboard.json").write_text(json.dumps(grid[0] | change))
        with pytest.raises(SchemaError): read_leaderboard(tmp_path)
    stream = io.StringIO()
    json.dump(grid[0], stream)                                                       # plain JSON, no numpy
    assert json.loads(stream.getvalue()) == grid[0]
