"""Which licence a distribution has, as an SPDX expression, and whether what we hand out may depend on it.

A distribution says it in one of four places, and they are asked in this order: `License-Expression` (PEP 639), the field
`License`, the words of its licence file, its classifiers. What none of them settles stands in `REVIEWED`, where somebody has
looked; what stands nowhere has no licence, and the policy refuses it by name.
"""
import importlib.metadata
import re

from license_expression import LicenseWithExceptionSymbol, get_spdx_licensing
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

SPDX = get_spdx_licensing()

# name -> (expression, what was looked at). A row is for a distribution whose own words are unclear, and goes when they no longer are.
REVIEWED = {
    "antlr4-python3-runtime": ("BSD-3-Clause", "says BSD and ships no licence file; the heads of its files name the BSD 3-clause licence"),
    "grandalf": ("GPL-2.0-only OR EPL-1.0", "says GPLv2 | EPLv1"),
    "ply": ("BSD-3-Clause", "says BSD and ships no licence file; the head of its lex.py has three clauses"),
    "pygit2": ("GPL-2.0-only WITH GCC-exception-2.0", "says GPLv2 with linking exception; its COPYING has the text of GCC's"),
}

# What people write, in lower case -> what it means.
SPELT = {
    "mit": "MIT", "mit license": "MIT", "the mit license": "MIT", "apache 2.0": "Apache-2.0", "apache-2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache software license 2.0": "Apache-2.0", "apache software license": "Apache-2.0", "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause", "bsd 3-clause license": "BSD-3-Clause", "bsdv3": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "3-clause bsd": "BSD-3-Clause",
    "bsd 2-clause license": "BSD-2-Clause", "isc license": "ISC", "isc": "ISC", "psfl": "PSF-2.0", "psf-2.0": "PSF-2.0", "gnu gplv3": "GPL-3.0-only", "mpl 2.0": "MPL-2.0",
}
CLASSIFIED = {
    "MIT License": "MIT", "Apache Software License": "Apache-2.0", "ISC License (ISCL)": "ISC", "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Zope Public License": "ZPL-2.1", "BSD License": None, "OSI Approved": None,
}

# In a licence file, the first that fits. Two clauses only when the third is nowhere.
TEXTS = (
    (re.compile(r"neither the name|names? of (its|the) .{0,60}contributors? may not|nor the names of", re.I | re.S), "BSD-3-Clause"),
    (re.compile(r"redistribution and use in source and binary forms", re.I), "BSD-2-Clause"),
    (re.compile(r"permission is hereby granted, free of charge", re.I), "MIT"),
    (re.compile(r"apache license\s+version 2\.0", re.I), "Apache-2.0"),
    (re.compile(r"mozilla public license,? version 2\.0", re.I), "MPL-2.0"),
    (re.compile(r"permission to use, copy, modify, and(/or)? distribute this software", re.I), "ISC"),
)

# What an MIT package may stand on: all of these ask for their notice to be kept, and no more of whoever uses the package.
PERMISSIVE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "FTL", "HPND", "IJG", "ISC", "MIT", "MIT-0", "MIT-CMU", "MIT-Modern-Variant", "MIT-open-group", "PSF-2.0", "Python-2.0", "Unicode-3.0",
    "Unicode-DFS-2016", "Unlicense", "X11", "ZPL-2.1", "Zlib", "libpng-2.0", "libtiff",
}
WEAK = {"MPL-2.0"}                                     # binds changes of its own files only
EXCEPTIONS = {"GCC-exception-3.1", "LLVM-exception"}   # with them, what is linked stays free
# LGPL: decided, and said in docs/release.md. Allowed for a library that a wheel carries as a file of its own and that can be
# exchanged (libquadmath in the wheels of numpy and scipy); not for a distribution that we would depend on.
EXCHANGEABLE = re.compile(r"^LGPL-")

# Shared libraries that wheels carry in a folder NAME.libs, by the beginning of their file names.
CARRIED = {
    "libgfortran": "GPL-3.0-or-later WITH GCC-exception-3.1", "libgomp": "GPL-3.0-or-later WITH GCC-exception-3.1", "libquadmath": "LGPL-2.1-or-later",
    "libscipy_openblas": "BSD-3-Clause", "libscipy_openblas64_": "BSD-3-Clause", "libsodium": "ISC", "libzmq": "MPL-2.0", "libaec": "BSD-2-Clause", "libsz": "BSD-2-Clause",
    "libhdf5": "BSD-3-Clause", "libhdf5_hl": "BSD-3-Clause", "libXau": "MIT-open-group", "libxcb": "X11", "libavif": "BSD-2-Clause", "libbrotlicommon": "MIT",
    "libbrotlidec": "MIT", "libfreetype": "FTL OR GPL-2.0-or-later", "libharfbuzz": "MIT-Modern-Variant", "libjpeg": "IJG AND BSD-3-Clause AND Zlib", "liblcms2": "MIT",
    "liblzma": "0BSD", "libopenjp2": "BSD-2-Clause", "libpng16": "libpng-2.0", "libsharpyuv": "BSD-3-Clause", "libtiff": "libtiff", "libwebp": "BSD-3-Clause",
    "libwebpdemux": "BSD-3-Clause", "libwebpmux": "BSD-3-Clause", "libzstd": "BSD-3-Clause OR GPL-2.0-only",
}


def expression(text: str) -> str | None:
    "An SPDX expression in its usual spelling; None when it is none."
    try: return canonicalize_license_expression(text)
    except InvalidLicenseExpression: return None


def from_text(text: str) -> str | None:
    return next((name for pattern, name in TEXTS if pattern.search(text)), None)


def licence_files(found: importlib.metadata.Distribution) -> list[str]:
    "The words of every licence file in the distribution's own folder."
    names = [f for f in found.files or [] if ".dist-info" in str(f) and re.search(r"licen[cs]e|copying", f.name, re.I)]
    return [f.locate().read_text(encoding="utf-8", errors="replace") for f in sorted(names, key=str)]


def licence_of(name: str, found: importlib.metadata.Distribution) -> tuple[str | None, str]:
    "The expression, and where it was found; None when nowhere."
    said, words = found.metadata.get("License-Expression"), (found.metadata.get("License") or "").strip()
    if said and (clear := expression(said)): return clear, "License-Expression"
    if name in REVIEWED: return REVIEWED[name][0], "reviewed"
    if clear := SPELT.get(words.lower()) or (expression(words) if len(words) < 60 else None): return clear, "License"
    classes = {c.rpartition(" :: ")[2] for c in found.metadata.get_all("Classifier") or [] if c.startswith("License ::")}
    texts = [clear for text in [words, *licence_files(found)] if (clear := from_text(text))]
    named = [CLASSIFIED[c] for c in classes if CLASSIFIED.get(c)]
    if texts and (not named or texts[0] in named): return texts[0], "licence file"
    if len(named) == 1: return named[0], "classifier"
    return None, "nowhere"


def allowed(text: str, exchangeable: bool = False) -> bool:
    "Whether an expression can be met with permissive terms: one side of an `or`, both of an `and`."
    def fits(node):
        parts = [fits(part) for part in getattr(node, "args", ())]
        if parts: return any(parts) if node.operator.strip() == "OR" else all(parts)
        if isinstance(node, LicenseWithExceptionSymbol): return node.exception_symbol.key in EXCEPTIONS
        return node.key in PERMISSIVE | WEAK or exchangeable and bool(EXCHANGEABLE.match(node.key))
    return fits(SPDX.parse(text))


def carried_licence(file_name: str) -> str | None:
    "Of a shared library in NAME.libs."
    stem = re.split(r"[-.]", file_name)[0]
    return CARRIED.get(stem)
