import pytest

from crosswalk.emu.fuzz import executor
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


@pytest.fixture
def fresh_executors():
    """No executor of this process from before the test is used, or kept after it."""
    executor._executor.cache_clear()
    yield
    executor._executor.cache_clear()
