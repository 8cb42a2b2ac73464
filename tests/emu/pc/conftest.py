import pytest

from tests.emu.cpu.machine import Bare


@pytest.fixture
def bare():
    return Bare()
