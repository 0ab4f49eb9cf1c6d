"""sbom.py [--out DIR] [--check] [--audit]: what SpectraMind is made of, from what is installed here, without a network.

Writes `sbom.cdx.json` (CycloneDX 1.6) and `sbom.spdx.json` (SPDX 2.3) and validates both: their schemas, and that each says the
same. Three sets, marked in both: `runtime` (what the wheel needs), `extra:NAME` (what its extras need), `dev`; and `cuda` where a build of torch brings that along. A distribution
that is not the one in requirements.lock, that has no licence, or whose licence may not be in its set ends with code 6 and its name.
`--check` does all that and writes nothing; `--audit` asks pip-audit for known vulnerabilities, and says so when it cannot be asked.
The same environment and commit give the same bytes: the time is SOURCE_DATE_EPOCH or the commit's, the serial number a hash.
"""
import argparse
import configparser
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import licences
from spectramind.core.errors import DataError, QualityGateError, SpectraMindError
from spectramind.core.store import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
FILES = {"cdx": "sbom.cdx.json", "spdx": "sbom.spdx.json", "audit": "sbom.audit.json"}
APART = {"torch": "installed apart from the lock by scripts/install.sh"}
# What a CUDA build of torch brings along on a machine with a card: under its makers' terms, not in the lock, and never handed out by us.
CARD = re.compile(r"(nvidia|cuda|triton)(-|$)")


@dataclass
class Part:
    "One distribution, as it is installed."
    name: str
    version: str
    sets: list                                     # of 'runtime', 'extra:NAME', 'dev'; all that need it; or 'cuda' alone
    licence: str | None = None
    licence_from: str = ""
    needs: list = field(default_factory=list)      # names of other parts
    hashes: list = field(default_factory=list)     # SHA-256 of the files that the lock allows
    summary: str = ""
    carried: list = field(default_factory=list)    # (file, sha256, licence) of shared libraries inside
    inner: list = field(default_factory=list)      # (name, version, licence) from the distribution's own bills of materials
    bills: list = field(default_factory=list)      # (serial number, sha256) of these
    @property
    def purl(self) -> PackageURL: return PackageURL("pypi", None, self.name, self.version)
    @property
    def shipped(self) -> bool: return any(name not in ("dev", "cuda") for name in self.sets)


def settings_of(root: Path = ROOT) -> configparser.SectionProxy:
    found = configparser.ConfigParser(delimiters=["="])
    found.read(root/"settings.ini", encoding="utf-8")
    return found["DEFAULT"]


def wanted_by(settings: configparser.SectionProxy) -> dict:
    "Set -> its own requirements: `runtime`, `extra:NAME`, `dev`."
    def rows(key): return [Requirement(line.strip()) for line in settings[key].splitlines() if line.strip()]
    sets = {"runtime": rows("requirements")}
    for key in sorted(settings):
        name = key.removesuffix("_requirements")
        if name != key: sets["dev" if name == "dev" else f"extra:{name}"] = rows(key)
    return sets


@cache
def installed() -> dict: return {canonicalize_name(found.name): found for found in importlib.metadata.distributions(path=sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})) if found.name}   # not what setuptools carries inside itself


def closure(roots: list) -> tuple[dict, list]:
    "Name -> names it needs, of everything that these requirements pull in here; and what is missing."
    seen, edges, missing, todo = {}, {}, [], [(need, frozenset()) for need in roots]
    while todo:
        need, extras = todo.pop()
        if need.marker is not None and not any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}): continue
        name, asked = canonicalize_name(need.name), frozenset(need.extras) | {""}
        if name not in installed():
            missing.append(name)
            continue
        if asked <= seen.get(name, frozenset()): continue
        seen[name] = seen.get(name, frozenset()) | asked
        needs = [Requirement(line) for line in installed()[name].requires or []]
        live = [n for n in needs if n.marker is None or any(n.marker.evaluate({"extra": extra}) for extra in seen[name])]
        edges[name] = sorted({canonicalize_name(n.name) for n in live})
        todo += [(n, seen[name]) for n in live]
    return {name: [n for n in edges[name] if n in edges] for name in edges}, sorted(set(missing))


def locked(text: str) -> dict:
    "Name -> (version, SHA-256 of the allowed files), for the lines of a lock that hold on this machine."
    found = {}
    for block in re.split(r"\n(?=\S)", text):
        line, hashes = block.partition("\\")[0].strip(), re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
        if not hashes: continue
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate(): found[canonicalize_name(need.name)] = (next(iter(need.specifier)).version, sorted(hashes))
    return found


def inside(part: Part, found: importlib.metadata.Distribution) -> None:
    "Shared libraries that the wheel carries, and what its own bills of materials (PEP 770) list."
    for file in sorted(found.files or [], key=str):
        path = Path(file.locate())
        if re.search(r"(^|/)[\w-]+\.libs/[^/]+$", str(file)):
            part.carried.append((file.name, hashlib.sha256(path.read_bytes()).hexdigest(), licences.carried_licence(file.name)))
        elif ".dist-info/sboms/" in str(file) and file.name.endswith(".json"):
            text = path.read_bytes()
            bill = json.loads(text)
            part.bills.append((bill.get("serialNumber", ""), hashlib.sha256(text).hexdigest()))
            for one in bill.get("components", []):
                said = [entry.get("expression") or entry["license"].get("id") or entry["license"].get("name") for entry in one.get("licenses", [])]
                if canonicalize_name(one["name"]) == part.name or one.get("scope") in ("optional", "excluded"): continue   # what a build may have or needed; what is really there is in NAME.libs
                part.inner.append((one["name"], one.get("version", ""), licences.expression(" AND ".join(f"({word})" for word in said)) if said else licences.carried_licence(one["name"])))


def gather(root: Path = ROOT) -> tuple[list, list]:
    "Every part, by name; and faults: what is missing or not as locked."
    lock, sets, faults = locked((root/"requirements.lock").read_text(encoding="utf-8")), {}, []
    edges = {}
    for name, roots in wanted_by(settings_of(root)).items():
        found, missing = closure(roots)
        edges |= found
        for part in found: sets.setdefault(part, []).append(name)
        faults += [f"{one}: not installed, but {name} needs it" for one in missing]
    parts = []
    for name in sorted(edges):
        found = installed()[name]
        licence, where = licences.licence_of(name, found)
        version, hashes = lock.get(name, (None, []))
        part = Part(name, found.version, ["cuda"] if CARD.match(name) else sets[name], licence, where, edges[name], hashes, " ".join((found.metadata.get("Summary") or "").split()))
        if version is None and name not in APART and "cuda" not in part.sets: faults.append(f"{name} {found.version}: not in requirements.lock")
        if version not in (None, found.version): faults.append(f"{name}: {found.version} is installed, requirements.lock has {version}")
        inside(part, found)
        parts.append(part)
    return parts, sorted(set(faults))


def judge(parts: list) -> list:
    "What the licence policy has against them. Development tools need a known licence; what we hand out, one that asks for nothing but its notice."
    faults = []
    for part in parts:
        where = ", ".join(part.sets)
        if part.sets == ["cuda"]: continue
        if part.licence is None: faults.append(f"{part.name} {part.version} ({where}): no licence found; look, and add a row to REVIEWED in scripts/licences.py")
        elif part.shipped and not licences.allowed(part.licence): faults.append(f"{part.name} {part.version} ({where}): {part.licence} is not allowed there")
        if not part.shipped: continue
        for file, _, licence in part.carried:
            if licence is None: faults.append(f"{part.name} {part.version} carries {file}: no licence known; add a row to CARRIED in scripts/licences.py")
            elif not licences.allowed(licence, exchangeable=True): faults.append(f"{part.name} {part.version} carries {file}: {licence} is not allowed")
        for name, version, licence in part.inner:
            if licence is None: faults.append(f"{part.name} {part.version} contains {name} {version}: no licence known")
            elif not licences.allowed(licence, exchangeable=licences.carried_licence(name) is not None): faults.append(f"{part.name} {part.version} contains {name} {version}: {licence} is not allowed")
    return faults


def moment(root: Path = ROOT) -> datetime:
    "SOURCE_DATE_EPOCH, or the time of the last commit; the year 1980 where there is neither."
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        asked = subprocess.run(["git", "-C", str(root), "log", "-1", "--format=%ct"], capture_output=True, text=True)
        epoch = asked.stdout.strip() if asked.returncode == 0 and asked.stdout.strip() else "315532800"
    return datetime.fromtimestamp(int(epoch), timezone.utc)


def where_made() -> str: return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


def cyclonedx_text(parts: list, settings: configparser.SectionProxy, when: datetime) -> str:
    "CycloneDX 1.6 as JSON."
    from cyclonedx.contrib.this.builders import this_component
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.model.license import LicenseExpression
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6
    def sha(value): return HashType(alg=HashAlgorithm.SHA_256, content=value)
    def terms(text): return [LicenseExpression(text)] if text else []
    def part_of(part):
        refs = [ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(str(part.purl)), comment="the files that requirements.lock allows", hashes=map(sha, part.hashes))] if part.hashes else []
        refs += [ExternalReference(type=ExternalReferenceType.BOM, url=XsUri(serial or f"{part.purl}#sbom"), comment="the distribution's own bill of materials", hashes=[sha(value)]) for serial, value in part.bills]
        inner = [Component(name=file, type=ComponentType.LIBRARY, bom_ref=f"{part.purl}#{file}", hashes=[sha(value)], licenses=terms(licence)) for file, value, licence in part.carried]
        notes = [Property(name="spectramind:set", value=name) for name in part.sets] + [Property(name="spectramind:licence-from", value=part.licence_from)]
        notes += [Property(name="spectramind:lock", value=APART[part.name])] if part.name in APART else []
        scope = ComponentScope.REQUIRED if "runtime" in part.sets else ComponentScope.OPTIONAL if part.shipped else ComponentScope.EXCLUDED
        return Component(name=part.name, version=part.version, type=ComponentType.LIBRARY, bom_ref=str(part.purl), purl=part.purl, scope=scope, description=part.summary or None,
                         hashes=[sha(part.hashes[0])] if len(part.hashes) == 1 else [], licenses=terms(part.licence), external_references=refs, components=inner, properties=notes)
    own = Component(name=settings["lib_name"], version=settings["version"], type=ComponentType.APPLICATION, bom_ref="spectramind", purl=PackageURL("pypi", None, settings["lib_name"], settings["version"]),
                    licenses=terms("MIT"), description=settings["description"])
    made = {part.name: part_of(part) for part in parts}
    about = BomMetaData(component=own, tools=ToolRepository(components=[this_component()]), timestamp=when, properties=[Property(name="spectramind:made-with", value=where_made())])
    asked = {canonicalize_name(need.name) for need in wanted_by(settings)["runtime"]}
    edges = [Dependency(own.bom_ref, [Dependency(made[name].bom_ref) for name in sorted(asked) if name in made])]
    edges += [Dependency(made[part.name].bom_ref, [Dependency(made[name].bom_ref) for name in part.needs]) for part in parts]
    def text(serial): return JsonV1Dot6(Bom(components=made.values(), metadata=about, dependencies=edges, serial_number=serial)).output_as_string(indent=1) + "\n"
    return text(uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(text(uuid.UUID(int=0)).encode()).hexdigest()))


def spdx_text(parts: list, settings: configparser.SectionProxy, when: datetime) -> str:
    "SPDX 2.3 as JSON."
    from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
    from spdx_tools.spdx.model import (Actor, ActorType, Checksum, ChecksumAlgorithm, CreationInfo, Document, ExternalPackageRef, ExternalPackageRefCategory, ExtractedLicensingInfo, Package, PackagePurpose,
                                       Relationship, RelationshipType, SpdxNoAssertion)
    def name_of(text): return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", text)
    def sums(values): return [Checksum(ChecksumAlgorithm.SHA256, value) for value in values]
    def entry(ref, name, version, licence, **more):
        said = licences.SPDX.parse(licence) if licence else SpdxNoAssertion()
        return Package(spdx_id=ref, name=name, version=version, download_location=SpdxNoAssertion(), files_analyzed=False, license_declared=said, license_concluded=said, copyright_text=SpdxNoAssertion(), **more)
    def link(purl): return [ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", str(purl))]
    own = entry("SPDXRef-spectramind", settings["lib_name"], settings["version"], "MIT", summary=settings["description"], primary_package_purpose=PackagePurpose.APPLICATION,
                external_references=link(PackageURL("pypi", None, settings["lib_name"], settings["version"])))
    packages, ties = [own], [Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, own.spdx_id)]
    refs = {part.name: name_of(part.name) for part in parts}
    asked = {canonicalize_name(need.name) for need in wanted_by(settings)["runtime"]}
    ties += [Relationship(own.spdx_id, RelationshipType.DEPENDS_ON, refs[name]) for name in sorted(asked) if name in refs]
    for part in parts:
        note = f"sets: {', '.join(part.sets)}; licence from: {part.licence_from}" + (f"; {APART[part.name]}" if part.name in APART else "")
        if len(part.hashes) > 1: note += "; SHA-256 of the files that requirements.lock allows: " + " ".join(part.hashes)
        packages.append(entry(refs[part.name], part.name, part.version, part.licence, summary=part.summary or None, comment=note, external_references=link(part.purl),
                              checksums=sums(part.hashes if len(part.hashes) == 1 else []), primary_package_purpose=PackagePurpose.LIBRARY))
        kinds = [RelationshipType.OPTIONAL_DEPENDENCY_OF] * any(name.startswith("extra:") for name in part.sets) + [RelationshipType.DEV_DEPENDENCY_OF] * ("dev" in part.sets)
        if "runtime" not in part.sets: ties += [Relationship(refs[part.name], kind, own.spdx_id) for kind in kinds[:1]]
        ties += [Relationship(refs[part.name], RelationshipType.DEPENDS_ON, refs[name]) for name in part.needs]
        for file, value, licence in part.carried:
            packages.append(entry(name_of(f"{part.name}-carries-{file}"), file, None, licence, checksums=sums([value]), primary_package_purpose=PackagePurpose.LIBRARY))
            ties.append(Relationship(refs[part.name], RelationshipType.CONTAINS, packages[-1].spdx_id))
    digest = hashlib.sha256(repr([(p.name, p.version, p.sets, p.licence, p.hashes, p.carried, p.needs) for p in parts] + [settings["version"], when, where_made()]).encode()).hexdigest()
    about = CreationInfo("SPDX-2.3", "SPDXRef-DOCUMENT", f"{settings['lib_name']}-{settings['version']}", f"{settings['git_url']}/sbom/{digest}", [Actor(ActorType.TOOL, "spectramind-scripts-sbom")],
                         when.replace(tzinfo=None), creator_comment=f"made with {where_made()}")
    own_terms = sorted({word for part in parts for word in re.findall(r"LicenseRef-[\w.-]+", part.licence or "")})
    terms = [ExtractedLicensingInfo(word, "The terms are in the distribution itself.", word.removeprefix("LicenseRef-")) for word in own_terms]
    return json.dumps(DocumentConverter().convert(Document(about, packages=packages, relationships=ties, extracted_licensing_info=terms)), indent=1, ensure_ascii=False) + "\n"


def faults_of(cdx: str, spdx: str) -> list:
    "What is wrong with the two documents: by their schemas and rules, and beside each other."
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from spdx_tools.spdx.parser.error import SPDXParsingError
    from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(cdx)
    faults = [f"CycloneDX: {str(wrong)[:300]}"] if wrong else []
    try:
        document = JsonLikeDictParser().parse(json.loads(spdx))
        faults += [f"SPDX: {message.validation_message[:300]}" for message in validate_full_spdx_document(document)]
    except SPDXParsingError as error: faults += [f"SPDX: {message[:300]}" for message in error.get_messages()]
    except (ValueError, KeyError, TypeError) as error: faults.append(f"SPDX: {str(error)[:300]}")
    if faults: return faults
    left = {one["purl"]: one for one in json.loads(cdx)["components"]}
    right = {ref["referenceLocator"]: one for one in json.loads(spdx)["packages"][1:] for ref in one.get("externalRefs", [])}
    faults += [f"{purl}: in one document only" for purl in sorted(left.keys() ^ right.keys())]
    for purl in sorted(left.keys() & right.keys()):
        said = left[purl].get("licenses", [{}])[0]
        text = said.get("expression") or said.get("license", {}).get("id") or "NOASSERTION"
        if licences.SPDX.parse(text) != licences.SPDX.parse(right[purl]["licenseDeclared"]): faults.append(f"{purl}: two licences")
    return faults


def audit(root: Path = ROOT) -> tuple[list, list]:
    "Known vulnerabilities of what requirements-runtime.lock asks for; and why, or of what, nothing is known."
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "-r", str(root/"requirements-runtime.lock"), "--format", "json", "--progress-spinner", "off", "--timeout", "20"]
    try: asked = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired: return [], ["no answer within five minutes"]
    return read_audit(asked.stdout, asked.stderr)


def read_audit(answer: str, said: str = "") -> tuple[list, list]:
    "What pip-audit answered, as `audit` returns it."
    try: found = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return [], [re.sub(r"https?://\S+|host='[^']*'", "(address)", (said.strip().splitlines() or ["no words"])[-1])[:200]]
    bugs = [f"{one['name']} {one['version']}: {bug['id']}, fixed in {', '.join(bug['fix_versions']) or 'no release'}" for one in found for bug in one.get("vulns", [])]
    unknown = [one["name"] for one in found if "skip_reason" in one]
    if unknown and len(unknown) == len(found): return [], ["the index that pip uses here has no data about vulnerabilities"]
    return bugs, [f"not looked at: {', '.join(unknown)}"] if unknown else []


def tell(parts: list) -> None:
    runtime = [part for part in parts if "runtime" in part.sets]
    extras, dev = [part for part in parts if part.shipped and part not in runtime], [part for part in parts if "dev" in part.sets and not part.shipped]
    inner = sum(len(part.inner) for part in parts if part.shipped)
    print(f"{len(runtime)} distributions of the runtime set, {len(extras)} more of the extras, {len(dev)} more for development;",
          f"{sum(len(part.carried) for part in parts if part.shipped)} shared libraries and {inner} parts listed inside those that are handed out")
    print("licences of the runtime set:", ", ".join(f"{name} {n}" for name, n in Counter(part.licence for part in runtime).most_common()))
    card = [f"{part.name} ({part.licence or 'own terms'})" for part in parts if part.sets == ["cuda"]]
    if card: print("with a CUDA build of torch, under their makers' terms, and not handed out:", ", ".join(card))
    copyleft = [f"{part.name} ({part.licence})" for part in dev if part.licence and not licences.allowed(part.licence)]
    print("for development only, and not to be handed out:", ", ".join(copyleft) or "none")


def main(words: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to write to")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--audit", action="store_true", help="also ask for known vulnerabilities")
    parser.add_argument("--strict", action="store_true", help="with --audit: not having been able to ask is a failure")
    options = parser.parse_args(words)
    parts, faults = gather()
    if not parts: raise DataError(ROOT/"settings.ini", "no requirement that is installed", "the environment of `make dev`")
    tell(parts)
    faults += judge(parts)
    settings, when = settings_of(), moment()
    cdx, spdx = cyclonedx_text(parts, settings, when), spdx_text(parts, settings, when)
    wrong = faults_of(cdx, spdx)
    print("valid: CycloneDX 1.6 and SPDX 2.3, and both say the same" if not wrong else "not valid: " + "; ".join(wrong[:5]))
    if not options.check and not wrong:
        for name, text in ((FILES["cdx"], cdx), (FILES["spdx"], spdx)): print(write_text(options.out/name, text).name)
    bugs, unknown = audit() if options.audit else ([], [])
    if options.audit and not options.check: write_json(options.out/FILES["audit"], dict(vulnerabilities=bugs, unknown=unknown))
    for line in unknown: print(f"pip-audit: NOT DONE: {line}")
    if options.audit and not unknown: print(f"pip-audit: {len(bugs)} known vulnerabilities in requirements-runtime.lock")
    bad = faults + wrong + bugs + (unknown if options.strict else [])
    for line in bad: print(f"FAIL {line}")
    if bad: raise QualityGateError(f"bill of materials: found {len(bad)} faults (first: {bad[0]}), wanted none", hint="the lines marked FAIL say what")
    return 0


if __name__ == "__main__":
    try: sys.exit(main())
    except SpectraMindError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
