"""The guest code of mixed runs, disassembled: what the host relies on about it."""

import pytest
from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from crosswalk.emu.probe.mixed_loop import (
    COMPARE,
    CONTROL_WORDS,
    DONE,
    ENTER,
    FAULTED,
    FAULTED_GATE,
    HEAD,
    MADE,
    MADE_GATE,
    MADE_HERE,
    MIXED_CODE,
    NEXT,
    OUT_WORDS,
    RECORD_WORDS,
    TO_USER,
    USER,
    USER_FAULTED,
    USER_LANDED,
    Column,
)
from crosswalk.walker.access import AccessType


def instructions(start):
    """The instructions from an offset on, up to one that doesn't go on to the next."""
    found = []
    for each in Cs(CS_ARCH_X86, CS_MODE_64).disasm(MIXED_CODE[start:], start):
        text = f"{each.mnemonic} {each.op_str}".strip()
        found.append(text.replace("qword ptr ", "").replace("byte ptr ", ""))
        if each.mnemonic in ("hlt", "jmp", "iretq", "ljmp") or "call" in each.mnemonic:
            return found
    raise AssertionError(start)


@pytest.mark.parametrize("places", [MADE_HERE, USER])
def test_an_access_is_the_first_instruction_where_its_faults_are_looked_for(places):
    accesses = [instructions(places[kind])[0] for kind in AccessType]
    assert ["mov al, [rbx]", "mov [rbx], al", "jmp rbx"] == accesses


@pytest.mark.parametrize("kind", list(AccessType))
def test_at_cpl_0_the_flags_are_the_records(kind):
    flags, loaded = instructions(ENTER[kind])[:2]
    assert [f"lea rsp, [r15 + {8 * (Column.FRAME + 2):#x}]", "popfq"] == [flags, loaded]


def test_user_mode_is_entered_with_the_records_frame():
    *_, frame, enter = instructions(TO_USER)
    assert [f"lea rsp, [r15 + {8 * Column.FRAME:#x}]", "iretq"] == [frame, enter]


@pytest.mark.parametrize(
    ("start", "gate"), [(USER_LANDED, MADE_GATE), (USER_FAULTED, FAULTED_GATE)]
)
def test_user_code_leaves_by_a_call_gate(start, gate):
    (call,) = Cs(CS_ARCH_X86, CS_MODE_64).disasm(MIXED_CODE[start : start + 7], start)
    assert b"\x48\xff\x1d" == bytes(call.bytes[:3])
    pointer = call.address + call.size + int.from_bytes(call.bytes[3:], "little", signed=True)
    assert gate | 3 == int.from_bytes(MIXED_CODE[pointer + 8 : pointer + 10], "little")


def test_every_access_is_made_with_its_page_out_of_the_tlb():
    assert "invlpg [rbx]" in instructions(HEAD + 0x20)


def test_records_and_outs_follow_each_other():
    step = instructions(NEXT)
    assert f"add r15, {8 * RECORD_WORDS:#x}" == step[0]
    assert f"add r14, {8 * OUT_WORDS:#x}" == step[1]
    assert Column.CONTROL + CONTROL_WORDS <= RECORD_WORDS


def test_ways_back_go_on_where_the_record_says():
    assert [f"jmp [r15 + {8 * Column.THEN:#x}]"] == instructions(MADE)
    assert [f"jmp [r15 + {8 * Column.AFTER:#x}]"] == instructions(FAULTED)
    assert ["hlt"] == instructions(DONE)
    assert 5 == sum(each.startswith("or rdi") for each in instructions(COMPARE))
