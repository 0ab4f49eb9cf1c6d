"What a notebook exports, read from its source alone: signatures, comments and docstrings as an annotated reference."
import ast
import io
import re
import tokenize
from dataclasses import dataclass, field


@dataclass
class Entry:
    "A public function or class."
    name: str
    kind: str                    # 'function' or 'class'
    signature: str               # name and arguments, without types
    doc: str                     # its docstring
    rows: list = field(default_factory=list)     # (argument, type, default, what it is)
    methods: list = field(default_factory=list)  # (name and arguments, docstring)


def comments_of(source: str) -> dict:
    "Line number -> text of the comment that ends the line."
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT: found[token.start[0]] = token.string.lstrip("# ").strip()
    return found


def _type(node) -> tuple:
    "Type as written, and the help text of an `Annotated` one."
    if node is None: return "", ""
    if isinstance(node, ast.Constant) and isinstance(node.value, str): return node.value, ""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Annotated"):
        parts = node.slice.elts
        words = [k.value.value for call in parts[1:] if isinstance(call, ast.Call) for k in call.keywords
                 if k.arg == "help" and isinstance(k.value, ast.Constant)]
        return ast.unparse(parts[0]), " ".join(words)
    return ast.unparse(node), ""


def _arguments(node, notes: dict) -> tuple:
    "The argument list without types, and a row for each argument; the first of a method is left out by the caller."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(plain) - len(a.defaults)) + list(a.defaults)
    items = [("", arg, default) for arg, default in zip(plain, defaults)]
    if a.vararg: items.append(("*", a.vararg, None))
    elif a.kwonlyargs: items.append(("*", None, None))
    items += [("", arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: items.append(("**", a.kwarg, None))
    ends = [arg.end_lineno if default is None else default.end_lineno for _, arg, default in items if arg]
    words, rows = [], []
    for sign, arg, default in items:
        if arg is None: words.append("*"); continue
        value = "" if default is None else ast.unparse(default)
        words.append(sign + arg.arg + (f"={value}" if value else ""))
        what, said = _type(arg.annotation)
        end = arg.end_lineno if default is None else default.end_lineno
        alone = ends.count(end) == 1 and end != node.lineno or len(ends) == 1
        rows.append((sign + arg.arg, what, value, (notes.get(end, "") if alone else "") or said))
    if node.returns is not None:
        end = node.returns.end_lineno
        rows.append(("returns", _type(node.returns)[0], "", notes.get(end, "") if end != node.lineno or not items else ""))
    return words, rows


def _first(text: str) -> str: return (text or "").strip()


def _function(node, notes) -> Entry:
    words, rows = _arguments(node, notes)
    return Entry(node.name, "function", f"{node.name}({', '.join(words)})", _first(ast.get_docstring(node)), rows)


def _class(node, notes) -> Entry:
    entry = Entry(node.name, "class", f"class {node.name}", _first(ast.get_docstring(node)))
    if node.bases: entry.signature += f"({', '.join(ast.unparse(b) for b in node.bases)})"
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not part.target.id.startswith("_"):
            value = "" if part.value is None else ast.unparse(part.value)
            entry.rows.append((part.target.id, _type(part.annotation)[0], value, notes.get(part.end_lineno, "")))
        elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            words, rows = _arguments(part, notes)
            static = any(ast.unparse(d) == "staticmethod" for d in part.decorator_list)
            bare = words if static else words[1:]
            if part.name == "__init__":
                entry.signature = f"class {node.name}({', '.join(bare)})"
                entry.rows += [r for r in rows[1:] if r[0] != "returns"]
            elif not part.name.startswith("_"):
                is_property = any("property" in ast.unparse(d) for d in part.decorator_list)
                note = _first(ast.get_docstring(part)) or next((r[3] for r in rows if r[0] == "returns"), "") or notes.get(part.lineno, "")
                entry.methods.append((part.name if is_property else f"{part.name}({', '.join(bare)})", note))
    return entry


def entries(source: str) -> list:
    "The public functions and classes that an exported cell defines."
    tree, notes = ast.parse(source), comments_of(source)
    found = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"): found.append(_function(node, notes))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"): found.append(_class(node, notes))
    return found


def names(source: str) -> list:
    "Every public name that an exported cell defines, constants included."
    found = [e.name for e in entries(source)]
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            found += [n.id for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and not n.id.startswith("_")]
    return found


def only_imports(source: str) -> bool:
    "True for a cell that imports and does nothing else."
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def _code(text: str) -> str:
    "Inline code inside a Markdown table; Pandoc and GitHub read a bar between backticks differently, so such words are spelt in HTML."
    text = re.sub(r"\s+", " ", text)
    if "|" not in text and "`" not in text: return f"`{text}`" if text else ""
    return "<code>" + re.sub(r"[^\w .,:;()/=-]", lambda m: f"&#{ord(m[0])};", text) + "</code>"


def _cell(text: str) -> str:
    "Plain words inside a Markdown table: nothing of them is markup."
    text = re.sub(r"\s+", " ", text)
    return "".join(part if k % 2 else re.sub(r"([\\*_<>\[\]$|^~#@])", r"\\\1", part) for k, part in enumerate(re.split(r"(`[^`|]*`)", text)))


def heading(entry: Entry) -> str:
    "A heading with its anchor."
    return f"### {_cell(entry.name)} {{#{entry.name} .reference}}"


def card(entry: Entry) -> str:
    "Markdown: signature, docstring, a table of arguments, a table of methods."
    parts = [heading(entry), f"```python\n{entry.signature}\n```"]
    if entry.doc: parts.append(_cell(entry.doc.split("\n\n")[0]) if "\n" not in entry.doc else "\n\n".join(_cell(p) for p in entry.doc.split("\n\n")))
    if entry.rows:
        has_default = any(row[2] for row in entry.rows)
        head = ["", "type", *(["default"] if has_default else []), "what"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|"*len(head)]
        for name, kind, default, what in entry.rows:
            shown = "*returns*" if name == "returns" else _code(name)
            lines.append("| " + " | ".join([shown, _code(kind), *([_code(default)] if has_default else []), _cell(what)]) + " |")
        parts.append("\n".join(lines))
    if entry.methods:
        lines = ["| method | what |", "|---|---|"] + [f"| {_code(name)} | {_cell(what)} |" for name, what in entry.methods]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)
