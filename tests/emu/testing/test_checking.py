import faulthandler
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from crosswalk.emu.probe.many import Observation
from crosswalk.emu.testing import referee
from crosswalk.emu.testing.checking import Checker, WrongWalker, check_walker
from crosswalk.emu.testing.paths import ROOT, Path, layout_of
from crosswalk.emu.testing.referee import EmulatorFailure, Referee
from crosswalk.emu.testing.strategies import layouts
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.bulk import translate_many
from crosswalk.walker.columns import Accesses
from crosswalk.walker.context import CR4, PagingContext
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Case, Cpu, Probe, load_case
from crosswalk.walker.outcome import PageFault, Translation
from crosswalk.walker.translate import translate
from tests.emu.case_files import KNOWN_CASES

CONTEXT = PagingContext(cr3=ROOT)
WRITE = Access(0, AccessType.WRITE)


@pytest.fixture(scope="module")
def check():
    checker = Checker()
    yield checker
    checker.close()


def page(*flips, access=WRITE):
    """A layout with one page, and one access to it."""
    return layout_of(CONTEXT, [Path((0,) * 5, 1, flips=flips)], Accesses.of([access]))


def whole(memory, context, access):
    return translate(memory, context, access)


whole.claims = "translation,rights,faults,marks"


def mapped(memory, context, access):
    """Where a page is, by the rules of reads, keys away; no word about rights."""
    context = replace(context, cr4=context.cr4 & ~CR4.PKE)
    answer = translate(memory, context, Access(access.va, AccessType.READ, 0, True))
    return answer.pa if isinstance(answer, Translation) else None


@settings(max_examples=40)
@given(layout=layouts())
def test_the_walker_of_this_project_is_right(check, layout):
    check(whole, layout)
    check("bulk", layout)


@settings(max_examples=20)
@given(layout=layouts())
def test_a_walker_without_rights_is_held_to_the_pages_alone(check, layout):
    check(mapped, layout)


def test_where_a_walker_is_wrong_is_said_with_its_walk(check):
    def broken(memory, context, access):
        return access.va + 0x100000

    broken.claims = "translation,rights"
    with pytest.raises(WrongWalker) as caught:
        check(broken, page((1, 1)))
    lines = str(caught.value).splitlines()
    manual = (
        'Intel SDM vol. 3A, "Determination of Access Rights"; '
        'AMD APM vol. 2, "Page-Translation-Table Entry Fields"'
    )
    assert [
        "broken is wrong about 1 of 1 accesses; the first:",
        "  access:    write of 0x0 at CPL 0",
        "  rule:      R/W of a PDE: says allowed, it is refused",
        f"  manual:    {manual}",
        "  walker:    allowed, pa 0x100000",
        "  predicted: #PF, error code 0x3 (P W/R), CR2 0x0",
        "  observed:  #PF, error code 0x3 (P W/R), CR2 0x0",
        "  PML4E[0]     at 0x00000001000 = 0x0000000000002007  table  RW US",
        "  PDPTE[0]     at 0x00000002000 = 0x0000000000003007  table  RW US",
        "  PDE[0]       at 0x00000003000 = 0x0000000000004005  table  US  <-- R/W clear",
        "  PTE[0]       at 0x00000004000 = 0x0000000000100007  leaf  RW US",
        "  under 4-level paging, CR3 0x1000, WP NXE, MAXPHYADDR 40",
    ] == lines[:12]
    assert ["write"] == [probe.access for probe in caught.value.case.probes]


def test_an_answer_that_no_case_file_could_hold_is_wrong_too(check):
    with pytest.raises(WrongWalker, match="mapped, pa 0xffffffffffffffff"):
        check(lambda *_: (1 << 64) - 1, page())


def test_what_a_walker_does_not_claim_is_not_held_against_it(check):
    def refuses(memory, context, access):
        return PageFault(0xFFFF, 1)

    refused = page((1, 1))
    with pytest.raises(WrongWalker):
        check(refuses, refused)
    check(refuses, refused, claims="translation,rights")
    with pytest.raises(WrongWalker, match=r"walker:    #PF, error code 0xffff .*"):
        check(refuses, refused, claims="rights,faults")


def test_the_emulators_known_faults_are_not_held_against_a_walker(check):
    for path in sorted(KNOWN_CASES.glob("*.json")):
        check(whole, load_case(path))


def test_a_case_without_probes_is_checked_everywhere(check):
    entries = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5005}
    case = Case(cpu=Cpu(cr3=0x1000), ram=((0, 0x10000),), entries=entries)
    check(whole, case)

    def broken(memory, context, access):
        answer = translate(memory, context, access)
        return answer if access.type is not AccessType.WRITE else translate(
            memory, context, Access(access.va, AccessType.READ, access.cpl)
        )  # fmt: skip

    broken.claims = "rights,faults"
    with pytest.raises(WrongWalker, match="write of 0x0 at CPL 0"):
        check(broken, case)


def test_a_walker_in_a_process_of_its_own_may_die(check, tmp_path):
    source = tmp_path / "dies.py"
    source.write_text("import os\ndef walker(*_):\n    os.abort()\n")
    with pytest.raises(WrongWalker, match=r"gave no answer: .*died of SIGABRT"):
        check(f"python:{source}:walker", page())


def test_what_a_function_raises_is_raised(check):
    def raises(memory, context, access):
        raise ZeroDivisionError("in the walker")

    with pytest.raises(ZeroDivisionError, match="in the walker"):
        check(raises, page())


@pytest.mark.parametrize("answer", ["0x1000", True, 1.5, -1])
def test_nonsense_is_no_answer(check, answer):
    with pytest.raises(WrongWalker, match="gave no answer"):
        check(lambda *_: answer, page())


def test_a_walker_that_there_is_not_is_bad_input(check):
    with pytest.raises(BadInput, match="none of"):
        check("nobody", page())
    with pytest.raises(BadInput, match="'rigths' is none of"):
        check(whole, page(), claims="rigths")


def test_the_function_is_the_same_as_a_checker():
    check_walker(whole, page())
    with pytest.raises(WrongWalker):
        check_walker(lambda *_: None, page())


class Mortal:
    """A stand of which an engine dies, hangs or fails at the address that says so."""

    def probe(self, cases):
        ((_, _, accesses),) = cases
        first = int(accesses.va.max(initial=0))
        if first == 0x1000:
            os.kill(os.getpid(), signal.SIGSEGV)
        if first == 0x2000:
            signal.pause()
        if first == 0x3000:
            raise ValueError("no outcome")
        made = translate_many(page().memory(), CONTEXT, accesses)
        return [Observation(np.zeros(len(accesses), np.uint8), made)]


@pytest.mark.parametrize(
    ("va", "how"), [(0x1000, "the emulator died of SIGSEGV"), (0x2000, "hangs: no end after 0.5 s"),
                    (0x3000, "ValueError: no outcome")]
)  # fmt: skip
def test_an_emulator_that_fails_is_said_to_and_another_answers(va, how, monkeypatch):
    monkeypatch.setattr(referee, "ManyProber", Mortal)
    monkeypatch.setattr(referee, "_SECONDS", 0.5)
    faulthandler.disable()
    judge = Referee()
    memory = page().memory()
    with pytest.raises(EmulatorFailure, match=how):
        judge.truth(memory, CONTEXT, Accesses.of([Access(va, AccessType.READ)]))
    outcomes, unasked = judge.truth(memory, CONTEXT, Accesses.of([Access(0, AccessType.READ)]))
    assert (1, [False]) == (len(outcomes), unasked.tolist())
    judge.close()


WIDE = Case(
    cpu=Cpu(cr3=0x1000, maxphyaddr=46),
    ram=((0, 0x10000),),
    entries={0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 1 << 41 | 0x7007},
    probes=(Probe(va=0x123, access="read"),),
)
"""A page at 2^41, which the emulated CPU can't be asked for."""


def test_what_the_emulated_cpu_lacks_is_held_to_the_prediction_and_said_so(check):
    check(whole, WIDE)
    check(lambda *_: (1 << 41) + 0x7123, WIDE)
    with pytest.raises(WrongWalker) as caught:
        check(lambda *_: 0x7123, WIDE)
    assert "  predicted: ok, pa 0x20000007123\n" in str(caught.value)
    assert "  observed:  nothing, for want of a feature\n" in str(caught.value)
    _, unasked = Referee().truth(
        WIDE.memory(), WIDE.context(), Accesses.of([Access(0x123, AccessType.READ)])
    )
    assert [True] == unasked.tolist()


def test_a_probe_of_a_case_asks_for_what_it_says(check):
    case = Case(
        cpu=Cpu(cr3=0x1000),
        ram=((0, 0x10000),),
        entries={0x1000: 0x2007},
        probes=(Probe(va=0x1234, access="execute", cpl=3),),
    )
    asked = []

    def walker(memory, context, access):
        asked.append(access)

    check(walker, case)
    assert [Access(0x1234, AccessType.EXECUTE, 3, False)] == asked
