"""Accesses in 32-bit and PAE paging by the runner, on QEMU: what comes of each."""

import numpy as np
import pytest

from crosswalk.emu.judges.registry import open_machine
from crosswalk.guest.boot.image import Output, Place, boot_image, digest_of
from crosswalk.guest.boot.log import read_log
from crosswalk.guest.boot.programs import Op, Program, Run, Step
from crosswalk.walker.context import PagingMode

# An odd multiple of 2 MiB: in 32-bit paging it is seen in the upper half of a table.
PLACE = Place(0x820_0000)
ROOT, PD, PT, FRAME, LARGE = 0x100_0000, 0x100_3000, 0x100_1000, 0x100_2000, 0x180_0000
VA, WORD, MARKER = 0x40_0010, FRAME + 0x10, 0x0102_0304_0506_0740
ALIAS = 0x4000_0000
CR0, WP = 0x8001_0033, 1 << 16
PSE, PAE, SMEP_SMAP, NXE = 1 << 4, 1 << 5, 3 << 20, 1 << 11
P, RW, US, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
PAGE_FAULT, BREAKPOINT, DOUBLE_FAULT = 14, 3, 8


def run_32(pte, *steps, pde=PT | P | RW | US, cr0=CR0, cr4=0, alias=ALIAS, **more):
    """A run whose PDE for VA is in the upper half of the root's first word."""
    lent = PLACE.lent(PagingMode.BIT32, user=False)
    at = ROOT + alias // (4 << 20) * 4
    words = {ROOT: pde << 32, at & -8: lent << 8 * (at & 7), PT: pte, **more.pop("words", {})}
    return make_run(PagingMode.BIT32, words, steps, cr0=cr0, cr4=cr4, alias=alias, efer=0)


def run_pae(pte, *steps, pdpte=PD | P, pde=PT | P | RW | US, cr0=CR0, cr4=0, efer=NXE):
    lent = PLACE.lent(PagingMode.PAE, user=False)
    words = {ROOT: pdpte, ROOT + 8: lent, PD + 16: pde, PT: pte}
    return make_run(PagingMode.PAE, words, steps, cr0=cr0, cr4=cr4 | PAE, efer=efer)


def make_run(mode, words, steps, alias=ALIAS, **registers):
    return Run(
        mode=mode,
        cr3=ROOT,
        alias=alias,
        user=alias,
        clear=np.array([ROOT, PD, PT, FRAME, LARGE], np.uint64),
        words=np.array(
            sorted({WORD: MARKER, LARGE + 0x10: MARKER + 1, **words}.items()), np.uint64
        ),
        programs=tuple(
            Program(
                (Step(op, VA, 0xAB, 0, cpl, ac),),
                watched=(ROOT, PD + 16, PT, WORD, LARGE + 0x10),
                signed=((WORD, 0xCC), (LARGE + 0x10, 0xCC)) if op == Op.EXECUTE else (),
            )
            for op, cpl, ac in steps
        ),
        **registers,
    )


READ, WRITE, FETCH = ((op, 0, False) for op in (Op.READ, Op.WRITE, Op.EXECUTE))
USER_READ, USER_WRITE, USER_FETCH = ((op, 3, False) for op in (Op.READ, Op.WRITE, Op.EXECUTE))
READ_WITH_AC, USER_READ_WITH_AC = (Op.READ, 0, True), (Op.READ, 3, True)
EACH = (READ, WRITE, FETCH, USER_READ, USER_WRITE, USER_FETCH)

OK = "ok"
"""Completed; a number instead is the error code of a page fault."""

CASES = [
    ("32-bit: nothing there", run_32(0, *EACH), (0, 2, 0, 4, 6, 4)),
    ("32-bit: read-only", run_32(FRAME | P, *EACH), (OK, 3, OK, 5, 7, 5)),
    ("32-bit: writable", run_32(FRAME | P | RW, *EACH), (OK, OK, OK, 5, 7, 5)),
    ("32-bit: user", run_32(FRAME | P | US, *EACH), (OK, 3, OK, OK, 7, OK)),
    ("32-bit: all", run_32(FRAME | P | RW | US, *EACH), (OK,) * 6),
    ("32-bit: WP clear", run_32(FRAME | P, WRITE, cr0=CR0 & ~WP), (OK,)),
    (
        "32-bit: SMEP and SMAP",
        run_32(FRAME | 7, *EACH, READ_WITH_AC, USER_READ_WITH_AC, cr4=SMEP_SMAP),
        (1, 3, 17, OK, OK, OK, OK, OK),
    ),
    ("32-bit: the last slot lent", run_32(FRAME | 7, *EACH, alias=0xFFC0_0000), (OK,) * 6),
    ("PAE: nothing there", run_pae(0, *EACH), (0, 2, 16, 4, 6, 20)),
    ("PAE: read-only", run_pae(FRAME | P, *EACH), (OK, 3, OK, 5, 7, 21)),
    ("PAE: all", run_pae(FRAME | 7, *EACH), (OK,) * 6),
    ("PAE: NX", run_pae(FRAME | 7 | NX, *EACH), (OK, OK, 17, OK, OK, 21)),
    ("PAE: no fetch bit without NXE", run_pae(0, *EACH, efer=0), (0, 2, 0, 4, 6, 4)),
    ("PAE: WP clear", run_pae(FRAME | P, WRITE, cr0=CR0 & ~WP), (OK,)),
    (
        "PAE: SMEP and SMAP",
        run_pae(FRAME | 7, *EACH, READ_WITH_AC, cr4=SMEP_SMAP),
        (1, 3, 17, OK, OK, OK, OK),
    ),
    ("PAE: nothing there again", run_pae(0, READ), (0,)),
]
LARGE_CASES = [
    ("32-bit: PS without PSE leads to a table", run_32(FRAME | 7, *EACH, pde=PT | 0x87)),
    ("32-bit: 4 MiB", run_32(0, *EACH, pde=0x0180_0087, cr4=PSE)),
    ("PAE: 2 MiB", run_pae(0, *EACH, pde=0x0180_0087)),
]


@pytest.fixture(scope="module")
def log(qemu):
    runs = [run for _, run, _ in CASES] + [run for _, run in LARGE_CASES]
    # The instruction that is fetched takes away the stack: a double fault.
    lost = run_pae(FRAME | 7, FETCH, READ)
    lost.words[lost.words[:, 0] == WORD, 1] = int.from_bytes(bytes.fromhex("bc00000090"), "little")
    unsigned = Program(lost.programs[0].steps)
    runs.append(Run(**{**fields(lost), "programs": (unsigned, lost.programs[1])}))
    runs.append(last_byte())
    image = boot_image(runs, PLACE, Output.SERIAL)
    printed = open_machine(qemu).boot(image, seconds=60)
    found = read_log(printed.data, digest=digest_of(image))
    assert (None, True) == (printed.ended, found.complete)
    return found


def last_byte():
    """A fetch behind which EIP is 0."""
    end, last = FRAME + 0xFF8, PT + 0xFF8
    pde = {ROOT + 0xFF8: (PT | 7) << 32, last: (FRAME | 7) << 32, end: MARKER}
    run = run_32(0, words=pde)
    step = Step(Op.EXECUTE, 0xFFFF_FFFF)
    signed = ((end, MARKER & ~(0xFF << 56) | 0xCC << 56),)
    return Run(**{**fields(run), "programs": (Program((step,), (last, end), signed),)})


def fields(run):
    return {name: getattr(run, name) for name in Run.__slots__}


@pytest.mark.parametrize("at", range(len(CASES)), ids=[name for name, _, _ in CASES])
def test_error_codes_cr2_and_changed_words_are_those_of_the_manual(log, at):
    _, run, expected = CASES[at]
    result = log.runs[at]
    assert (None, len(expected)) == (result.refused, len(result.programs))
    pte = dict(run.words.tolist())[PT]
    for wanted, program, asked in zip(expected, result.programs, run.programs, strict=True):
        (step,) = program.steps
        op = asked.steps[0].op
        if wanted == OK:
            assert (BREAKPOINT if op == Op.EXECUTE else None) == step.vector
            assert (op == Op.EXECUTE) == step.behind
            assert pte | A | (D if op == Op.WRITE else 0) == program.changed[PT]
            assert (MARKER & ~0xFF | 0xAB if op == Op.WRITE else None) == program.changed.get(WORD)
        else:
            assert (PAGE_FAULT, wanted, VA, True) == (
                step.vector,
                step.error_code,
                step.cr2,
                step.at_access,
            )
            assert PT not in program.changed
        if wanted == OK and op == Op.READ:
            assert MARKER == step.seen


@pytest.mark.parametrize("at", range(len(LARGE_CASES)), ids=[name for name, _ in LARGE_CASES])
def test_ps_makes_a_large_page_where_the_mode_has_them(log, at):
    name, run = LARGE_CASES[at]
    programs = log.runs[len(CASES) + at].programs
    assert [None, None, BREAKPOINT] * 2 == [each.steps[0].vector for each in programs]
    small = "without PSE" in name
    for program in programs[::3]:
        assert (MARKER if small else MARKER + 1) == program.steps[0].seen
    assert {small} == {PT in program.changed for program in programs}
    assert len(programs) == len(run.programs)


def test_a_fetch_of_the_last_byte_of_4_gib_is_completed(log):
    (program,) = log.runs[-1].programs
    (step,) = program.steps
    assert (BREAKPOINT, True) == (step.vector, step.behind)
    assert (FRAME | 7 | A) << 32 == program.changed[PT + 0xFF8]


def test_an_instruction_that_loses_the_stack_is_a_double_fault_and_the_run_goes_on(log):
    fault, read = log.runs[len(CASES) + len(LARGE_CASES)].programs
    assert DOUBLE_FAULT == fault.steps[0].vector
    assert not fault.steps[0].at_access
    assert (None, 0x90_0000_00BC) == (read.steps[0].vector, read.steps[0].seen)
