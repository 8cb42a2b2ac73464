import pytest

from crosswalk.emu.load.guest import boot
from crosswalk.emu.protect.subject import protected_guest
from crosswalk.guest.builder import build_image


@pytest.fixture(scope="session")
def shared_guest():
    """A protected guest that tests put back before they use it."""
    return protected_guest()


@pytest.fixture
def subject(shared_guest):
    """A protected guest, as it was when it had been given protection."""
    shared_guest.restore()
    return shared_guest


@pytest.fixture
def own_guest():
    """A guest that has booted, for one test alone: its RAM may be changed."""
    return boot(build_image(4))
