"What tests of several floors share."
import pytest
from browser import launched


@pytest.fixture(scope="session")
def chromium():
    "A headless browser, started once; see `browser`."
    with launched() as found: yield found
