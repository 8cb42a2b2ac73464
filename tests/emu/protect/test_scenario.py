"""The story as a whole, a short one; and that what goes wrong in it is told."""

import pytest

from crosswalk.emu.cli.protect_guest import story_lines, story_record
from crosswalk.emu.protect.attacks import ATTACKS
from crosswalk.emu.protect.grants import ALL
from crosswalk.emu.protect.probes import Proof
from crosswalk.emu.protect.results import Crash
from crosswalk.emu.protect.scenario import tell
from crosswalk.emu.protect.updates import STAGES
from crosswalk.guest import places

FEW = [
    row
    for row in ATTACKS
    if row.name.startswith(("text written in place", "malformed: a", "CR0.WP", "one page", "data"))
]


@pytest.fixture
def short(monkeypatch):
    """Bounds that make a story take less than a second."""
    monkeypatch.setattr("crosswalk.emu.protect.scenario.STAGES", STAGES[:3])
    monkeypatch.setattr(
        "crosswalk.emu.protect.scenario.probe_mappings",
        lambda _agent, _intended: Proof(unbacked=7001),
    )


def test_the_story(world, short):
    story = tell(world, lambda _: "SIGSEGV", frames=300, rows=FEW)
    assert story.mapped > 600
    assert (story.wrong, story.divergent) == ([], 0)
    assert (story.entries, story.immutable, story.spared) == (16, 5, 256)
    assert sum(story.frames.values()) == places.RAM_SIZE // 0x1000
    assert len(story.unprotected) == 3
    record = story_record(story, 1.5)
    assert record["probes"] == record["agreements"] + 256 == 900 + 18
    assert (record["divergences"], record["known_divergences"]) == (0, 256)
    assert {each["as_expected"] for each in record["attacks"]} == {True}
    assert (record["frames_asked_for_with_less"], record["pages_outside_ram_not_tried"]) == (
        0,
        7001,
    )
    lines = list(story_lines(story, 1.5, verbose=False))
    assert lines[-1].startswith("verdict: as stated: ")
    assert "   (7,001 pages that are mapped outside RAM aren't tried)" in lines
    assert not any("with less than" in line for line in lines)
    assert any("malformed hypercalls" in line for line in lines)
    verbose = list(story_lines(story, 1.5, verbose=True))
    assert sum("malformed: " in line for line in verbose) == len(
        [row for row in FEW if row.name.startswith("malformed")]
    )


def test_what_was_asked_for_with_less_is_told(world, short, monkeypatch):
    monkeypatch.setattr(world, "more", 2001)
    story = tell(world, lambda _: "SIGSEGV", frames=1, rows=[])
    assert story_record(story, 1.5)["frames_asked_for_with_less"] == 2001
    (line,) = (line for line in story_lines(story, 1.5, verbose=False) if "with less" in line)
    assert line.startswith("   2,001 frames were asked for with less than their mappings need")


def test_what_goes_wrong_is_told(world, short, monkeypatch):
    restore = world.restore

    def leaky():
        restore()
        world.hypervisor.tables.set(places.TEXT + 0x3000, 0x1000, ALL)
        world.guest.host.flush()

    leaky()
    monkeypatch.setattr(world, "restore", leaky)
    story = tell(world, lambda _: None, frames=300, rows=FEW)
    wrong = "\n".join(story.wrong)
    assert "write: 0x103000: not refused" in wrong
    assert "text written in place, its entry made writable: NOT STOPPED" in wrong
    assert "data used as a page table: the emulator lives, not the emulator crashes" in wrong
    assert "vmap: a new page table, four pages of data: nested tables aren't those" in wrong
    assert story.divergent >= 4
    lines = list(story_lines(story, 1.5, verbose=False))
    assert lines[-1].startswith("verdict: FAILED: ")
    assert any("WRONG: expected nested fault" in line for line in lines)
    assert not any(isinstance(each.stop, Crash) for each in story.attacks)
