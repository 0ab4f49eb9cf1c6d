"Run by check_wheel.sh inside the clean environment: every module of the checkout imports from the wheel (those of the extra `network` ask for it), configs, schemas and run notebooks are there. With --sky FOLDER: a tiny simulated tree instead."
import importlib, importlib.util, sys
from pathlib import Path

root = Path(sys.argv[1])
import spectramind
home = Path(spectramind.__file__).parent
if root in home.parents: sys.exit("the checkout was imported, not the wheel")
if sys.argv[2:3] == ["--sky"]:
    from spectramind.simulate.observatory import ProfileSpec, simulate_tree
    simulate_tree(Path(sys.argv[3])/"tree", Path(sys.argv[3])/"truth", profile=ProfileSpec(140, 1350, {"FGS1": 100, "AIRS-CH0": 80}), n_train=2, n_test=1, seed=12)
    sys.exit()
modules = sorted(str(p.relative_to(root).with_suffix("")).replace("/", ".") for p in (root/"spectramind").rglob("*.py")
                 if p.name not in ("__init__.py", "_modidx.py", "__main__.py"))
if not modules: sys.exit("no modules found in the checkout")
EXTRA, needs_extra = ("torch", "torch_geometric", "lightning", "safetensors"), []
for m in modules:
    try: importlib.import_module(m)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA or not m.startswith(("spectramind.network.", "spectramind.training.", "spectramind.symbolic.", "spectramind.pipeline.learning", "spectramind.pipeline.pretraining")): raise
        needs_extra.append(m)
if not needs_extra: sys.exit("nothing asked for the extra `network`: this is no clean environment")
for name, folder in dict(configs="configs", schemas="schemas", runs="nbs/runs").items():
    want = {str(p.relative_to(root/folder)) for p in (root/folder).rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root/folder).parts)}
    have = {str(p.relative_to(home/f"_{name}")) for p in (home/f"_{name}").rglob("*") if p.is_file()}
    if not want or want != have: sys.exit(f"{name}: wheel and checkout differ: {sorted(want ^ have)}")
from spectramind.core.paths import resource_dir
if home not in resource_dir("configs").parents: sys.exit(f"resource_dir('configs') is {resource_dir('configs')}, not inside the wheel")
for forbidden in ("nbdev", "fastcore", "pandas", "matplotlib", "jupyterlab", "ipykernel", "papermill", "dvc", "torch", "lightning"):
    if importlib.util.find_spec(forbidden): sys.exit(f"{forbidden} is in the runtime environment")
print(f"{len(modules)} modules ({len(needs_extra)} ask for the extra network), configs, schemas and run notebooks from the wheel")
if not all(callable(getattr(spectramind, name)) for name in ("SpectraMind", "explore")): sys.exit("the front door is shut")
