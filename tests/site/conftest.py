"The processed project, made once; nobody may write to it."
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT/"scripts"))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "(folder, book) of the project as `make docs` makes it from a checkout in which nothing has been run."
    import site_build
    folder = tmp_path_factory.mktemp("site")
    return folder/"project", site_build.make_project(folder/"project", folder/"nothing-has-run-here")
