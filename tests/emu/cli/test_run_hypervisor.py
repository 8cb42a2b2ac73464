"""`run --guest` of a hypervisor: what it maps for its own guest is walked and checked as well."""

from functools import partial

import pytest

from crosswalk.emu.check import nested_guest
from crosswalk.emu.cli import nested_points
from crosswalk.emu.monitor.svm import Vmcb
from crosswalk.walker.memory import FRAME, Segments
from crosswalk.walker.nested.translate import nested_outcomes
from tests.emu.load.monitor_guest import BASE, NESTED, VMCB, commands_for, image_of

SPIN = b"\xeb\xfe"
NESTED_PAGING = {Vmcb.NESTED: 1, Vmcb.NESTED_CR3: NESTED}
CR3 = BASE + 0xB000


@pytest.fixture
def hypervisor(tmp_path, monkeypatch):
    """The arguments that run one until its guest spins."""
    monkeypatch.setattr(nested_guest, "MOST_PAGES", 6)
    path = tmp_path / "hypervisor"
    path.write_bytes(image_of(commands_for(SPIN, NESTED_PAGING.items())))
    return "run", "--guest", path, "--model", "epyc", "--ram", "32", "--until", "instructions:20000"


def test_nested_tables_are_checked_at_the_point_and_told_apart(run, hypervisor):
    ran = run(*hypervisor)
    assert 0 == ran.status
    assert f"the guest that runs under VMCB {VMCB:#x} has nCR3 = {NESTED:#x}" in ran.out
    assert "3,068 pages; 36 accesses to 6 addresses: 36 agree, 0 diverge" in ran.out


def test_a_divergence_in_two_dimensions_fails_the_command(run, hypervisor, monkeypatch):
    def unmapped(memory, context, access):
        return nested_outcomes(Segments([(0, bytes(FRAME))]), context, access)

    wrong = partial(nested_guest.check_guest_pages, predict=unmapped)
    monkeypatch.setattr(nested_points, "check_guest_pages", wrong)
    ran = run(*hypervisor)
    assert 1 == ran.status
    assert "36 accesses to 6 addresses: 0 agree, 36 diverge" in ran.out
    assert "; 36 divergences under nested paging" in ran.out


def test_a_saved_core_lists_what_the_nested_tables_map(run, hypervisor, tmp_path):
    core = tmp_path / "core"
    point = run(*hypervisor, "--json", "--save", core).document["points"][0]
    nested = point["nested"]
    assert (hex(NESTED), hex(CR3), True, 36) == (
        *(nested[name] for name in ("ncr3", "cr3", "running", "agreements")),
    )
    # The hypervisor's own tables aren't counted with them.
    assert (hex(CR3), 3068) == (point["cr3"], point["mappings"])
    listed = run("walk", core, "--ncr3", nested["ncr3"], "--json").records
    assert 512 == len(listed)


def test_a_guest_whose_tables_cannot_be_walked_is_told(run, tmp_path):
    path = tmp_path / "hypervisor"
    unpaged = {**NESTED_PAGING, Vmcb.CR0: 0x11, Vmcb.EFER: 0x1000, Vmcb.CR4: 0}
    path.write_bytes(image_of(commands_for(SPIN, unpaged.items())))
    until = ("--until", "instructions:20000")
    ran = run("run", "--guest", path, "--model", "epyc", "--ram", "32", *until)
    assert 0 == ran.status
    assert "not checked: paging is off" in ran.out
