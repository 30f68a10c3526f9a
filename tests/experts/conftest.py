import pytest
from expert_registry import EXPERTS


@pytest.fixture(scope="session", params=EXPERTS)
def make(request):
    """Make one of the experts of the package; each call gives a new one that says the same."""
    return lambda: EXPERTS[request.param](request)
