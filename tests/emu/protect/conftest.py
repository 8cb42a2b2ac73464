import pytest

from emu.protect.world import protected_world


@pytest.fixture(scope="session")
def shared_world():
    """A protected guest that tests put back before they use it."""
    return protected_world()


@pytest.fixture
def world(shared_world):
    """A protected guest, as it was when it had been given protection."""
    shared_world.restore()
    return shared_world
