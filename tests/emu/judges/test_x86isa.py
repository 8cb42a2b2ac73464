"""x86isa as a judge: what ACL2 prints is read for what it proves; what can't be asked is named.

A program that answers as ACL2 does stands in for it, and the real one where there is one.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crosswalk.emu.check.judged import Status, access_verdicts
from crosswalk.emu.judges.judge import Question, Unjudged
from crosswalk.emu.judges.registry import open_judge
from crosswalk.emu.machines.iso import judges_folder
from crosswalk.walker import SparseWords
from crosswalk.walker.columns import Accesses
from crosswalk.walker.control import CR4, EFER, Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import load_case
from crosswalk.walker.tlb import load_sequence
from tests.emu.accesses import execute, read, write
from tests.emu.case_files import JUDGES_CASES, KNOWN_SEQUENCE_FILES
from tests.tables import GIB1, OPEN, PageTables, context

VA = 0x40_0000
UPPER = 0xFFFF_8000_0020_0000
FAKE = Path(__file__).with_name("fake_acl2.py").read_text("utf-8")


@pytest.fixture
def judge(tmp_path):
    """What makes a judge that asks the program, which does one thing wrong at an address."""
    made = []

    def make(wrong=None, at=None):
        path = tmp_path / f"acl2-{len(made)}"
        path.write_text(f"#!{sys.executable}\nWRONG, AT = {wrong!r}, {at!r}\n{FAKE}")
        path.chmod(0o755)
        made.append(open_judge(f"x86isa:{path}"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def question(*accesses, tables=None, mode=4, **control):
    """A question about 256 pages from VA on, and one in the upper half."""
    if tables is None:
        tables = PageTables(mode).map(UPPER, 0x9000, OPEN) if mode in {4, 5} else PageTables(mode)
        for number in range(256):
            tables.map(VA + (number << 12), 0x10_0000 + (number << 12), OPEN)
    registers = replace(context(mode, pke=False), **control)
    return Question(SparseWords([(0, 1 << 24)], tables.words), registers, Accesses.of(accesses))


def statuses(judge, asked):
    (judged,) = judge.accesses([asked])
    verdicts = access_verdicts(asked, judged, "x86isa").verdicts
    return [verdicts.of(row) for row in range(len(asked.accesses))]


AGREED = (Status.AGREED, "")
DIVERGED = (Status.DIVERGED, "")


def test_addresses_faults_and_changed_words_are_read(judge):
    asked = question(read(VA), write(VA + 0x1FFF), execute(UPPER), write(UPPER - 1), read(0))
    (judged,) = judge().accesses([asked])

    assert [0, 0, 0, 1, 1] == judged.outcomes.kind.tolist()
    assert [0x10_0000, 0x10_1FFF, 0x9000, 0, 0] == judged.outcomes.pa.tolist()
    assert UPPER - 1 == judged.outcomes.cr2[3]
    assert not judged.why.any()
    assert [AGREED] * 5 == statuses(judge(), asked)


def test_many_questions_of_many_rows_are_answered_by_one_process(judge):
    one = judge()
    many = [read(VA + (number << 12)) for number in range(256)]
    questions = [question(*many, *many, write(VA)), question(read(VA), tables=PageTables())]
    for asked in questions:
        assert [AGREED] * len(asked.accesses) == statuses(one, asked)
    assert "x86isa of ACL2 8.5, GenuineIntel of 52 bits" == one.version


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ("address", DIVERGED),
        ("garbled", (Status.ENDED, "it answers what is no outcome")),
        ("cut", (Status.ENDED, "it answers what is no outcome")),
        ("too large", (Status.ENDED, "it answers what is no outcome")),
        ("another row", (Status.ENDED, "it answers what is no outcome")),
        ("dies", (Status.ENDED, "died of SIGABRT")),
        (
            "error",
            (
                Status.ENDED,
                "it raises an error: in TOP-LEVEL:  The guard for the call of … is violated.",
            ),
        ),
        ("floods", (Status.ENDED, "too much output")),
        (
            "dies once",
            (Status.LOST, "it ended at it, but not when it was asked again, alone"),
        ),
    ],
)
def test_what_is_wrong_is_a_matter_of_the_row_at_which_it_is_wrong(judge, wrong, status):
    asked = question(*(read(VA + (number << 12)) for number in range(4)))
    wanted = [AGREED, status, AGREED, AGREED]
    assert wanted == statuses(judge(wrong, VA + 0x1000), asked)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("strays", "it changed a word that is on none of the walks"),
        ("unchecked", "it doesn't say which other words it changed"),
    ],
)
def test_without_proof_that_other_words_stayed_there_is_no_agreement(judge, wrong, reason):
    asked = question(read(VA), read(VA + 0x1000))
    assert [(Status.ENDED, reason)] * 2 == statuses(judge(wrong, VA), asked)


def test_after_some_deaths_it_is_asked_no_more(judge):
    asked = [question(read(VA)) for _ in range(10)]
    judged = judge("error", VA).accesses(asked)
    assert [Unjudged.ENDED] * 8 + [Unjudged.LOST] * 2 == [each.reasons[0].kind for each in judged]


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        ({"mode": 5}, "the model has 4-level paging alone"),
        ({"mode": "PAE"}, "the model has 4-level paging alone"),
        ({"cr4": CR4.PAE | CR4.PKE}, "the CPU has no protection keys for user pages"),
        ({"cr4": CR4.PAE | CR4.LASS}, "the CPU has no linear-address-space separation"),
        (
            {"vendor": Vendor.AMD, "efer": EFER.LME | EFER.LMA | EFER.UAIE},
            "a CPU of its vendor has no such registers",
        ),
    ],
)
def test_what_the_model_lacks_is_not_shown(judge, control, reason):
    (judged,) = judge().accesses([question(read(VA), **control)])
    (why,) = judged.reasons
    assert (Unjudged.NOT_SHOWN, reason) == (why.kind, why.text)
    # Whose registers they are depends on the case: that is told of it alone.
    assert ("vendor" in reason) == why.exact.startswith(f"{reason}: EFER = 0x")
    assert judged.why.all()


def test_rows_that_cant_be_asked_are_named_and_the_others_asked(judge):
    high = PageTables().map(VA, 0x8000).map(0, 0x9000)
    high.entries[high.entry_pa(VA, 2)] = 1 << 42 | OPEN
    found = statuses(judge(), question(read(VA), read(1 << 60), read(0), tables=high))
    reasons = [
        "a table at 4 TiB or above, which takes the model too much memory",
        "the model translates canonical addresses alone",
    ]
    assert [*((Status.NOT_SHOWN, each) for each in reasons), AGREED] == found


def test_it_is_asked_as_the_cpu_that_it_is(judge):
    tables = PageTables(4).map(0, 1 << 51, OPEN)
    asked = question(read(0), tables=tables, maxphyaddr=40, vendor=Vendor.AMD, page1gb=False)
    (judged,) = judge().accesses([asked])
    assert (52, Vendor.INTEL, True) == (
        judged.context.maxphyaddr,
        judged.context.vendor,
        judged.context.page1gb,
    )
    assert [AGREED] == statuses(judge(), asked)


def test_sequences_arent_shown(judge):
    (judged,) = judge().sequences(
        [load_sequence(KNOWN_SEQUENCE_FILES / "fault-keeps-tlb.json").sequence]
    )
    assert Unjudged.NOT_SHOWN is judged.answer.kind


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nobody", "/nobody: no such command"),
        (shutil.which("true"), "true: ended with status 0"),
    ],
)
def test_what_is_no_acl2_is_refused(path, message):
    with pytest.raises(BadInput, match=message):
        open_judge(f"x86isa:{path}").accesses([question(read(VA))])


def test_an_acl2_without_the_books_is_refused_with_what_it_says(judge):
    with pytest.raises(BadInput, match=r"no ACL2 with the books of x86isa: in \( INCLUDE-BOOK"):
        judge("no books").accesses([question(read(VA))])


@pytest.mark.slow
def test_the_model_agrees_but_for_what_is_registered():
    path = judges_folder() / "acl2" / "acl2"
    if not path.exists():
        pytest.skip("no ACL2 fetched by scripts/judges")
    judge = open_judge(f"x86isa:{path}")
    asked = question(read(VA), write(VA, 3), execute(UPPER), read(0), write(GIB1))
    assert [AGREED] * 5 == statuses(judge, asked)
    for name in ("xd-needed-in-every-entry", "rights-level-by-level"):
        case = load_case(JUDGES_CASES / f"{name}.json")
        accesses = Accesses.of([probe.asked for probe in case.probes])
        asked = Question(case.memory(), case.context(), accesses)
        assert [(Status.KNOWN, name)] * len(accesses) == statuses(judge, asked)
    judge.close()
