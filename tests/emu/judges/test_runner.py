"""The runner of 4- and 5-level paging, on QEMU: what each kind of step answers."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.guest.boot.image import Output, Place, boot_image, digest_of, results_of, size_of
from crosswalk.guest.boot.log import MOST_STRAYS, read_log
from crosswalk.guest.boot.programs import Op, Program, Run, Step, StepResult
from crosswalk.walker.context import PagingMode

PLACE = Place(0x820_0000)
ROOT, PDPT, PD, PT, PAGE, OTHER = (0x100_0000 + 0x1000 * at for at in range(6))
LAST_PT = 0x100_6000
VA, NEXT = 0x40_0010, 0x40_1010
ALIAS, USER = 0xFFFF_9000_0000_0000, 0x80_0000_0000
ALIAS5, USER5 = 0xFF12_0000_0000_0000, 1 << 48
CR0, CR4, EFER = 0x8001_0033, 0x20, 0xD00
WP, PGE, PCIDE, PKE, SMAP, LA57 = 1 << 16, 1 << 7, 1 << 17, 1 << 22, 1 << 21, 1 << 12
P, RW, US, A, D = 1, 2, 4, 0x20, 0x40
TABLE = P | RW | US | A
MARKER = 0x0102_0304_0506_0740
PAGE_FAULT, PROTECTION, BREAKPOINT, DEBUG, DOUBLE_FAULT = 14, 13, 3, 1, 8


def make_run(*programs, pte=PAGE | 7, other=OTHER | 7, words=(), **registers):
    """4-level paging, where VA leads to PAGE, and the page behind it to OTHER."""
    held = {
        ROOT: PDPT | TABLE,
        ROOT + (ALIAS >> 39 & 511) * 8: PLACE.lent(PagingMode.LEVEL4, user=False),
        ROOT + (USER >> 39 & 511) * 8: PLACE.lent(PagingMode.LEVEL4, user=True),
        PDPT: PD | TABLE,
        PD + 16: PT | TABLE,
        PT: pte,
        PT + 8: other,
        PAGE + 0x10: MARKER,
        OTHER + 0x10: MARKER + 1,
        **dict(words),
    }
    state = {"cr0": CR0, "cr3": ROOT, "cr4": CR4, "efer": EFER, "alias": ALIAS, "user": USER}
    return Run(
        mode=PagingMode.LEVEL4,
        clear=np.arange(ROOT, LAST_PT + 0x1000, 0x1000, dtype=np.uint64),
        words=np.array(sorted(held.items()), np.uint64),
        programs=programs,
        **{**state, **registers},
    )


def five(run):
    """The same with a root above, in whose first slot it lies."""
    words = {at: value for at, value in run.words.tolist() if not ROOT <= at < ROOT + 0x1000}
    words |= {
        LAST_PT: ROOT | TABLE,
        LAST_PT + (ALIAS5 >> 48 & 511) * 8: PLACE.lent(PagingMode.LEVEL5, user=False),
        LAST_PT + (USER5 >> 48 & 511) * 8: PLACE.lent(PagingMode.LEVEL5, user=True),
        ROOT: PDPT | TABLE,
    }
    return replace(
        run, mode=PagingMode.LEVEL5, cr3=LAST_PT, cr4=run.cr4 | LA57, alias=ALIAS5, user=USER5,
        words=np.array(sorted(words.items()), np.uint64),
    )  # fmt: skip


def program(*steps, watched=(PT, PT + 8, PAGE + 0x10, OTHER + 0x10), signed=()):
    return Program(steps, watched, signed)


def each(op, **more):
    return [Step(op, VA, cpl=cpl, **more) for cpl in (0, 3)]


def boot(machine, runs, **wish):
    tags = [(1 << 63) + at for at in range(len(runs))]
    tagged = [replace(run, tag=tag) for run, tag in zip(runs, tags, strict=True)]
    image = boot_image(tagged, PLACE, machine.output)
    printed = machine.boot(image, seconds=60, wish=CpuWish(**wish))
    assert len(printed.data) < results_of(image).size
    found = read_log(printed.data, digest=digest_of(image))
    assert (None, None, True) == (printed.ended, found.ended, found.complete)
    assert tags == [result.tag for result in found.runs]
    return found


@pytest.fixture(scope="module")
def machine(qemu):
    return open_machine(qemu)


def completed(seen=0):
    return StepResult(None, seen=seen)


def faulted(error_code, cr2=VA):
    return StepResult(PAGE_FAULT, error_code, cr2, at_access=True)


def fetched(seen=0):
    return StepResult(BREAKPOINT, behind=True, seen=seen)


STORED = MARKER & ~0xFF | 0xAB
BREAK = PAGE + 0x10, 0xCC

# Name, run, results of each program: of its steps, and the words changed.
RUNS = {
    "accesses that complete": (
        make_run(
            *(program(step) for step in each(Op.READ)),
            *(program(step) for step in each(Op.WRITE, value=0xAB)),
            *(program(step, signed=(BREAK,)) for step in each(Op.EXECUTE)),
        ),
        [
            *[([completed(MARKER)], {PT: PAGE | 7 | A})] * 2,
            *[([completed()], {PT: PAGE | 7 | A | D, PAGE + 0x10: STORED})] * 2,
            *[([fetched()], {PT: PAGE | 7 | A})] * 2,
        ],
    ),
    "nothing there": (
        make_run(
            *(program(step) for op in (Op.READ, Op.WRITE, Op.EXECUTE) for step in each(op)), pte=0
        ),
        [([faulted(code)], {}) for code in (0, 4, 2, 6, 0x10, 0x14)],
    ),
    "wider accesses": (
        make_run(
            program(Step(Op.READ8, VA)),
            program(Step(Op.WRITE8, VA, 0x1122_3344_5566_7788, cpl=3)),
            program(Step(Op.READ8, NEXT - 0x14)),
            program(Step(Op.XADD, VA, 0x21)),
            program(Step(Op.CMPXCHG, VA, 0x41, cpl=3)),
        ),
        [
            ([completed(MARKER)], {PT: PAGE | 7 | A}),
            ([completed()], {PT: PAGE | 7 | A | D, PAGE + 0x10: 0x1122_3344_5566_7788}),
            ([completed()], {PT: PAGE | 7 | A, PT + 8: OTHER | 7 | A}),
            ([completed(0x40)], {PT: PAGE | 7 | A | D, PAGE + 0x10: MARKER + 0x21}),
            ([completed(0x40)], {PT: PAGE | 7 | A | D}),
        ],
    ),
    "looks at words": (
        make_run(
            program(
                Step(Op.LOOK, PT), Step(Op.READ, VA), Step(Op.LOOK, PT), Step(Op.LOOK, PDPT + 8)
            )
        ),
        [
            (
                [completed(PAGE | 7), completed(MARKER), completed(PAGE | 7 | A), completed()],
                {PT: PAGE | 7 | A},
            )
        ],
    ),
    "AC lets supervisors in": (
        make_run(program(Step(Op.READ, VA)), program(Step(Op.READ, VA, ac=True)), cr4=CR4 | SMAP),
        [([faulted(1)], {}), ([completed(MARKER)], {PT: PAGE | 7 | A})],
    ),
    "a descriptor read by code of CPL 3": (
        make_run(
            program(
                Step(Op.LOAD_FS, VA - 8, 0x0B, 0xF, cpl=3),
                signed=((PAGE + 0x10, 0x00CF_F300_0000_FFFF),),
            ),
            program(Step(Op.LOAD_FS, VA - 8, 0x0B, 0xF, cpl=3)),
            program(Step(Op.READ, VA)),
            pte=PAGE | 3,
        ),
        [
            ([completed()], {PT: PAGE | 3 | A}),
            ([StepResult(PROTECTION, 0xC, at_access=True)], {PT: PAGE | 3 | A}),
            ([completed(MARKER)], {PT: PAGE | 3 | A}),
        ],
    ),
    "what is stale, and what isn't": (
        make_run(
            program(
                Step(Op.READ, VA),
                Step(Op.STORE, PT, OTHER | 7),
                Step(Op.READ, VA),
                Step(Op.INVLPG, VA),
                Step(Op.READ, VA),
            ),
            program(Step(Op.READ, VA)),
        ),
        [
            (
                [*[completed(MARKER), completed()] * 2, completed(MARKER + 1)],
                {PT: OTHER | 7 | A},
            ),
            ([completed(MARKER)], {PT: PAGE | 7 | A}),
        ],
    ),
    "registers, loaded again afterwards": (
        make_run(
            program(
                Step(Op.WRITE, VA, 0xAB),
                Step(Op.MOV_CR0, value=CR0 & ~WP),
                Step(Op.WRITE, VA, 0xAB),
                Step(Op.MOV_CR4, value=CR4 | SMAP),
                Step(Op.READ, NEXT),
                Step(Op.WRPKRU, value=0),
                Step(Op.MOV_CR4, value=CR4 | LA57),
                Step(Op.MOV_CR3, value=ROOT),
            ),
            program(Step(Op.WRITE, VA, 0xAB)),
            program(Step(Op.READ, NEXT)),
            pte=PAGE | 5,
        ),
        [
            (
                [
                    faulted(3),
                    completed(),
                    completed(),
                    completed(),
                    faulted(1, NEXT),
                    StepResult(6, at_access=True),
                    StepResult(PROTECTION, at_access=True),
                    completed(),
                ],
                {PT: PAGE | 5 | A | D, PAGE + 0x10: STORED},
            ),
            ([faulted(3)], {}),
            ([completed(MARKER + 1)], {PT + 8: OTHER | 7 | A}),
        ],
    ),
    "keys": (
        make_run(
            program(Step(Op.READ, VA)),
            program(Step(Op.READ, VA, cpl=3), Step(Op.WRPKRU), Step(Op.READ, VA, cpl=3)),
            program(Step(Op.READ, VA)),
            pte=PAGE | 7 | 1 << 59,
            cr4=CR4 | PKE,
            pkru=4,
        ),
        [
            ([faulted(0x21)], {}),
            (
                [faulted(0x25), completed(), completed(MARKER)],
                {PT: PAGE | 7 | A | 1 << 59},
            ),
            ([faulted(0x21)], {}),
        ],
    ),
    "global entries don't outlive a program": (
        make_run(
            program(Step(Op.READ, VA)),
            program(Step(Op.READ, VA)),
            pte=PAGE | 7 | 0x100,
            cr4=CR4 | PGE,
        ),
        [([completed(MARKER)], {PT: PAGE | 0x107 | A})] * 2,
    ),
    "addresses that aren't canonical": (
        make_run(*(program(Step(op, 1 << 47)) for op in (Op.READ, Op.EXECUTE))),
        [([StepResult(PROTECTION, at_access=True)], {})] * 2,
    ),
    "an instruction without a signature": (
        make_run(program(Step(Op.EXECUTE, VA)), words={PAGE + 0x10: 0x0102_0304_B8}.items()),
        [([StepResult(DEBUG, seen=0x0102_0304)], {PT: PAGE | 7 | A})],
    ),
    "above 4 GiB": (
        make_run(
            program(Step(Op.READ, VA), watched=(PT, 0x1_0000_0010)),
            pte=0x1_0000_0007,
            words={0x1_0000_0010: MARKER + 2}.items(),
        ),
        [([completed(MARKER + 2)], {PT: 0x1_0000_0007 | A})],
    ),
}


FOUR_ALONE = {"registers, loaded again afterwards", "addresses that aren't canonical"}
FIVE = [name for name in RUNS if name not in FOUR_ALONE]


@pytest.fixture(scope="module")
def log(machine):
    return boot(machine, [run for run, _ in RUNS.values()])


@pytest.fixture(scope="module")
def log5(machine):
    return boot(machine, [five(RUNS[name][0]) for name in FIVE])


@pytest.mark.parametrize("name", RUNS)
def test_each_step_answers_what_the_manual_says(log, name):
    held(log.runs[list(RUNS).index(name)], *RUNS[name])


@pytest.mark.parametrize("name", FIVE)
def test_five_levels_answer_the_same(log5, name):
    held(log5.runs[FIVE.index(name)], *RUNS[name])


def held(result, run, expected):
    assert (None, len(run.programs)) == (result.refused, len(result.programs))
    for (steps, changed), found in zip(expected, result.programs, strict=True):
        assert steps == [cleaned(step) for step in found.steps]
        assert changed == found.changed
        assert {} == found.strays


def cleaned(step):
    """Without what only noise is in: RAX of what faulted, CR2 of other exceptions."""
    fault = step.vector == PAGE_FAULT
    return replace(step, cr2=step.cr2 if fault else 0)


def test_words_changed_that_nobody_watched_are_strays_and_put_back(machine):
    words = {LAST_PT + 8 * at: at for at in range(64)}
    run = make_run(
        program(Step(Op.WRITE, VA, 0xAB), *(Step(Op.STORE, at, 1 << 40) for at in words),
                watched=(ROOT,)),
        program(Step(Op.WRITE, VA, 0xAB), watched=(ROOT,)),
        pte=PAGE | 7 | A | D, words=words.items(),
    )  # fmt: skip
    (result,) = boot(machine, [run]).runs
    first, second = result.programs
    assert MOST_STRAYS == len(first.strays)
    assert STORED == first.strays[PAGE + 0x10]
    assert {PAGE + 0x10: STORED} == second.strays


REFUSED = {
    "no RAM at 0xc0000000": make_run(program(Step(Op.READ, VA), watched=(0xC000_0000,))),
    "no RAM at 0x9000000000000": make_run(program(Step(Op.STORE, 9 << 48))),
    f"the runner lies at {PLACE.base:#x}": make_run(words={PLACE.base: 1}.items()),
    "no RAM at 0xd000000000": make_run(cr3=0xD0_0000_0000),
    "MAXPHYADDR is above 39": make_run(maxphyaddr=39),
    "the CPU has no lass": make_run(needs=("nx", "pdpe1gb", "lass", "smep")),
}


def test_what_a_machine_cannot_do_is_refused_by_name_and_the_next_run_goes_on(machine):
    here = ("pge", "pse36", "la57", "smep", "smap", "pku", "nx", "pdpe1gb", "umip", "fsgsbase")
    good = make_run(program(Step(Op.READ, VA)), maxphyaddr=40, needs=here)
    runs = [run for bad in REFUSED.values() for run in (bad, good)]
    results = boot(machine, runs, maxphyaddr=40).runs
    assert list(REFUSED) == [result.refused for result in results[::2]]
    for result in results[1::2]:
        assert (None, MARKER) == (result.refused, result.programs[0].steps[0].seen)


@pytest.mark.slow
def test_registers_that_raise_an_exception_are_refused_by_name(bochs):
    # Not QEMU: a reserved bit in CR3 or CR4 makes it spin at the instruction, instead of #GP.
    good = make_run(program(Step(Op.READ, VA)))
    refused = {
        "CR3 refused": make_run(cr3=1 << 60 | ROOT),
        "CR4 = 0x80000020 refused": make_run(cr4=1 << 31 | CR4),
        "CR0 = 0xa0010033 refused": make_run(cr0=CR0 | 1 << 29),
        "EFER = 0x100000000d00 refused": make_run(efer=1 << 44 | EFER),
    }
    for name in bochs:
        results = boot(open_machine(name), [run for bad in refused.values() for run in (bad, good)])
        assert list(refused) == [result.refused for result in results.runs[::2]]
        for result in results.runs[1::2]:
            assert (None, MARKER) == (result.refused, result.programs[0].steps[0].seen)


def test_five_levels_are_refused_by_a_cpu_without_them(qemu, machine, monkeypatch):
    monkeypatch.setattr(machine, "_cpu", lambda wish: "qemu64,-pdpe1gb")
    good = make_run(program(Step(Op.READ, VA)))
    above = RUNS["above 4 GiB"][0]
    results = boot(machine, [good, five(good), above, good]).runs
    assert ["CR4 = 0x1020 refused"] == [each.refused for each in results if each.refused]
    assert [MARKER, MARKER + 2, MARKER] == [
        each.programs[0].steps[0].seen for each in results if not each.refused
    ]


def test_a_death_in_a_program_ends_the_log_at_the_one_before(machine):
    # The second root has no runner: an exception that can't be delivered ends the machine.
    dies = program(Step(Op.READ, VA), Step(Op.MOV_CR3, value=LAST_PT), Step(Op.READ, VA))
    run = make_run(program(Step(Op.READ, VA)), dies, program(Step(Op.READ, VA)))
    image = boot_image([run, run], PLACE, machine.output)
    printed = machine.boot(image, seconds=60)
    found = read_log(printed.data, digest=digest_of(image))
    assert ("resets", False, None) == (printed.ended, found.complete, found.ended)
    assert [1] == [len(each.programs) for each in found.runs]


def test_a_large_run_comes_back_whole(machine):
    count = 5000
    steps = [program(Step(Op.READ, VA)), program(Step(Op.READ, NEXT, cpl=3))] * (count // 2)
    frames = np.arange(0x200_0000, 0x200_0000 + 2000 * 0x1000, 0x1000, dtype=np.uint64)
    run = make_run(*steps)
    full = (frames[:, None] + np.arange(0, 0x1000, 8, dtype=np.uint64)).ravel()
    words = np.concatenate([run.words, np.stack([full, full ^ np.uint64(0xABCD)], axis=1)])
    run = replace(run, words=words)
    assert 8 << 20 < size_of([run]) < 16 << 20
    (result,) = boot(machine, [run]).runs
    seen = [each.steps[0].seen for each in result.programs]
    assert [MARKER, MARKER + 1] * (count // 2) == seen


def test_serial_line_and_memory_say_the_same(machine, qemu, monkeypatch):
    runs = [run for run, _ in RUNS.values()]
    assert Output.MEMORY == machine.output
    memory = boot(machine, runs)
    monkeypatch.setattr(machine, "output", Output.SERIAL | Output.DEBUG_PORT)
    assert memory.runs == boot(machine, runs).runs
