import pytest

from crosswalk.emu.load.guest import boot
from crosswalk.guest.builder import build_image


@pytest.fixture(scope="session")
def guest4():
    """The built-in guest with 4-level paging, booted."""
    return boot(build_image(4))


@pytest.fixture(scope="session")
def guest5():
    """The built-in guest with 5-level paging, booted."""
    return boot(build_image(5))
