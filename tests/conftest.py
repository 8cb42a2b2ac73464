import os
import sys

import pytest
from hypothesis import settings

# What a test finds has to be found again: no clock decides, and no chance.
settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")


@pytest.fixture
def fresh_seed(request, capsys):
    """A seed that no run had before, printed, so that what it finds can be found again."""
    seed = int.from_bytes(os.urandom(4), "little")
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}: fresh seed {seed}\n")
    return seed
