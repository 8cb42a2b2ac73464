import pytest

from tests.emu.cpu.bare import Bare


@pytest.fixture
def bare():
    return Bare()
