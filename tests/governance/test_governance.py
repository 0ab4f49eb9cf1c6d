"What the project says about itself is current: contract, decisions, citation, changes, and every figure in the cards."
import configparser
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CARDS = ("model_card.md", "data_card.md", "limitations.md", "release.md")


def settings():
    found = configparser.ConfigParser(delimiters=["="])
    found.read(ROOT/"settings.ini", encoding="utf-8")
    return found["DEFAULT"]


def test_the_contract_has_not_changed_unnoticed():
    recorded, name = (ROOT/"tests"/"governance"/"contract.sha256").read_text().split()
    assert name == "ARCHITECTURE.md"
    found = hashlib.sha256((ROOT/name).read_bytes()).hexdigest()
    assert found == recorded, "ARCHITECTURE.md has changed: look whether code, tests and cards still agree with it, then `make contract`, in the same commit"


def test_the_index_lists_every_decision_under_its_title():
    folder = ROOT/"docs"/"adr"
    listed = dict(re.findall(r"^\| \[\d{4}\]\(([\w-]+\.md)\) \| (.+?) \|$", (folder/"README.md").read_text(encoding="utf-8"), re.M))
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("[0-9]*.md")}
    assert list(listed) == sorted(there)
    for name, text in there.items():
        head = text.splitlines()[0]
        assert head.startswith(f"# {name[:4]} · "), name
        for part in ("**Status** accepted", "**Context.**", "**Decision.**", "**Consequences.**"): assert part in text, (name, part)


def test_numbers_of_decisions_are_given_once():
    numbers = [path.name[:4] for path in (ROOT/"docs"/"adr").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))
    for needed in ("0001", "0002", "0003", "0005", "0006", "0010"): assert needed in numbers


PAGES = [*(f"docs/{name}" for name in (*CARDS, "kaggle.md", "fault_matrix.md")), *(f"docs/adr/{path.name}" for path in sorted((ROOT/"docs"/"adr").glob("*.md"))),
         *(f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "ARCHITECTURE"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_somewhere(page):
    page = ROOT/page
    lost = [target for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
            if not target.startswith(("http", "#")) and not (page.parent/target.partition("#")[0]).exists()]
    assert not lost


def test_the_citation_is_valid_and_of_this_version():
    asked = subprocess.run([str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.citation-file-format", str(ROOT/"CITATION.cff")], capture_output=True, text=True)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    said, ours = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8")), settings()
    assert (said["version"], said["license"].lower(), said["repository-code"], said["url"]) == (ours["version"], ours["license"], ours["git_url"], ours["doc_host"] + ours["doc_baseurl"])
    assert said["abstract"] == ours["description"] and " ".join(said["keywords"]) == ours["keywords"]


def test_changes_have_a_section_for_this_version_and_newest_first():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT/"CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] == settings()["version"]
    assert versions == sorted(versions, key=lambda text: [int(n) for n in text.split(".")], reverse=True)


MEASURED = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")
NAMES = re.compile(r"(CC BY-NC|BY|MPL|CycloneDX|SPDX|version \||Python) ?\d+(\.\d+)+|\b\d+\.\d+\.\d+\b")


def at(name, path):
    "A number of a record, by its address."
    found = json.loads((ROOT/"benchmarks"/f"{name}.json").read_text(encoding="utf-8"))
    for step in path.split("/"): found = found[int(step)] if isinstance(found, list) else found[step]
    return float(found)


# card, its words with the figures, record, addresses of these, factor and shift of the printed one
FIGURES = [
    ("model_card", r"physics alone \| ([\d.]+) \(FGS1 ([\d.]+), AIRS ([\d.]+)\)", "proof", ["score", "score_fgs1", "score_airs"], 1, 0),
    ("model_card", r"limb darkening and drift \| ([\d.]+) \|", "proof", ["oracle_score"], 1, 0),
    ("model_card", r"raw frames \| ([\d.]+) % \|", "proof", ["coverage"], 100, 0),
    ("model_card", r"FGS1 (\d+) ppm, AIRS (\d+) ppm", "proof", ["rmse_fgs1_ppm", "rmse_airs_ppm"], 1, 0),
    ("model_card", r"\| (\d+) planets at full cadence, learnt from (\d+), seed (\d+)", "proof", ["n_test", "n_train", "seed"], 1, 0),
    ("model_card", r"unlike the fit \| ([\d.]+) \(95 %: ([\d.]+) to (0\.\d{2,4})", "ablation", ["headline/numbers/gain/0", "headline/numbers/gain/1", "headline/numbers/gain/2"], 1, 0),
    ("model_card", r"nothing is unlike \| ([\d.]+):", "ablation", ["calm/numbers/250/gain/0"], 1, 0),
    ("model_card", r"light curves, seed (\d+) \|", "ablation", ["headline/made/seed"], 1, 0),
    ("model_card", r"shallowest third hold ([\d.]+) %, those of the deepest ([\d.]+) %", "ablation", ["headline/numbers/coverage 90 %, conformal/depth third 1", "headline/numbers/coverage 90 %, conformal/depth third 3"], 100, 0),
    ("limitations", r"score is ([\d.]+) below", "proof", ["oracle_gap"], 1, 0),
    ("limitations", r"was ([\d.]+) % slower", "proof_dask", ["over_processes/dask"], 100, -100),
    ("limitations", r"all 283 bins together, after the prior, is ([\d.]+) points short", "proof_curves", ["coverage/bars/14/found"], -1, 0),
    ("model_card", r"took ([\d.]+) minutes on one core", "ablation", ["headline/numbers/train_s/0"], 1/60, 0),
    ("model_card", r"predicting with it ([\d.]+) s of processor time", "ablation", ["headline/numbers/predict_s/0"], 1, 0),
    ("model_card", r"included: ([\d.]+) s a planet in the rehearsal", "kaggle_rehearsal", ["fleet/seconds/predict"], 1/1100, 0),
]


def wrong_figures(texts):
    "Figures that are not what their record says when it is rounded as printed."
    found = []
    for card, words, record, addresses, factor, shift in FIGURES:
        hit = re.search(words, texts[card])
        if hit is None: found.append(f"{card}: nothing like {words}")
        else: found += [f"{card}: {token}, {record}.json has {at(record, address)}" for token, address in zip(hit.groups(), addresses)
                        if abs(factor*at(record, address) + shift - float(token)) > .51*10**-len(token.partition(".")[2])]
    return found


def seeds_of(tree):
    "Every seed that a record says it was made with."
    if isinstance(tree, list): return {seed for value in tree for seed in seeds_of(value)}
    if not isinstance(tree, dict): return set()
    return {int(value) for key, value in tree.items() if key == "seed"} | {seed for value in tree.values() for seed in seeds_of(value)}


def addressed(card, text):
    "Where in a card the figures stand that `FIGURES` looks up at their addresses."
    hits = [re.search(words, text) for name, words, *_ in FIGURES if name == card]
    return {hit.start(n) for hit in hits if hit for n in range(1, hit.re.groups + 1)}


def faults(text, card=""):
    "Figures that nobody compares: with a record on the same line, those without an address in `FIGURES`; else those that neither README nor the benchmarks' own pages have."
    found, known = [], "\n".join(path.read_text(encoding="utf-8") for path in [ROOT/"README.md", *sorted((ROOT/"benchmarks").glob("*.md"))])
    places, begin = addressed(card, text), 0
    for line in text.splitlines(keepends=True):
        records = re.findall(r"\((?:\.\./)?(benchmarks/\w+\.json)\)", line)
        seeds = set().union(*(seeds_of(json.loads((ROOT/name).read_text(encoding="utf-8"))) for name in records))
        for hit in MEASURED.finditer(NAMES.sub(lambda name: "x"*len(name[0]), line)):
            if not (begin + hit.start() in places if records else re.search(rf"(?<![\d.]){re.escape(hit[0])}(?!\d)", known)): found.append(f"{hit[0]} in: {line[:100]}")
        for seed in re.findall(r"seed (\d+)", line):
            if records and int(seed) not in seeds: found.append(f"seed {seed} in: {line[:100]}")
        begin += len(line)
    return found


@pytest.mark.parametrize("card", CARDS)
def test_every_figure_of_a_card_was_measured(card):
    assert not faults((ROOT/"docs"/card).read_text(encoding="utf-8"), card.removesuffix(".md"))


def card_texts(): return {name: (ROOT/"docs"/f"{name}.md").read_text(encoding="utf-8") for name in ("model_card", "limitations")}


def test_figures_are_the_ones_at_their_addresses(): assert not wrong_figures(card_texts())


@pytest.mark.parametrize("before, after", [("0.721 (FGS1", "0.722 (FGS1"), ("69.8 %", "69.9 %"), ("0.772 |", "0.773 |"), ("seed 9100 |", "seed 9002 |"), ("0.017 (95 %", "0.023 (95 %"), ("86.1 %", "92.8 %"), ("AIRS 47 ppm", "AIRS 46 ppm"), ("3.4 minutes", "9.2 minutes"), ("0.39 s a", "0.04 s a")],
                         ids=["score", "coverage", "oracle", "seed", "gain", "prose", "error", "training", "prediction"])
def test_a_figure_that_was_not_measured_is_found(before, after):
    texts = card_texts()
    assert before in texts["model_card"] and wrong_figures(texts | dict(model_card=texts["model_card"].replace(before, after)))


def test_a_figure_that_stands_nowhere_is_found():
    assert faults("The score is 0.98765.") and not faults("The score is 0.721, MPL 2.0.")
    card = card_texts()["model_card"]
    assert not faults(card, "model_card") and faults(card.replace("planets, seed 5003", "planets, seed 5004", 1), "model_card")
    line = "Another score is 0.533 (seed 5003, [x](../benchmarks/proof.json)).\n"            # stands in the record, but nobody says where
    assert [fault.split()[0] for fault in faults(card + line, "model_card")] == ["0.533"] and [fault.split()[0] for fault in faults(line + card, "model_card")] == ["0.533"]


def test_the_bar_behind_an_address_is_the_one_that_is_meant():
    assert json.loads((ROOT/"benchmarks"/"proof_curves.json").read_text(encoding="utf-8"))["coverage"]["bars"][14]["name"] == "all 283 bins: coverage at 90 %, points off"


def test_each_row_of_the_model_card_names_its_data_seed_and_record():
    part = (ROOT/"docs"/"model_card.md").read_text(encoding="utf-8").partition("## How well")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ") and not line.startswith("| question")]
    assert len(rows) >= 5
    for row in rows: assert re.search(r"planets.*seed \d+", row) and "benchmarks/" in row, row
