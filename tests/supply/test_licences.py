"Licences: found where distributions state them, judged by what we may hand out, refused by name where nothing is stated."
import ast
import importlib.metadata
from pathlib import Path

import licences
import pytest
from packaging.utils import canonicalize_name


def distribution(folder, metadata, text=None):
    "An installed distribution with this metadata and licence file."
    info = folder/"thing-1.0.dist-info"
    info.mkdir()
    (info/"METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n" + metadata, encoding="utf-8")
    if text is not None: (info/"LICENSE").write_text(text, encoding="utf-8")
    (info/"RECORD").write_text("".join(f"{path.relative_to(folder).as_posix()},,\n" for path in sorted(info.iterdir())), encoding="utf-8")
    return importlib.metadata.Distribution.at(info)


@pytest.mark.parametrize("metadata, text, wanted", [
    ("License-Expression: mit or apache-2.0\n", None, ("MIT OR Apache-2.0", "License-Expression")),
    ("License: Apache 2.0\n", None, ("Apache-2.0", "License")),
    ("License: BSD\nClassifier: License :: OSI Approved :: BSD License\n", "Redistribution and use in source and binary forms ...\nNeither the name of X", ("BSD-3-Clause", "licence file")),
    ("License: BSD\n", "Redistribution and use in source and binary forms", ("BSD-2-Clause", "licence file")),
    ("Classifier: License :: OSI Approved :: MIT License\n", None, ("MIT", "classifier")),
    ("Classifier: License :: OSI Approved :: MIT License\n", "Permission is hereby granted, free of charge", ("MIT", "licence file")),
    ("Classifier: License :: OSI Approved :: MIT License\n", "Apache License\n Version 2.0", ("MIT", "classifier")),
    ("License: BSD\n", None, (None, "nowhere")), ("License: as you like\n", "do what you want", (None, "nowhere")), ("License-Expression: nonsense here\n", None, (None, "nowhere"))],
    ids=["expression", "field", "three clauses", "two clauses", "classifier", "both", "words disagree", "BSD alone", "own words", "no expression"])
def test_where_a_licence_is_found(tmp_path, metadata, text, wanted):
    assert licences.licence_of("thing", distribution(tmp_path, metadata, text)) == wanted


@pytest.mark.parametrize("text, ok", [
    ("MIT", True), ("MPL-2.0", True), ("GPL-3.0-only", False), ("AGPL-3.0-only", False), ("LGPL-2.1-or-later", False), ("MIT AND GPL-2.0-only", False), ("GPL-2.0-only OR MIT", True),
    ("EPL-2.0 OR GPL-2.0-or-later", False), ("GPL-3.0-or-later WITH GCC-exception-3.1", True), ("GPL-2.0-only WITH Classpath-exception-2.0", False), ("Apache-2.0 WITH LLVM-exception", True),
    ("(MIT OR Apache-2.0) AND (GPL-2.0-only OR ISC)", True), ("(MIT OR GPL-2.0-only) AND AGPL-3.0-only", False)])
def test_what_may_be_handed_out(text, ok): assert licences.allowed(text) is ok


def test_lgpl_only_where_it_can_be_exchanged():
    assert licences.allowed("LGPL-2.1-or-later", exchangeable=True) and not licences.allowed("GPL-2.0-or-later", exchangeable=True)


def test_tables_are_in_their_usual_spelling():
    for text in [row[0] for row in licences.REVIEWED.values()] + [*licences.CARRIED.values(), *licences.SPELT.values()]: assert licences.expression(text) == text
    for name in licences.PERMISSIVE | licences.WEAK: assert licences.expression(name) == name


def test_no_row_is_kept_that_is_not_needed(monkeypatch):
    "A reviewed row goes when the distribution says it clearly itself."
    there = {canonicalize_name(found.name): found for found in importlib.metadata.distributions() if found.name}
    rows = [name for name in licences.REVIEWED if name in there]
    assert rows
    monkeypatch.setattr(licences, "REVIEWED", {})
    for name in rows: assert licences.licence_of(name, there[name])[0] is None, name


def test_carried_libraries_are_known_by_the_beginning_of_their_names():
    assert licences.carried_licence("libgfortran-040039e1-0352e75f.so.5.0.0") == "GPL-3.0-or-later WITH GCC-exception-3.1"
    assert licences.carried_licence("libsomething-1.so") is None


def test_nothing_handed_out_imports_what_may_not_be():
    "Top-level modules of development tools under other terms, and the package's imports, those inside functions too."
    theirs = importlib.metadata.packages_distributions()
    strict = {module for module, names in theirs.items() for name in names
              if (text := licences.licence_of(canonicalize_name(name), importlib.metadata.distribution(name))[0]) and not licences.allowed(text)}
    assert "batman" in strict
    imported = set()
    for path in (Path(__file__).resolve().parents[2]/"spectramind").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import): imported |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.level == 0: imported.add(node.module.partition(".")[0])
    assert "numpy" in imported and not imported & strict
