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
    "A function: data root and work folder to a Config."
    def make(root, work, *more): return load_config(["data=kaggle", f"data.root={root}", f"paths.work={work}", "executor=serial", *more])
    return make


@pytest.fixture(scope="session")
def reference(sky, settings, tmp_path_factory):
    "An uninterrupted serial run on the tiny sky: its work folder and summary."
    from spectramind.pipeline.run import run
    work = tmp_path_factory.mktemp("reference")
    return work, run(settings(sky, work))
