"A tiny simulated sky, made once, and a place of its own for each test."
import shutil

import pytest

from spectramind.pipeline.config import load_config
from spectramind.simulate.observatory import ProfileSpec, simulate_tree

SPEC = ProfileSpec(140, 1350, {"FGS1": 100, "AIRS-CH0": 80})


@pytest.fixture(scope="session")
def sky(tmp_path_factory):
    "A complete tree: five labelled planets and two without. Nobody may write to it."
    folder = tmp_path_factory.mktemp("sky")
    simulate_tree(folder/"tree", folder/"truth", profile=SPEC, n_train=5, n_test=2, seed=11)
    return folder/"tree"


@pytest.fixture
def own_sky(sky, tmp_path):
    "A copy that a test may damage; times of change are kept, so that fingerprints agree."
    return shutil.copytree(sky, tmp_path/"tree", copy_function=shutil.copy2)


@pytest.fixture(scope="session")
def settings():
    "A function: data root and work folder to a Config, without a network unless `more` says otherwise."
    def make(root, work, *more): return load_config(["data=kaggle", "model=physics_only", f"data.root={root}", f"paths.work={work}", "executor=serial", *more])
    return make


@pytest.fixture(scope="session")
def reference(sky, settings, tmp_path_factory):
    "An uninterrupted serial run on the tiny sky: its work folder and summary."
    from spectramind.pipeline.run import run
    work = tmp_path_factory.mktemp("reference")
    return work, run(settings(sky, work))


@pytest.fixture(scope="session")
def wide(sky, reference, tmp_path_factory):
    "Enough to train a network on, at little cost: the tiny sky with every labelled planet there twice, and a work folder in which all of them are observed. Nobody may write to either."
    folder = tmp_path_factory.mktemp("wide")
    tree, work = shutil.copytree(sky, folder/"tree", copy_function=shutil.copy2), shutil.copytree(reference[0]/"data", folder/"work"/"data", copy_function=shutil.copy2).parent
    for planet in [p.name for p in (sky/"train").iterdir()]:
        twin = str(int(planet) + 1)
        shutil.copytree(tree/"train"/planet, tree/"train"/twin, copy_function=shutil.copy2)
        for path in list((work/"data").glob(f"*/*/planet_{planet}*")): shutil.copy2(path, path.with_name(path.name.replace(planet, twin)))
    for name in ("train.csv", "train_star_info.csv"):
        header, *rows = (tree/name).read_text().splitlines()
        rows += [f"{int(row.partition(',')[0]) + 1},{row.partition(',')[2]}" for row in rows]
        (tree/name).write_text("\n".join([header, *rows]) + "\n")
    return tree, work
