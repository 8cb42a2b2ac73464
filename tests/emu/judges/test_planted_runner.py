"""Bugs planted in the runner: what it then says has to differ from what is predicted."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.check.compare import agreements
from crosswalk.emu.judges.judge import Question
from crosswalk.emu.judges.registry import open_machine
from crosswalk.guest.boot import image
from crosswalk.walker.access import AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import PagingContext
from crosswalk.walker.memory import SparseWords
from tests.emu.judges.runners import judge_of, planted

P, RW, US, XD, G = 1, 2, 4, 1 << 63, 0x100
SMEP, SMAP, PGE = 1 << 20, 1 << 21, 1 << 7
CONTEXT = PagingContext(cr0=0x80010033, cr3=0x10_1000, cr4=0x20, efer=0xD00)
PAGES = (0x20_0000 | 7, 0x20_1000 | P, 0x20_2000 | 7 | XD, 0x20_3000 | 6, 0x20_4000 | 7 | G)
CONTEXTS = tuple(replace(CONTEXT, cr4=0x20 | more) for more in (0, SMEP | SMAP, PGE))

# Source, what is there, what is there instead.
PLANTED = {
    "the TLB isn't emptied": (
        "runner.s",
        "    mov rax, [rbx + r12 + R_CR3]\n    mov cr3, rax\n    ret\n\n# ---- Words",
        "    ret\n\n# ---- Words",
    ),
    "global entries stay in the TLB": (
        "runner.s",
        "    mov cr4, rax\n    btc rax, 7\n    mov cr4, rax\n    ret\nby_cr3:",
        "    ret\nby_cr3:",
    ),
    "the A bit is put back before it is read": (
        "runner.s",
        "    mov rdx, [rbx + rax]\n    mov r9, [rbx + rdi]\n    cmp rdx, r9\n",
        "    mov r9, [rbx + rdi]\n    mov [rbx + rax], r9\n    mov rdx, r9\n    cmp rdx, r9\n",
    ),
    "what changed isn't put back": ("runner.s", "    mov [rbx + rax], r9\nsame:", "same:"),
    "what was signed isn't put back": (
        "runner.s",
        "    mov rdx, [rbx + r10]\n    mov [rbx + rax], rdx\n",
        "    mov rdx, [rbx + r10]\n",
    ),
    "CR2 is that of its page": (
        "runner_traps.s",
        "    mov rax, cr2\n",
        "    mov rax, cr2\n    and rax, -0x1000\n",
    ),
    "the error code loses U/S": (
        "runner_traps.s",
        "    mov rsi, [rdx]\n",
        "    mov rsi, [rdx]\n    and esi, 0xfffb\n",
    ),
    "a read reads another byte than the second look": (
        "runner_accesses.s",
        "    mov dl, [rdi]\n",
        "    mov dl, [rdi]\n    inc edx\n",
    ),
    "writes read": ("runner_accesses.s", "    mov [rdi], al\n", "    mov al, [rdi]\n"),
    "user accesses are a supervisor's": (
        "runner.s",
        "    mov rcx, r9\n    jnz as_user\n",
        "    mov rcx, r9\n",
    ),
    "CR4 isn't loaded": (
        "runner.s",
        "    mov cr4, rax\n    lea rax, [rip + cr0_refused]\n",
        "    lea rax, [rip + cr0_refused]\n",
    ),
    "EFER isn't loaded": (
        "runner.s",
        "    wrmsr\n    lea rax, [rip + cr4_refused]\n",
        "    lea rax, [rip + cr4_refused]\n",
    ),
}


def questions():
    tables = {0x10_1000: 0x10_2000, 0x10_2000: 0x10_3000, 0x10_3000: 0x10_4000}
    words = {pa: value | P | RW | US for pa, value in tables.items()}
    words |= {0x10_4000 + 8 * slot: entry for slot, entry in enumerate(PAGES)}
    asked = [
        (slot << 12 | 0x123, kind, cpl, ac)
        for _ in range(2)
        for slot in range(len(PAGES))
        for kind in AccessType
        for cpl in (0, 3)
        for ac in (False, True)
    ]
    va, kind, cpl, ac = (np.array(column) for column in zip(*asked, strict=True))
    accesses = Accesses(va.astype(np.uint64), kind.astype(np.uint8), cpl.astype(np.uint8), ac)
    memory = SparseWords([(0, 1 << 31)], words)
    return [Question(memory, context, accesses) for context in CONTEXTS]


def differing(machine):
    """Return how many outcomes differ from what is predicted, and how many there are none of."""
    judge = judge_of(machine)
    found = missing = 0
    for asked, judged in zip(questions(), judge.accesses(questions()), strict=True):
        predicted = translate_many(asked.memory, judged.context, asked.accesses)
        answered = judged.why == 0
        found += np.count_nonzero(~agreements(predicted, judged.outcomes) & answered)
        missing += np.count_nonzero(~answered | judged.unproved)
    return found, missing


def test_without_a_planted_bug_everything_agrees(qemu):
    assert (0, 0) == differing(open_machine(qemu))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_differs(qemu, name, monkeypatch):
    source, line, instead = PLANTED[name]
    monkeypatch.setattr(image, "_code", lambda: planted(source, line, instead))
    found, _ = differing(open_machine(qemu))
    assert found
