"""The scenario as a whole, shortened; and the report of what goes wrong in it."""

import pytest

from crosswalk.emu.cli.protect_guest import scenario_lines, scenario_record
from crosswalk.emu.protect.attack import Crash
from crosswalk.emu.protect.attacks import ATTACKS
from crosswalk.emu.protect.permissions import ALL
from crosswalk.emu.protect.probes import Probed
from crosswalk.emu.protect.scenario import run_scenario
from crosswalk.emu.protect.updates import UPDATES
from crosswalk.guest import places

FEW = [
    row
    for row in ATTACKS
    if row.name.startswith(("text written in place", "malformed: a", "CR0.WP", "one page", "data"))
]


@pytest.fixture
def short(monkeypatch):
    """Bounds that make the scenario take less than a second."""
    monkeypatch.setattr("crosswalk.emu.protect.scenario.UPDATES", UPDATES[:3])
    monkeypatch.setattr(
        "crosswalk.emu.protect.scenario.probe_mappings",
        lambda _agent, _intended: Probed(unbacked=7001),
    )


def test_the_story(subject, short):
    scenario = run_scenario(subject, crashes=lambda _: "SIGSEGV", frames=300, attacks=FEW)
    assert scenario.mapped > 600
    assert ([], 0) == (scenario.wrong, scenario.divergent)
    assert (16, 5, 256) == (scenario.entries, scenario.immutable, scenario.spared)
    assert places.RAM_SIZE // 0x1000 == sum(scenario.frames.values())
    assert 3 == len(scenario.unprotected)
    record = scenario_record(scenario, 1.5)
    assert record["probes"] == record["agreements"] + 256 == 900 + 18
    assert (0, 256) == (record["divergences"], record["known_divergences"])
    assert {True} == {each["as_expected"] for each in record["attacks"]}
    assert (
        0,
        7001,
    ) == (record["frames_asked_for_with_less"], record["pages_outside_ram_not_tried"])
    lines = list(scenario_lines(scenario, 1.5, verbose=False))
    assert lines[-1].startswith("verdict: as stated: ")
    assert "   (7,001 pages that are mapped outside RAM aren't tried)" in lines
    assert not any("with less than" in line for line in lines)
    assert any("malformed hypercalls" in line for line in lines)
    verbose = list(scenario_lines(scenario, 1.5, verbose=True))
    assert sum("malformed: " in line for line in verbose) == len(
        [row for row in FEW if row.name.startswith("malformed")]
    )


def test_what_was_asked_for_with_less_is_reported(subject, short, monkeypatch):
    monkeypatch.setattr(subject, "more", 2001)
    scenario = run_scenario(subject, crashes=lambda _: "SIGSEGV", frames=1, attacks=[])
    assert 2001 == scenario_record(scenario, 1.5)["frames_asked_for_with_less"]
    (line,) = (line for line in scenario_lines(scenario, 1.5, verbose=False) if "with less" in line)
    assert line.startswith("   2,001 frames were asked for with less than their mappings need")


def test_what_goes_wrong_is_reported(subject, short, monkeypatch):
    restore = subject.restore

    def leaky(**options):
        restore(**options)
        subject.hypervisor.tables.set(places.TEXT + 0x3000, 0x1000, ALL)
        subject.guest.host.flush()

    leaky()
    monkeypatch.setattr(subject, "restore", leaky)
    scenario = run_scenario(subject, crashes=lambda _: None, frames=300, attacks=FEW)
    wrong = "\n".join(scenario.wrong)
    assert "write: 0x103000: not refused" in wrong
    assert "text written in place, its entry made writable: NOT STOPPED" in wrong
    assert "data used as a page table: the emulator lives, not the emulator crashes" in wrong
    assert "vmap: a new page table, four pages of data: nested tables aren't those" in wrong
    assert scenario.divergent >= 4
    lines = list(scenario_lines(scenario, 1.5, verbose=False))
    assert lines[-1].startswith("verdict: FAILED: ")
    assert any("WRONG: expected nested fault" in line for line in lines)
    assert not any(isinstance(each.result, Crash) for each in scenario.attacks)
