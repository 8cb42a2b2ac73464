"""What a campaign keeps in memory: findings wait as files, and not as objects with all tables."""

import pickle
import re
import subprocess
import sys
import tracemalloc
import zlib

import pytest

from crosswalk.emu.fuzz.campaign import Plan
from crosswalk.emu.fuzz.campaign.work import Done, Kept, Task
from crosswalk.emu.fuzz.coverage import CELLS, CoverageMap
from crosswalk.emu.fuzz.executor import executor_of
from crosswalk.walker.formats import parse_case
from tests.emu.fuzz.campaign.running import ROOT

NOISY = """\
from zlib import crc32

from crosswalk.walker import GeneralProtection, PageFault, Translation


def mine(memory, context, access):
    chance = crc32(repr((access.va, access.type.value, access.cpl)).encode())
    if chance % 8 < 2:
        return Translation(chance >> 8)
    return PageFault(chance >> 8 & 63, access.va) if chance % 8 < 7 else GeneralProtection()


mine.claims = "translation,rights,faults"
"""
"""A walker that is wrong in every way that there is."""

MOST = 150
"""The most MiB that the parent of a campaign may take."""

MEASURED = """\
import re, sys
from pathlib import Path
from crosswalk.emu.cli import main
status = main(sys.argv[1:])
print(status, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.fixture
def noisy(tmp_path):
    (tmp_path / "mine.py").write_text(NOISY)
    return f"python:{tmp_path}/mine.py:mine"


def taken_by(message):
    """How many bytes a message takes in the process that gets it."""
    data = pickle.dumps(message)
    tracemalloc.start()
    got = pickle.loads(data)  # noqa: S301  # Our own.
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(got) == len(message)
    return size


def test_the_findings_of_a_layout_take_little_memory_while_they_wait(noisy):
    plan = Plan(walker=noisy, claims=None)
    task = Task(plan, 0, CoverageMap().pack())
    result = executor_of(plan.walker, plan.claims, plan.limits).run(
        lambda: plan.layout(0, task.seen)
    )
    done = Done.of(task, result, CELLS.possible.nonzero()[0])
    assert len(done.kept) > 30
    assert () == done.found.findings
    assert taken_by(done.kept) < taken_by(result.findings) / 8
    for kept, finding in zip(done.kept, result.findings, strict=True):
        assert (finding.signature, finding.count) == (kept.signature, kept.count)
        assert finding.whole.entries == parse_case(kept.case, "case").entries


def test_a_finding_that_is_known_waits_without_a_case(noisy):
    plan = Plan(walker=noisy, claims=None, accesses=96)
    first = Task(plan, 0, CoverageMap().pack())
    result = executor_of(plan.walker, plan.claims, plan.limits).run(
        lambda: plan.layout(0, first.seen)
    )
    known, *new = Done.of(first, result, CELLS.possible.nonzero()[0]).kept
    later = Task(plan, 0, first.seen, frozenset({known.signature.slug}))
    kept = Done.of(later, result, CELLS.possible.nonzero()[0]).kept
    assert (Kept(known.signature, known.count), *new) == kept


def test_what_waits_unpacks_to_the_very_file():
    assert b"case" == Kept(None, 1, zlib.compress(b"case")).case
    assert None is Kept(None, 1).case


@pytest.mark.slow
def test_the_parent_of_a_campaign_takes_at_most_150_mib(noisy, tmp_path):
    search = ("fuzz", "--cases", 40, "--walker", noisy, "--no-reduce", "--jobs", 8)
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, search), "--corpus", tmp_path / "corpus"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    status, peak = re.fullmatch(r"(\d) (\d+)", ran.stdout.splitlines()[-1]).groups()
    assert "1" == status
    assert int(peak) < MOST << 10
