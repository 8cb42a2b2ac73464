"""The matrix of Linux, row by row: each of Debian's kernels, fetched, booted twice, and checked.

They need the distribution's packages within reach: apt-get and a network.
"""

import pytest

from scripts.upkeep import linux_matrix
from scripts.upkeep.linux_rows import ROWS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_a_kernel_of_the_matrix_is_as_it_should_be(name):
    assert 0 == linux_matrix.main([name])
