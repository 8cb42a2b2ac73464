"""Points of user space and by the kernel's own symbols, in the distribution's kernel."""

from pathlib import Path

import pytest

from crosswalk.emu.cli.boot_points import point_named
from crosswalk.emu.load.linux.image import parse_kernel
from crosswalk.emu.load.points import parse_point
from tests.emu.load.linux.distribution_kernels import CLOUD, booting, fetched

pytestmark = pytest.mark.slow


def test_user_space_begins_behind_the_kernels_own_moment():
    kernel = parse_kernel(Path(fetched(CLOUD)).read_bytes())
    moment = point_named("symbol:run_init_process", kernel)
    boot = booting(CLOUD)
    points = [moment, *map(parse_point, ("user", "syscall:1"))]
    found = list(boot.run(points, parse_point("syscall:2"), 600))
    assert [*map(str, points), "syscall:2"] == [str(each.point) for each in found]
    assert [(0, False), (0, True), (1, True), (2, True)] == [
        (each.system_calls, each.user_space) for each in found
    ]
    assert [0, 3, 0, 0] == [each.state.segments["cs"].selector & 3 for each in found]
    entry = kernel.symbols["entry_SYSCALL_64"]
    assert [moment.number, entry] == [found[at].state.registers["rip"] for at in (0, 2)]
