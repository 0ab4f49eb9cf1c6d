"The bill of materials: complete, valid, the same twice; and a fault of each kind is found."
import copy
import json
import re
from datetime import datetime, timezone

import pytest
import sbom

from spectramind.core.errors import QualityGateError

WHEN = datetime(2026, 11, 22, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def few(gathered):
    "A small bill that is quick to validate: what jsonschema and numpy need, and one tool."
    chosen, todo = {}, ["jsonschema", "numpy", "pygit2"]
    parts = {part.name: part for part in gathered[0]}
    while todo:
        name = todo.pop()
        if name not in chosen:
            chosen[name] = parts[name]
            todo += parts[name].needs
    return [copy.deepcopy(chosen[name]) for name in sorted(chosen)]


@pytest.fixture(scope="module")
def documents(few): return sbom.cyclonedx_text(few, sbom.settings_of(), WHEN), sbom.spdx_text(few, sbom.settings_of(), WHEN)


def test_this_environment_has_no_fault(gathered):
    parts, faults = gathered
    assert faults == [] and sbom.judge(parts) == []


def test_the_runtime_set_is_the_runtime_lock(gathered):
    lock = sbom.locked((sbom.ROOT/"requirements-runtime.lock").read_text(encoding="utf-8"))
    runtime = {part.name: part.version for part in gathered[0] if "runtime" in part.sets}
    assert runtime == {name: version for name, (version, _) in lock.items()}


def test_every_part_is_marked_hashed_and_licensed(gathered):
    for part in gathered[0]:
        assert part.sets == ["cuda"] or part.sets and part.licence and (part.hashes or part.name in sbom.APART), part.name
        assert set(part.needs) <= {other.name for other in gathered[0]}
    assert not [part.name for part in gathered[0] if part.shipped and part.name in ("batman-package", "dvc", "pytest", "nbdev")]


def test_carried_libraries_are_listed_with_their_own_hash(gathered):
    scipy = next(part for part in gathered[0] if part.name == "scipy")
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) and licence for _, value, licence in scipy.carried)
    assert any(part.inner for part in gathered[0] if part.name == "polars-runtime-32")


def test_both_documents_are_valid_and_say_the_same(documents, few):
    assert sbom.faults_of(*documents) == []
    cdx, spdx = map(json.loads, documents)
    assert (cdx["specVersion"], spdx["spdxVersion"]) == ("1.6", "SPDX-2.3")
    scopes = {one["name"]: one["scope"] for one in cdx["components"]}
    assert scopes["jsonschema"] == "required" and scopes["pygit2"] == "excluded"
    ties = {(one["spdxElementId"], one["relationshipType"], one["relatedSpdxElement"]) for one in spdx["relationships"]}
    assert ("SPDXRef-pygit2", "DEV_DEPENDENCY_OF", "SPDXRef-spectramind") in ties and ("SPDXRef-jsonschema", "DEPENDS_ON", "SPDXRef-attrs") in ties
    refs = {one["ref"]: one.get("dependsOn", []) for one in cdx["dependencies"]}
    assert any(name.startswith("pkg:pypi/numpy@") for name in refs["spectramind"])


def test_the_same_twice_and_another_moment_is_another_document(documents, few):
    assert documents == (sbom.cyclonedx_text(few, sbom.settings_of(), WHEN), sbom.spdx_text(few, sbom.settings_of(), WHEN))
    other = sbom.cyclonedx_text(few, sbom.settings_of(), datetime(2026, 11, 23, tzinfo=timezone.utc))
    assert json.loads(other)["serialNumber"] != json.loads(documents[0])["serialNumber"]


def test_the_moment_is_given_or_the_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert sbom.moment() == datetime(1970, 1, 2, tzinfo=timezone.utc)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert sbom.moment(tmp_path).year == 1980


def test_nothing_of_this_machine_is_in_it(documents):
    for text in documents: assert not re.search(r"/(home|root|tmp|work|Users)/|https?://[^\"]*(simple|mirror|index)", text)


@pytest.mark.parametrize("change, word", [
    (lambda cdx, spdx: (cdx.replace('"specVersion": "1.6"', '"specVersion": 6'), spdx), "CycloneDX"),
    (lambda cdx, spdx: (re.sub(r'"alg": "SHA-256"', '"alg": "SHA"', cdx, count=1), spdx), "CycloneDX"),
    (lambda cdx, spdx: (cdx, spdx.replace('"SPDX-2.3"', '"SPDX-9.9"')), "SPDX"),
    (lambda cdx, spdx: (cdx, spdx.replace("SPDXRef-attrs", "attrs", 1)), "SPDX"),
    (lambda cdx, spdx: (cdx, spdx.replace("pkg:pypi/attrs@", "pkg:pypi/other@")), "one document only"),
    (lambda cdx, spdx: (cdx, spdx.replace('"licenseDeclared": "MIT",\n   "name": "attrs"', '"licenseDeclared": "ISC",\n   "name": "attrs"')), "two licences")],
    ids=["version", "algorithm", "spdx version", "spdx name", "another part", "another licence"])
def test_a_document_that_was_touched_is_found(documents, change, word):
    touched = change(*documents)
    assert touched != documents and any(word in fault for fault in sbom.faults_of(*touched))


def part_like(part, **more):
    twin = copy.deepcopy(part)
    for name, value in more.items(): setattr(twin, name, value)
    return twin


@pytest.mark.parametrize("more, word", [
    (dict(licence="GPL-3.0-only", sets=["runtime"]), "GPL-3.0-only is not allowed"), (dict(licence="AGPL-3.0-only", sets=["extra:lab", "dev"]), "not allowed"), (dict(licence=None, sets=["dev"]), "no licence found"),
    (dict(carried=[("libx-1.so", "0"*64, None)]), "libx-1.so: no licence known"), (dict(carried=[("liby-1.so", "0"*64, "GPL-2.0-only")]), "GPL-2.0-only is not allowed"),
    (dict(inner=[("crate", "1", "AGPL-3.0-only")]), "contains crate 1"), (dict(inner=[("crate", "1", None)]), "no licence known")], ids=["gpl", "agpl in an extra", "none", "carried unknown", "carried gpl", "inside", "inside unknown"])
def test_the_policy_refuses_by_name(few, more, word):
    found = sbom.judge([part_like(next(part for part in few if part.name == "numpy"), **more)])
    assert len(found) == 1 and "numpy" in found[0] and word in found[0]


def test_development_tools_may_have_any_known_licence(few):
    assert sbom.judge([part_like(few[0], licence="GPL-3.0-only", sets=["dev"])]) == []


def test_what_cuda_brings_along_is_named_and_not_handed_out(few, capsys):
    "A machine with a card has NVIDIA's libraries, whose licences are no SPDX expressions."
    card = part_like(next(part for part in few if part.name == "attrs"), name="nvidia-cublas", version="13.0", sets=["cuda"], licence=None, needs=[], hashes=[])
    assert sbom.judge([card]) == [] and not card.shipped and sbom.CARD.match("triton") and not sbom.CARD.match("tritonclient")
    cdx, spdx = sbom.cyclonedx_text([*few, card], sbom.settings_of(), WHEN), sbom.spdx_text([*few, card], sbom.settings_of(), WHEN)
    assert sbom.faults_of(cdx, spdx) == [] and '"scope": "excluded"' in cdx
    sbom.tell([card])
    assert "nvidia-cublas (own terms)" in capsys.readouterr().out
    named = part_like(card, licence="LicenseRef-NVIDIA-Proprietary")
    cdx, spdx = sbom.cyclonedx_text([*few, named], sbom.settings_of(), WHEN), sbom.spdx_text([*few, named], sbom.settings_of(), WHEN)
    assert sbom.faults_of(cdx, spdx) == [] and json.loads(spdx)["hasExtractedLicensingInfos"][0]["licenseId"] == "LicenseRef-NVIDIA-Proprietary"


def test_a_library_listed_inside_is_judged_as_one_that_is_carried(few):
    "auditwheel lists libquadmath as a part of scipy; it is a file of its own and can be exchanged. A crate under the same terms cannot."
    part = next(part for part in few if part.name == "numpy")
    assert sbom.judge([part_like(part, inner=[("libquadmath", "8.5", "LGPL-2.1-or-later")])]) == []
    assert sbom.judge([part_like(part, inner=[("crate", "1", "LGPL-2.1-or-later")])])


def test_drift_from_the_lock_and_what_is_missing_are_found(tmp_path):
    text = (sbom.ROOT/"requirements.lock").read_text(encoding="utf-8")
    version = re.search(r"^jsonschema==(\S+)", text, re.M)[1]
    (tmp_path/"requirements.lock").write_text(text.replace(f"jsonschema=={version}", "jsonschema==0.0.1"), encoding="utf-8")
    settings = (sbom.ROOT/"settings.ini").read_text(encoding="utf-8").replace("requirements =\n    numpy", "requirements =\n    no-such-thing\n    numpy", 1)
    (tmp_path/"settings.ini").write_text(settings, encoding="utf-8")
    found = sbom.gather(tmp_path)[1]
    assert any(f"jsonschema: {version} is installed, requirements.lock has 0.0.1" == line for line in found) and any(line.startswith("no-such-thing: not installed") for line in found)


def test_a_lock_is_read_with_its_markers():
    text = 'a==1.0 ; python_version < "2" \\\n    --hash=sha256:' + "1"*64 + '\na==2.0 ; python_version >= "3" \\\n    --hash=sha256:' + "2"*64 + " \\\n    --hash=sha256:" + "3"*64 + "\n"
    assert sbom.locked(text) == {"a": ("2.0", ["2"*64, "3"*64])}


@pytest.mark.parametrize("answer, said, wanted", [
    ({"dependencies": [{"name": "a", "version": "1", "vulns": []}]}, "", ([], [])),
    ({"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]}, "", (["a 1: PYSEC-1, fixed in 2"], [])),
    ({"dependencies": [{"name": "a", "skip_reason": "x"}]}, "", ([], ["the index that pip uses here has no data about vulnerabilities"])),
    ({"dependencies": [{"name": "a", "skip_reason": "x"}, {"name": "b", "version": "1", "vulns": []}]}, "", ([], ["not looked at: a"])),
    (None, "no route to https://index.example/simple", ([], ["no route to (address)"]))], ids=["clean", "vulnerable", "no data", "in part", "no network"])
def test_an_audit_that_could_not_look_is_no_clean_bill(answer, said, wanted):
    assert sbom.read_audit(json.dumps(answer) if answer else "", said) == wanted


def test_the_command_writes_what_it_validated_and_refuses_with_code_6(tmp_path, monkeypatch, few, capsys):
    monkeypatch.setattr(sbom, "gather", lambda: (few, []))
    assert sbom.main(["--out", str(tmp_path)]) == 0 and {path.name for path in tmp_path.iterdir()} == {"sbom.cdx.json", "sbom.spdx.json"}
    monkeypatch.setattr(sbom, "audit", lambda: ([], ["no network"]))
    assert sbom.main(["--check", "--audit"]) == 0 and "pip-audit: NOT DONE: no network" in capsys.readouterr().out
    with pytest.raises(QualityGateError, match="no network"): sbom.main(["--check", "--audit", "--strict"])
    monkeypatch.setattr(sbom, "gather", lambda: (few, ["x: not installed, but runtime needs it"]))
    with pytest.raises(QualityGateError, match="x: not installed") as caught: sbom.main(["--check"])
    assert caught.value.exit_code == 6
