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


def test_links_between_pages_lead_somewhere():
    pages = [*(ROOT/"docs"/name for name in CARDS), *(ROOT/"docs"/"adr").glob("*.md"), ROOT/"CONTRIBUTING.md", ROOT/"CHANGELOG.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"): assert (page.parent/target.partition("#")[0]).exists(), (page.name, target)


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


def numbers_of(tree):
    if isinstance(tree, dict): return [n for value in tree.values() for n in numbers_of(value)]
    if isinstance(tree, list): return [n for value in tree for n in numbers_of(value)]
    if isinstance(tree, str): return [float(tree)] if re.fullmatch(r"[+-]?\d+(\.\d+)?", tree) else []
    return [float(tree)] if isinstance(tree, (int, float)) and not isinstance(tree, bool) else []


def stands_in(token, numbers):
    "Whether a number of the document comes to this when it is rounded as printed; as a share, in percent, or as an excess."
    digits = len(token.partition(".")[2])
    near = .5*10**-digits*1.02
    return any(abs(abs(scaled) - float(token)) <= near for n in numbers for scaled in (n, 100*n, 100*(n - 1)))


MEASURED = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)")
NAMES = re.compile(r"(CC BY-NC|BY|MPL|CycloneDX|SPDX|version \||Python) ?\d+(\.\d+)+|\b\d+\.\d+\.\d+\b")


def faults(text):
    "Figures that no record has: one that is linked on the same line, or else README and the benchmarks' own pages."
    found, known = [], "\n".join(path.read_text(encoding="utf-8") for path in [ROOT/"README.md", *sorted((ROOT/"benchmarks").glob("*.md"))])
    for line in text.splitlines():
        records = re.findall(r"\((?:\.\./)?(benchmarks/\w+\.json)\)", line)
        numbers = [n for name in records for n in numbers_of(json.loads((ROOT/name).read_text(encoding="utf-8")))]
        for token in MEASURED.findall(NAMES.sub("", line)):
            if not (stands_in(token, numbers) if records else re.search(rf"(?<![\d.]){re.escape(token)}(?!\d)", known)): found.append(f"{token} in: {line[:100]}")
        for seed in re.findall(r"seed (\d+)", line):
            if records and float(seed) not in numbers: found.append(f"seed {seed} in: {line[:100]}")
    return found


@pytest.mark.parametrize("card", CARDS)
def test_every_figure_of_a_card_was_measured(card):
    assert not faults((ROOT/"docs"/card).read_text(encoding="utf-8"))


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
    ("model_card", r"nothing is unlike \| ([\d.]+):", "ablation", ["calm/numbers/gain/0"], 1, 0),
    ("model_card", r"light curves, seed (\d+) \|", "ablation", ["headline/made/seed"], 1, 0),
    ("model_card", r"([\d.]+) % of 248 depths", "ablation", ["headline/numbers/coverage 0.9/fgs1"], 100, 0),
    ("limitations", r"score is ([\d.]+) below", "proof", ["oracle_gap"], 1, 0),
    ("limitations", r"was ([\d.]+) % slower", "proof_dask", ["over_processes/dask"], 100, -100),
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


def card_texts(): return {name: (ROOT/"docs"/f"{name}.md").read_text(encoding="utf-8") for name in ("model_card", "limitations")}


def test_figures_are_the_ones_at_their_addresses(): assert not wrong_figures(card_texts())


@pytest.mark.parametrize("before, after", [("0.721 (FGS1", "0.722 (FGS1"), ("69.8 %", "69.9 %"), ("0.772 |", "0.773 |"), ("seed 9001 |", "seed 9002 |"), ("0.022 (95 %", "0.023 (95 %"), ("92.7 %", "92.8 %"), ("AIRS 47 ppm", "AIRS 46 ppm")],
                         ids=["score", "coverage", "oracle", "seed", "gain", "prose", "error"])
def test_a_figure_that_was_not_measured_is_found(before, after):
    texts = card_texts()
    assert before in texts["model_card"] and wrong_figures(texts | dict(model_card=texts["model_card"].replace(before, after)))


def test_a_figure_that_stands_nowhere_is_found():
    assert faults("The score is 0.98765.") and faults("The score is 0.98765 (seed 5003, [x](../benchmarks/proof.json)).") and faults("0.721, seed 1 ([x](../benchmarks/proof.json))")
    assert not faults("The score is 0.721 (seed 5003, [x](../benchmarks/proof.json)), MPL 2.0.")


def test_each_row_of_the_model_card_names_its_data_seed_and_record():
    part = (ROOT/"docs"/"model_card.md").read_text(encoding="utf-8").partition("## How well")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ") and not line.startswith("| question")]
    assert len(rows) >= 5
    for row in rows: assert re.search(r"planets.*seed \d+", row) and "benchmarks/" in row, row
