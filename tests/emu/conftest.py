import os
import sys

import pytest

from emu.boot import boot
from guest.builder import build_image


@pytest.fixture(scope="session")
def guest4():
    """The built-in guest with 4-level paging, booted."""
    return boot(build_image(4))


@pytest.fixture(scope="session")
def guest5():
    """The built-in guest with 5-level paging, booted."""
    return boot(build_image(5))


@pytest.fixture
def fresh_seed(request, capsys):
    """A seed that no run had before, printed, so that what it finds can be found again."""
    seed = int.from_bytes(os.urandom(4), "little")
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}: fresh seed {seed}\n")
    return seed
