"Scripts that are no package, and what is installed here, gathered once."
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT/"scripts"))


@pytest.fixture(scope="session")
def gathered():
    "(parts, faults) of this environment."
    import sbom
    return sbom.gather()
