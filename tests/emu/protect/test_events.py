"""Events of either kind of nested table: what they say, and when one is as predicted."""

from dataclasses import replace

import pytest

from crosswalk.emu.check.departures import Scope, departures
from crosswalk.emu.cpu.svm.exits import ExitCode
from crosswalk.emu.cpu.svm.host import Exit
from crosswalk.emu.protect.attack import Violation, violation_result
from crosswalk.emu.protect.events import (
    Fault,
    VmExit,
    departure_of,
    describe_event,
    same_event,
    withheld_right,
)
from crosswalk.walker.access import AccessType
from crosswalk.walker.nested.outcome import EptMisconfiguration, EptViolation, Qualification

PAGE = Qualification.GLA_VALID | Qualification.PAGE
RX = Qualification.READABLE | Qualification.EXECUTABLE
WRITE = EptViolation(int(PAGE | RX | Qualification.WRITE), 0x1000, 0x7000)
USER = replace(WRITE, qualification=WRITE.qualification | Qualification.USER_EXECUTABLE)
BOCHS = departures(Scope.NESTED, who="bochs 3.0")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (WRITE, (0x1000, AccessType.WRITE)),
        (Exit(ExitCode.NPF, 7, 0x1000), (0x1000, AccessType.WRITE)),
        (Exit(ExitCode.NPF, 5, 0x1000), (0x1000, AccessType.READ)),
        (Exit(ExitCode.NPF, 0x15, 0x1000), (0x1000, AccessType.EXECUTE)),
        # Nothing granted; a guest entry's; another intercept; no exit.
        (Exit(ExitCode.NPF, 6, 0x1000), None),
        (replace(WRITE, qualification=int(PAGE | Qualification.WRITE)), None),
        (replace(WRITE, qualification=WRITE.qualification & ~Qualification.PAGE), None),
        (replace(WRITE, qualification=WRITE.qualification | Qualification.READ), None),
        (Exit(ExitCode.CR0_WRITE), None),
        (Fault(14, 7, 0x7000), None),
        (EptMisconfiguration(0x1000), None),
        (None, None),
    ],
)
def test_a_withheld_right_is_known_by_its_event(event, expected):
    assert expected == withheld_right(event)


def test_bits_that_the_manual_leaves_open_may_be_either():
    predicted = replace(WRITE, open=int(Qualification.USER_EXECUTABLE))
    assert same_event(predicted, WRITE)
    assert same_event(predicted, USER)
    assert not same_event(WRITE, USER)
    assert not same_event(predicted, replace(WRITE, qualification=WRITE.qualification ^ RX))


@pytest.mark.parametrize(
    "other",
    [
        replace(WRITE, gpa=0x2000),
        replace(WRITE, gla=0x8000),
        EptMisconfiguration(0x1000),
        Fault(14, 7, 0x7000),
        VmExit("VMXON"),
        None,
    ],
)
def test_another_event_isnt_the_predicted_one(other):
    assert not same_event(WRITE, other)
    assert not same_event(other, WRITE)
    assert "" == departure_of(BOCHS, WRITE, other)


def test_misconfigurations_are_told_apart_by_address():
    assert same_event(EptMisconfiguration(0x1000), EptMisconfiguration(0x1000))
    assert not same_event(EptMisconfiguration(0x1000), EptMisconfiguration(0x2000))


def test_a_known_departure_is_named_and_nothing_else_is():
    moved = USER.qualification ^ Qualification.USER_EXECUTABLE | Qualification.SHADOW_STACK
    shown = replace(USER, qualification=moved)
    assert "ept-user-execute-in-bit-13" == departure_of(BOCHS, USER, shown)
    assert "" == departure_of((), USER, shown)
    assert "" == departure_of(BOCHS, WRITE, replace(WRITE, qualification=moved))
    wrong = replace(shown, qualification=moved ^ Qualification.WRITABLE)
    assert "" == departure_of(BOCHS, USER, wrong)
    fetch = replace(USER, qualification=USER.qualification ^ 6)
    assert "" == departure_of(BOCHS, fetch, replace(fetch, qualification=moved ^ 6))


def test_a_walk_that_writes_is_known_to_show_no_read():
    table = EptViolation(int(Qualification.GLA_VALID | Qualification.READABLE) | 3, 0x1000, 0x7000)
    shown = replace(table, qualification=table.qualification ^ 1)
    assert "ept-table-access-no-read" == departure_of(BOCHS, table, shown)
    assert Violation(0x1000, AccessType.WRITE, table=True) == violation_result(table)


def test_events_are_described():
    events = [WRITE, EptMisconfiguration(0x1000), VmExit("VMXON")]
    assert [
        "EPT violation at 0x1000, qualification 0x1aa",
        "EPT misconfiguration at 0x1000",
        "VM exit: VMXON",
    ] == [describe_event(each) for each in events]
