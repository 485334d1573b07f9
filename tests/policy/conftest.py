import pytest
from policy_cases import DOCUMENT


@pytest.fixture
def document() -> str:
    return DOCUMENT
