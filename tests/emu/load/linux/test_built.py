"""The paging structures of a real kernel: Linux 6.1 with four levels, idle.

The case holds the structures of a core that QEMU wrote with dump-guest-memory, and nothing else
of its memory. Beside it lies what QEMU itself said of the same machine at the same moment: the
output of its monitor's `info tlb`, untouched, compressed with xz. A line is

    ffffffffc0530000: 00000000018d6000 -G-DA----

a page's linear address, its physical address, and bits of its leaf entry, each as its letter or
a dash: X is XD, P is bit 7 (PS of a large page), C is PCD, T is PWT, U is U/S, W is R/W.
"""

import lzma

import numpy as np
import pytest

from crosswalk.emu.check import check, make_plan
from crosswalk.emu.cli import main
from crosswalk.walker.formats import load_case
from crosswalk.walker.frames import collective_rights
from crosswalk.walker.mappings import mappings
from crosswalk.walker.rights import Rights
from tests.emu.case_files import CASES, LINUX_CASE

LETTERS = (
    ("X", 1 << 63), ("G", 1 << 8), ("P", 1 << 7), ("D", 1 << 6), ("A", 1 << 5),
    ("C", 1 << 4), ("T", 1 << 3), ("U", 1 << 2), ("W", 1 << 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def linux():
    case = load_case(LINUX_CASE)
    return case.memory(), case.context()


@pytest.fixture(scope="module")
def pages(linux):
    return list(mappings(*linux))


@pytest.fixture(scope="module")
def by_qemu():
    text = lzma.decompress((CASES / "linux-6.1-4level.tlb.txt.xz").read_bytes()).decode()
    return text.splitlines()


def as_qemu_has_it(page):
    letters = "".join(letter if page.flags & bit else "-" for letter, bit in LETTERS)
    return f"{page.va:016x}: {page.pa:016x} {letters}"


def test_every_mapping_is_where_qemu_has_it_with_the_bits_that_qemu_has(pages, by_qemu):
    assert by_qemu == [as_qemu_has_it(page) for page in pages]


def test_one_bit_of_one_page_makes_a_difference(pages, by_qemu):
    for bit in (1 << 63, 1 << 5, 1 << 1):
        page = pages[4000]
        changed = type(page)(page.va, page.pa, page.size, page.level, page.flags ^ bit, page.rights)
        assert by_qemu[4000] == as_qemu_has_it(page)
        assert by_qemu[4000] != as_qemu_has_it(changed)


def test_the_kernel_has_as_many_pages_of_each_size_as_qemu_counts(pages, by_qemu):
    assert len(by_qemu) == len(pages) == 8347
    large = [line for line in by_qemu if line[37] == "P"]
    assert [page.va for page in pages if page.size == 1 << 21] == [
        int(line[:16], 16) for line in large
    ]
    assert {1: 8273, 2: 74} == {
        level: sum(page.level == level for page in pages)
        for level in {page.level for page in pages}
    }


def test_no_page_is_writable_and_executable_by_the_supervisor(pages):
    both = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE
    assert [] == [page for page in pages if page.rights & both == both]
    assert any(page.rights & both == Rights.SUPERVISOR_WRITE for page in pages)
    assert any(page.rights & both == Rights.SUPERVISOR_EXECUTE for page in pages)


def test_no_frame_is_writable_and_executable_by_the_supervisor_alone(linux):
    both = Rights.SUPERVISOR_WRITE | Rights.SUPERVISOR_EXECUTE
    frames = list(collective_rights(*linux))
    assert [] == [start for start, _, rights in frames if rights & both == both]
    assert len(frames) > 50


def test_a_sample_of_the_kernel_is_as_the_cpu_has_it(linux):
    plan = make_plan(*linux)
    assert len(plan) > 100_000
    verdict = check(*linux, plan=plan.take(np.arange(0, len(plan), 41)))
    assert (0, ()) == (verdict.divergent, verdict.divergences)
    assert verdict.agreements > 2000


@pytest.mark.slow
def test_all_of_the_kernel_is_as_the_cpu_has_it(linux):
    verdict = check(*linux)
    assert (0, ()) == (verdict.divergent, verdict.divergences)
    assert verdict.agreements > 100_000


def test_the_command_line_finds_no_frame_that_is_writable_and_executable_by_one_privilege(capsys):
    assert 0 == main(["frames", str(LINUX_CASE), "--policy", "one-privilege", "--json"])
    assert len(capsys.readouterr().out.splitlines()) > 50
