"""What docs/walkers.md shows and says is what there is."""

import json
import re

import numpy as np
import pytest

from crosswalk.emu.targets import jsonl
from crosswalk.emu.targets.answers import Ranges
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.targets.jsonl import PROTOCOL
from crosswalk.emu.targets.mapping_lists import MAX_LISTED, MAX_MAPPINGS
from crosswalk.emu.targets.registry import KINDS
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.formats import Cpu
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation
from tests.emu.targets.walkers import EXAMPLES, ROOT

PAGE = (ROOT / "docs" / "walkers.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^\$ (crosswalk replay tests/.*)\n((?:(?![$`]).*\n)+)", PAGE, re.MULTILINE)


def test_there_are_transcripts_to_compare():
    assert 2 == len(SHOWN)


@pytest.mark.parametrize("command", [command for command, _ in SHOWN])
def test_a_replay_is_shown_as_it_is(run, monkeypatch, command):
    monkeypatch.chdir(ROOT)
    ran = run(*command.split()[1:])
    assert 1 == ran.status
    assert dict(SHOWN)[command] == ran.out


def test_limits_are_those_that_hold():
    limits = Limits()
    assert f"`--walker-seconds` {limits.seconds:g}, for one" in PAGE
    assert f"`--walker-output` {limits.output >> 20} MiB for one" in PAGE
    assert f"`--walker-memory` {limits.memory >> 20} MiB of" in PAGE
    assert f"over {MAX_MAPPINGS:,} mappings" in PAGE
    assert f"at most\n{MAX_LISTED:,} mappings" in PAGE


def test_every_claim_and_kind_is_explained():
    for claim in Capability:
        assert f"\n| `{claim.value}` | " in PAGE
    for kind in KINDS.split(", "):
        assert f"`{kind}`" in PAGE


def test_every_example_is_linked():
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert f"(examples/{path.name})" in PAGE


def test_the_protocol_is_shown_as_it_is_spoken():
    lines = re.findall(r"^    (\{.*\})$", PAGE, re.MULTILINE)
    greeting, space, access, *outcomes, listed, mappings, declined = lines
    assert PROTOCOL == json.loads(greeting)["protocol"]
    assert Cpu.from_context(PagingContext(cr3=0x1000)).cr0 == int(
        json.loads(space.replace(",…", ""))["cpu"]["cr0"], 16
    )
    asked = Accesses.of([Access(0x40_0000, AccessType.WRITE, 3, ac=False)])
    assert [access.encode()] == jsonl._questions(asked)
    assert [
        Translation(0x5000),
        PageFault(7, 0x40_0000),
        GeneralProtection(),
        None,
    ] == [jsonl._outcome(jsonl._answer(line.encode())) for line in outcomes]
    half = Ranges(np.zeros(1, np.uint64), np.full(1, (1 << 47) - 1, np.uint64), np.ones(1, bool))
    assert [listed.encode()] == jsonl._list_questions(half)
    assert [(0x40_0000, 0x5000, 4096, 7, "uwx")] == list(jsonl._mappings(mappings.encode()))
    assert NotImplemented is jsonl._mappings(declined.encode())


def block(language):
    """The only block of a language on the page."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_the_job_of_the_page_is_quiet_about_the_baseline_and_fails_for_more(
    run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert "cases = 64\n" in block("toml")
    few = block("toml").replace("cases = 64\n", "cases = 2\naccesses = 1024\njobs = 1\n")
    (tmp_path / "pyproject.toml").write_text(few)
    (job,) = re.findall(r"- run: crosswalk (.*)", block("yaml"))
    assert 0 == run("walker", "new", "python").status
    walker = tmp_path / "mywalker.py"
    right = walker.read_text()
    walker.write_text(right.replace("writable = writable and bool", "writable = bool"))
    assert 0 == run("fuzz", "--write-baseline").status
    assert 0 == run(*job.split()).status
    walker.write_text(right.replace("user = user and bool", "user = bool"))
    ran = run(*job.split())
    assert 1 == ran.status
    assert "::error" in ran.err
    assert b"U/S above the leaf" in (tmp_path / "findings.sarif").read_bytes()
    assert "U/S above the leaf" in (tmp_path / "findings.md").read_text("utf-8")
