"""Registers as machines are given them: without the bits that paging doesn't look at."""

from dataclasses import replace

import pytest

from crosswalk.emu.judges.asked import Registers
from crosswalk.emu.judges.judge import Question, Unjudged
from crosswalk.emu.judges.registry import open_judge
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from tests.emu.accesses import every
from tests.tables import OPEN, PageTables, context

VA = 0x40_0000
REGISTERS = ("cr0", "cr3", "cr4", "efer")


def with_each_bit_changed(mode):
    """The registers of a mode, with one bit of one of them changed, as far as there are such."""
    for name in REGISTERS:
        for bit in range(64):
            try:
                yield replace(context(mode), **{name: getattr(context(mode), name) ^ 1 << bit})
            except BadInput:
                continue


@pytest.mark.parametrize("mode", [4, 5, "PAE", "32-bit"])
def test_every_bit_of_a_register_needs_a_feature_or_is_one_of_paging(mode):
    always = 1 << 4 | 1 << 5 | 1 << 7  # PSE, PAE and PGE.
    bits = {"la57": 12, "pcid": 17, "smep": 20, "smap": 21, "pku": 22, "pks": 24, "lass": 27}
    for each in with_each_bit_changed(mode):
        registers = Registers.of(each)
        needed = {name for name, _ in registers.features}
        some = sum(1 << bit for name, bit in bits.items() if name in needed)
        lam = 1 << 28 if "lam" in needed else 0
        assert 0 == registers.cr4 & ~(always | some | lam)
        assert 0 == registers.cr0 & ~0x8001_0011


def test_no_bit_of_a_register_makes_qemu_hang(qemu):
    memory = {mode: PageTables(mode).map(VA, 0x8000, OPEN).memory for mode in (4, "PAE", "32-bit")}
    asked = [
        Question(memory[mode], each, Accesses.of(every(VA)[:2]))
        for mode in memory
        for each in with_each_bit_changed(mode)
    ]
    judged = open_judge(qemu).accesses(asked)

    answered = 0
    for question, each in zip(asked, judged, strict=True):
        assert {Unjudged.NOT_SHOWN, Unjudged.NOT_EXPORTABLE}.issuperset(
            reason.kind for reason in each.reasons
        )
        if not each.why.any():
            answered += 1
            said = translate_many(question.memory, each.context, question.accesses)
            assert said.pa.tolist() == each.outcomes.pa.tolist()
    assert len(asked) * 3 // 4 < answered
