"""What docs/walkers.md shows and says is what there is."""

import json
import re

import pytest

from emu.peers.claims import Claim, Limits
from emu.peers.jsonl import PROTOCOL
from emu.peers.listing import MAX_LISTED, MAX_MAPPINGS
from emu.peers.opening import KINDS
from tests.emu.peers.making import EXAMPLES, ROOT

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
    for claim in Claim:
        assert f"\n| `{claim.value}` | " in PAGE
    for kind in KINDS.split(", "):
        assert f"`{kind}`" in PAGE


def test_every_example_is_linked():
    for path in EXAMPLES.iterdir():
        if path.is_file():
            assert f"(examples/{path.name})" in PAGE


def test_the_protocol_is_named_and_its_lines_are_json():
    lines = re.findall(r"^    (\{.*\})$", PAGE, re.MULTILINE)
    assert PROTOCOL == json.loads(lines[0])["protocol"]
    for line in lines:
        json.loads(line.replace(",…", ""))
    assert 8 == len(lines)
