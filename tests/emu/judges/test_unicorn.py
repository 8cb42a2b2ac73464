"""The emulated CPU as a judge says what the probe observes, and names what it can't be asked."""

import faulthandler
import os
import signal
from dataclasses import replace

from crosswalk.emu.judges.judge import Question, Reason, Unjudged
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.probe import ProbeError, Prober
from crosswalk.emu.probe.composite import CompositeProber
from crosswalk.emu.probe.composites import Composites
from crosswalk.emu.probe.many import FEW, ManyProber
from crosswalk.emu.probe.sequences import Runner
from crosswalk.emu.report.composites import load_composite
from crosswalk.walker import SparseWords
from crosswalk.walker.columns import Accesses
from crosswalk.walker.control import CR4
from crosswalk.walker.tlb import load_sequence
from tests.emu.accesses import columns, every, read
from tests.emu.case_files import COMPOSITE_CASES, KNOWN_SEQUENCE_FILES
from tests.emu.composites import composite
from tests.tables import OPEN, P, PageTables, context

VA = 0x40_0000


def question(*accesses, mode=4, ram=1 << 24, **control):
    """A question about a page at VA, its frame 0x8000, with a CPU of 40 bits and 4-level paging."""
    tables = PageTables(mode).map(VA, 0x8000, OPEN)
    registers = replace(context(mode), **control)
    return Question(SparseWords([(0, ram)], tables.words), registers, Accesses.of(accesses))


def probed(asked):
    return columns(Prober(asked.memory, asked.context).probe(asked.accesses))


def test_what_it_says_is_what_a_prober_observes():
    many = [read(VA + at) for at in range(FEW + 1)]
    asked = [
        question(*every(VA), *every(0x123)),
        question(*many),
        question(*every(VA), mode="32-bit"),
        question(*every(VA), mode="PAE"),
    ]
    judged = UnicornJudge().accesses(asked)
    for one, said in zip(asked, judged, strict=True):
        assert (probed(one), one.context) == (columns(said.outcomes), said.context)
        assert not said.why.any()
        assert not said.unproved.any()
        assert () == said.reasons


def test_what_the_cpu_lacks_is_not_shown_and_named():
    asked = question(*every(VA), cr4=CR4.PAE | CR4.LASS)
    (judged,) = UnicornJudge().accesses([asked])
    # A supervisor may read and write the lower half while SMAP is clear, but not fetch.
    assert [0, 0, 1, 0, 0, 0] == judged.why.tolist()
    lacks = "the CPU has no linear-address-space separation"
    assert (Reason(Unjudged.NOT_SHOWN, lacks),) == judged.reasons


def test_a_question_that_cant_be_asked_is_named_without_its_addresses_and_stops_no_other():
    nowhere = question(read(VA), cr3=0x1_0000_0000)
    judged = UnicornJudge().accesses([nowhere, question(read(VA))])
    assert (
        Reason(Unjudged.NOT_SHOWN, "CR3 … points to no RAM of the emulated machine"),
    ) == judged[0].reasons
    assert [[1], [0]] == [each.why.tolist() for each in judged]


def test_what_is_no_outcome_is_an_end_of_its_own(monkeypatch):
    def fail(*_):
        raise ProbeError("the emulator changed the word at 0x1234")

    monkeypatch.setattr(Prober, "probe", fail)
    monkeypatch.setattr(ManyProber, "probe", lambda self, cases: list(map(self.alone, cases)))
    (judged,) = UnicornJudge().accesses([question(read(VA))])
    assert (Reason(Unjudged.ENDED, "the emulator changed the word at …"),) == judged.reasons


def test_what_kills_the_emulator_is_that_questions_outcome_alone(monkeypatch):
    probe = ManyProber.probe

    def die(self, cases):
        if any(int(accesses.va[0]) == 0xDEAD for *_, accesses in cases):
            faulthandler.disable()  # The crash is meant: pytest need not show where.
            os.kill(os.getpid(), signal.SIGABRT)
        return probe(self, cases)

    monkeypatch.setattr(ManyProber, "probe", die)
    asked = [question(read(VA)), question(read(0xDEAD)), question(read(VA + 1))]
    judged = UnicornJudge(seconds=60).accesses(asked)
    assert [[0], [1], [0]] == [each.why.tolist() for each in judged]
    ((reason,),) = [each.reasons for each in judged if each.reasons]
    assert Unjudged.ENDED is reason.kind
    assert "SIGABRT" in reason.text


def test_composites_are_those_of_the_prober_and_others_named():
    case = load_composite(COMPOSITE_CASES / "locked-rmw-reads-first.json")
    memory, registers = case.case.memory(), case.case.context()
    # The second reaches a table: the root's own page.
    tables = PageTables().map(VA, 0x1000, OPEN)
    table = SparseWords([(0, 1 << 24)], tables.words), context(4), composite("rmw:xadd", VA)
    judged = UnicornJudge().composites([(memory, registers, case.composite), table])
    seen = CompositeProber(memory, registers).probe(case.composite)
    for name in type(seen).__slots__:
        assert getattr(seen, name).tolist() == getattr(judged[0].outcomes, name).tolist()
    assert [[0], [1]] == [each.why.tolist() for each in judged]
    text = "a page that it may reach has no RAM, or is a paging structure"
    assert (Reason(Unjudged.NOT_SHOWN, text),) == judged[1].reasons


def test_a_composite_that_may_reach_a_page_without_ram_has_an_outcome_if_it_faults_before():
    tables = PageTables().map(VA, 0x8000, OPEN).map(VA + 0x1000, 1 << 30, OPEN)
    for rights, why in ((P, 0), (OPEN, 1)):
        tables.map(VA, 0x8000, rights)
        memory = SparseWords([(0, 1 << 24)], tables.words)
        some = composite("cross:write", VA + 0xFFC, cpl=3)
        (judged,) = UnicornJudge().composites([(memory, context(4), some)])
        assert [why] == judged.why.tolist()
        assert [7 if why == 0 else 0] == judged.outcomes.error_code[:, 0].tolist()


def test_composites_without_what_the_cpu_lacks_are_made():
    tables = PageTables().map(VA, 0x8000, OPEN)
    registers = replace(context(4), cr4=CR4.PAE | CR4.LASS)
    both = Composites.join([composite("twice:read+execute", VA), composite("twice:read+read", VA)])
    (judged,) = UnicornJudge().composites(
        [(SparseWords([(0, 1 << 24)], tables.words), registers, both)]
    )
    assert [1, 0] == judged.why.tolist()
    assert 0x8000 == int(judged.outcomes.pa[1, 0])
    assert not judged.outcomes.pa[0].any()


def test_sequences_are_those_of_the_runner():
    sequences = [load_sequence(each).sequence for each in sorted(KNOWN_SEQUENCE_FILES.iterdir())]
    assert len(sequences) > 4
    judged = UnicornJudge().sequences(sequences)
    assert [Runner().run(each) for each in sequences] == [each.answer for each in judged]


def test_a_sequence_that_cant_be_run_is_named():
    sequence = load_sequence(next(iter(sorted(KNOWN_SEQUENCE_FILES.iterdir())))).sequence
    wide = replace(sequence, context=replace(sequence.context, maxphyaddr=46))
    (judged,) = UnicornJudge().sequences([wide])
    assert Unjudged.NOT_SHOWN is judged.answer.kind
    assert "MAXPHYADDR of at most 40" in judged.answer.text


def test_the_version_names_the_emulator_and_no_path():
    assert UnicornJudge().version.startswith("Unicorn 2.")
