import pytest

from tests.emu.machine.bare import Bare


@pytest.fixture
def bare():
    return Bare()
