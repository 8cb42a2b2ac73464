"""The distribution's kernels, unmodified: fetched, booted to the project's init, and checked.

They need the distribution's packages within reach: apt-get and a network.
"""

import hashlib
from pathlib import Path

import pytest

from crosswalk.emu.check import check
from crosswalk.emu.cli import main
from crosswalk.emu.load.points import parse_point
from crosswalk.guest.init import AREA, DONE, SHARED, STARTED
from crosswalk.walker.formats import open_source
from crosswalk.walker.mappings import mappings
from crosswalk.walker.rights import Rights
from tests.emu.load.linux.distribution_kernels import (
    CLOUD,
    GENERIC,
    INIT,
    MEMORY,
    PROTECT,
    booting,
    fetched,
)

pytestmark = pytest.mark.slow

IDLE = parse_point("idle")
SUPERVISOR_BOTH = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE
PASSED = "Checked W+X mappings: passed, no W+X pages found."


def exposed(memory, context):
    """The pages that the supervisor may write and execute."""
    return [
        page.va
        for page in mappings(memory, context)
        if page.rights & SUPERVISOR_BOTH == SUPERVISOR_BOTH
    ]


@pytest.mark.parametrize("package", [CLOUD, GENERIC])
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("pti", ["pti=on", "nopti"])
def test_a_kernel_reaches_init_and_all_it_maps_is_as_the_cpu_has_it(package, levels, pti):
    boot = booting(package, arguments=pti, levels=levels)
    points = [parse_point(text) for text in (MEMORY, PROTECT, INIT)]
    writable = []
    for reached in boot.run(points, IDLE, 600):
        assert levels == reached.context.levels
        verdict = check(boot.memory, reached.context)
        assert (0, ()) == (verdict.divergent, verdict.divergences)
        assert verdict.agreements > 10_000
        writable.append(len(exposed(boot.memory, reached.context)))
    text = boot.machine.console.decode()
    assert f"{STARTED}\r\n{DONE}\r\n" in text
    assert ("page tables isolation: enabled" in text) is (pti == "pti=on")
    # The kernel's own verdict stands between the second point and the third.
    assert PASSED in text
    assert [True, True, False, False] == [bool(count) for count in writable]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A core of the cloud kernel, idle."""
    path = tmp_path_factory.mktemp("linux") / "cloud.core"
    arguments = ["run", "--kernel", fetched(CLOUD), "--append", "nopti", "--save", str(path)]
    assert 0 == main(arguments)
    return path


def test_the_process_has_the_pages_it_asked_for(saved):
    source = open_source(saved)
    pages = {
        page.va: page.rights.user for page in mappings(source.memory, source.context, 0, 1 << 47)
    }
    area = [pages.get(AREA + at * 0x1000) for at in range(8)]
    # Without rights there is no page, and the unmapped one is gone. What was written before the
    # fork and not since is still to be copied on a write.
    assert ["r--", "r--", "r-x", None, None, "rw-", "r--", "r--"] == area
    assert "rw-" == pages[SHARED]


def test_two_runs_give_the_same_memory_byte_for_byte(saved):
    boot = booting(CLOUD, arguments="nopti")
    (reached,) = boot.run([], IDLE, 600)
    source = open_source(saved)
    assert source.memory.ranges == boot.memory.ranges
    assert (reached.context, ()) == (source.context, source.assumed)
    digests = {
        hashlib.sha256(memory.read(0, 256 << 20)).hexdigest()
        for memory in (source.memory, boot.memory)
    }
    assert 1 == len(digests)


def test_volatility_reads_the_core_and_lists_the_same_pages(saved):
    from volatility3.framework import contexts  # noqa: PLC0415  # heavy, and for this alone
    from volatility3.framework.layers import elf, intel, physical  # noqa: PLC0415

    source = open_source(saved)
    session = contexts.Context()
    session.config["file.location"] = Path(saved).as_uri()
    session.add_layer(physical.FileLayer(session, "file", "file"))
    session.config["core.base_layer"] = "file"
    session.add_layer(elf.Elf64Layer(session, "core", "core"))
    session.config["intel.memory_layer"] = "core"
    session.config["intel.page_map_offset"] = source.context.root
    layer = intel.Intel32e(session, "intel", "intel")
    theirs = {
        (va + at, pa + at)
        for va, size, pa, _, _ in layer.mapping(0, (1 << 48) - 1, ignore_errors=True)
        for at in range(0, size, 4096)
    }
    # It lists what lies in the file alone, and knows an address by its low 48 bits.
    ours = {
        (page.va + at & (1 << 48) - 1, page.pa + at)
        for page in mappings(source.memory, source.context)
        for at in range(0, page.size, 4096)
        if page.pa + at < 256 << 20
    }
    assert len(ours) > 60_000
    assert (set(), set()) == (ours - theirs, theirs - ours)


def test_the_policy_holds_when_the_kernel_says_so_and_not_before(saved, tmp_path):
    early = tmp_path / "early.core"
    kernel = fetched(CLOUD)
    assert 0 == main(["run", "--kernel", kernel, "--until", MEMORY, "--save", str(early)])
    assert 1 == main(["frames", str(early), "--policy", "one-privilege"])
    # Under page-table isolation one root is a part of what there is.
    assert 2 == main(["frames", str(saved), "--policy", "one-privilege"])
    assert 0 == main(["frames", str(saved), "--policy", "one-privilege", "--roots", "all"])
