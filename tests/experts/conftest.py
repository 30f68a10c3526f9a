import pytest
from expert_chats import chat, openai_chat, talker  # noqa: F401
from expert_detectors import detectors, models  # noqa: F401
from expert_registry import EXPERTS
from expert_servers import annotation_server, medplib, medplib_server, scripted  # noqa: F401


@pytest.fixture(scope="session", params=EXPERTS)
def make(request):
    """Make one of the experts of the package; each call gives a new one that says the same."""
    return lambda: EXPERTS[request.param](request)
