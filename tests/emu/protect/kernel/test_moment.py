"""When protection begins, and what is too late."""

import pytest

from crosswalk.emu.cpu.ram import Ram
from crosswalk.emu.load.points import parse_point
from crosswalk.emu.protect.kernel.moment import begins_at, require_early
from crosswalk.emu.protect.kernel.rules import Cause
from crosswalk.emu.protect.kernel.scenario import run_plain, run_protected
from crosswalk.walker.errors import BadInput
from tests.emu.protect.kernel.tiny_kernel import PATCH, RAM, RUN_USER, guest


def test_a_kernel_begins_at_its_symbol_and_else_with_the_first_process():
    found = begins_at({"run_init_process": 0xFFFF_FFFF_8100_0000})
    assert ("symbol:run_init_process", 0xFFFF_FFFF_8100_0000) == (str(found), found.number)
    assert "user" == str(begins_at({})) == str(begins_at(None))


def test_a_point_behind_a_system_call_is_too_late():
    point = parse_point("console:ready")
    require_early(point, 0)
    with pytest.raises(BadInput) as one:
        require_early(point, 1)
    assert "--protect-at console:ready is too late: 1 system call had been made" == str(one.value)
    with pytest.raises(BadInput, match="too late: at least 1,234 system calls had been made"):
        require_early(point, 1234, at_least=True)


@pytest.mark.parametrize("run", [run_plain, run_protected])
def test_a_process_that_has_run_is_told(run):
    with pytest.raises(BadInput, match="--protect-at syscall:1 is too late: 1 system call had"):
        run(Ram(0, RAM), guest(RUN_USER), parse_point("syscall:1"), 20)


def test_protection_begins_with_a_processs_first_instruction():
    boot = run_protected(Ram(0, RAM), guest(RUN_USER + PATCH), parse_point("user"), 20)
    assert 1 == boot.plain.system_calls
    assert {Cause.PATCHED: 1} == boot.causes
    assert None is boot.refusal
    assert all(not each.wrong for each in boot.attacks)
