"""The attack table by kind of nested table, and under AMD's nested paging its further rows."""

import pytest

from crosswalk.emu.protect.agent import FOR_USER, MARK_FOR_USER, Operation
from crosswalk.emu.protect.attack import (
    Crash,
    Intercepted,
    NestedFault,
    NotStopped,
    Violation,
    VmExited,
    run_attack,
)
from crosswalk.emu.protect.attack_kinds import (
    CR0_WRITTEN,
    CR4_WRITTEN,
    EFER_WRITTEN,
    attacks_for,
    expected_under,
)
from crosswalk.emu.protect.attacks import ATTACKS, OPEN_TEXT, TEXT
from crosswalk.guest import places
from crosswalk.walker.access import AccessType
from crosswalk.walker.protection.policy import TableKind

TABLES = {kind: {row.name: row for row in attacks_for(kind)} for kind in TableKind}
NPT, EPT, MBEC = (TABLES[kind] for kind in TableKind)
ONLY_MBEC = [
    "user code run as supervisor, through a supervisor alias",
    "CR3 to tables that allow all, user code run as supervisor",
    "kernel code run by user code, through a user alias",
]
FURTHER = [name for name in NPT if name not in {row.name for row in ATTACKS}]


@pytest.mark.parametrize("kind", list(TableKind))
def test_rows_have_names_of_their_own(kind):
    assert len(TABLES[kind]) == len(attacks_for(kind))


def test_the_table_of_nested_paging_has_three_rows_more_than_the_default():
    assert 3 == len(FURTHER)
    assert {row.name for row in ATTACKS} < set(NPT)
    assert all(isinstance(NPT[name].expected, NotStopped) for name in FURTHER)


@pytest.mark.parametrize("name", FURTHER)
def test_a_further_row_ends_as_stated_under_nested_paging(shared_guest, name):
    assert run_attack(shared_guest, NPT[name]) == NPT[name].expected


def test_mode_based_execute_control_stops_three_rows_that_nothing_else_does():
    assert list(EPT) == list(MBEC)
    differing = [name for name in EPT if EPT[name].expected != MBEC[name].expected]
    assert ONLY_MBEC == differing
    for name in differing:
        assert isinstance(EPT[name].expected, NotStopped)
        assert isinstance(NPT[name].expected, NotStopped)
        assert isinstance(MBEC[name].expected, Violation)
    assert Violation(places.AGENT + FOR_USER, AccessType.EXECUTE) == MBEC[differing[2]].expected
    assert NotStopped(MARK_FOR_USER) == EPT[differing[2]].expected


def test_every_other_row_of_nested_paging_is_there_under_ept():
    svm = {name for name in NPT if name.endswith(" on the host's state")}
    vmx = {name for name in EPT if name.endswith(" by the guest")}
    assert (7, 11) == (len(svm), len(vmx))
    assert set(NPT) - svm == set(EPT) - vmx
    assert not any(isinstance(row.expected, Crash) for row in EPT.values())
    for name in set(NPT) - svm - {row.name for row in ATTACKS if row.expected == Crash()}:
        assert EPT[name].expected == expected_under(TableKind.EPT, NPT[name].expected)


def test_what_svm_ends_in_is_something_else_under_ept():
    assert NestedFault(TEXT, 7) == expected_under(TableKind.NPT, NestedFault(TEXT, 7))
    for code, access, present in (
        (7, AccessType.WRITE, True),
        (6, AccessType.WRITE, False),
        (5, AccessType.READ, True),
        (0x15, AccessType.EXECUTE, True),
    ):
        fault = expected_under(TableKind.EPT_MBEC, NestedFault(TEXT, code))
        assert Violation(TEXT, access, present) == fault
    for name, what in (
        ("CR0.WP cleared", CR0_WRITTEN),
        ("CR4.SMEP cleared", CR4_WRITTEN),
        ("EFER.NXE cleared", EFER_WRITTEN),
    ):
        assert isinstance(NPT[name].expected, Intercepted)
        assert VmExited(what) == EPT[name].expected


def test_user_code_makes_its_hypercall_by_the_instruction_of_its_cpu():
    name = "user code opens text for patching"
    for table, code in ((NPT, b"\x0f\x01\xd9"), (EPT, b"\x0f\x01\xc1")):
        stored = [
            action.second
            for action in table[name].program
            if getattr(action, "operation", None) is Operation.STORE
        ][-2:]
        assert OPEN_TEXT[0] == stored[0]
        assert b"".join(word.to_bytes(8, "little") for word in stored)[10:13] == code


def test_a_violation_is_shown_with_what_is_known_of_it():
    results = [
        str(Violation(TEXT, AccessType.WRITE)),
        str(Violation(TEXT, AccessType.EXECUTE, qualification=0x1AC)),
        str(Violation(1 << 33, AccessType.READ, present=False)),
        str(Violation(places.POOL, AccessType.WRITE, table=True)),
        str(VmExited("VMXON")),
    ]
    assert [
        "EPT violation at 0x103000, write",
        "EPT violation at 0x103000, fetch, qualification 0x1ac",
        "EPT violation at 0x200000000, read, nothing granted",
        "EPT violation at 0x800000, walk",
        "VM exit: VMXON",
    ] == results
