"""Accesses under pairs of tables in real machines: VMX in Bochs, SVM in QEMU."""

from collections import Counter
from dataclasses import replace

import pytest

from crosswalk.emu.check.nested import allowed_by
from crosswalk.emu.judges.judge import Reason, Unjudged
from crosswalk.emu.judges.nested.judge import OWN_FRAMES, NestedJudge
from crosswalk.emu.judges.nested.svm import Svm
from crosswalk.emu.judges.nested.vmx import Vmx
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.monitor.machines import BochsHost, QemuHost
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import EFER
from crosswalk.walker.control import Vendor
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested.context import EptContext, NestedContext
from crosswalk.walker.nested.outcome import EptViolation, NestedPageFault, Qualification
from crosswalk.walker.nested.translate import nested_outcomes
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, PageFault, Translation
from tests.emu.judges.nested.grid import HOST, PAGES, VA, ept_grid, npt_grid

AMD = CpuWish(maxphyaddr=40, vendor=Vendor.AMD)
_NOT_CANONICAL = 0x8000_0000_0000


class SwitchableVmx(Vmx):
    """With `lies` it leaves mode-based execute control off."""

    lies = False

    def enter(self, context):
        host = replace(context.ept, mbec=context.ept.mbec and not self.lies)
        return super().enter(NestedContext(context.guest, host))


class SwitchableSvm(Svm):
    """With `lies` it has the host's NXE the other way round."""

    lies = False

    def enter(self, context):
        efer = context.npt.efer ^ (int(EFER.NXE) if self.lies else 0)
        host = replace(context.npt, efer=efer)
        return super().enter(NestedContext(context.guest, host))


def qemu_of(text):
    return QemuHost(text.partition(":")[2] or "qemu-system-x86_64", wish=AMD)


@pytest.fixture(scope="module")
def svm(qemu):
    """A judge: SVM in QEMU."""
    with NestedJudge(qemu_of(qemu), SwitchableSvm(OWN_FRAMES)) as judge:
        yield judge


@pytest.fixture(scope="module")
def vmx(bochs3):
    """A judge: VMX in Bochs."""
    with NestedJudge(BochsHost(bochs3), SwitchableVmx()) as judge:
        yield judge


def as_qemu(outcome):
    """QEMU reports a reserved bit without P."""
    if isinstance(outcome, NestedPageFault) and outcome.error_code & ErrorCode.RSVD:
        return replace(outcome, error_code=outcome.error_code & ~int(ErrorCode.P))
    return outcome


def as_bochs(outcome):
    """Bochs sets bit 13 of the qualification where bit 6 says that a user may execute.

    Not for a fetch.
    """
    if not isinstance(outcome, EptViolation) or outcome.qualification & Qualification.FETCH:
        return outcome
    bits, user = outcome.qualification, Qualification.USER_EXECUTABLE
    if not bits & user or outcome.open & user:
        return outcome
    return replace(outcome, qualification=bits ^ user | Qualification.SHADOW_STACK)


def outcomes(judge, question, as_machine=lambda outcome: outcome):
    """How many outcomes of each kind a judge has that the walker predicts; those that differ."""
    (judged,) = judge.ask([question])
    kinds, differ = Counter(), []
    for access, answer in zip(question.accesses, judged.answers, strict=True):
        predicted = nested_outcomes(judged.memory, judged.context, access)
        expected = tuple(map(as_machine, predicted))
        if isinstance(answer, Reason) or not allowed_by(judged.memory, expected, answer):
            differ.append((access, predicted, answer))
        else:
            kinds[type(answer).__name__] += 1
    return dict(kinds), differ


@pytest.mark.parametrize("accessed_dirty", [False, True])
@pytest.mark.parametrize("mbec", [False, True])
def test_bochs_does_what_is_predicted_under_all_rights_of_ept(vmx, mbec, accessed_dirty):
    kinds, differ = outcomes(vmx, ept_grid(mbec=mbec, accessed_dirty=accessed_dirty), as_bochs)
    assert [] == differ
    expected = {"EptMisconfiguration": 36, "EptViolation": 54, "PageFault": 48, "Translation": 54}
    assert expected == dict(sorted(kinds.items()))


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("host_nxe", [False, True])
def test_qemu_does_what_is_predicted_under_all_rights_of_nested_entries(svm, host_nxe, used):
    kinds, differ = outcomes(svm, npt_grid(host_nxe=host_nxe, used=used), as_qemu)
    assert [] == differ
    reached = 24 if host_nxe else 15
    expected = {"NestedPageFault": 144 - reached, "PageFault": 48, "Translation": reached}
    assert expected == dict(sorted(kinds.items()))


def test_a_and_d_of_nested_leaves_are_set_by_qemu(svm):
    question = npt_grid()
    access = Access(VA + 14 * FRAME + 3, AccessType.WRITE)
    (judged,) = svm.ask([replace(question, accesses=(access,))])
    leaf = (HOST + 3) * FRAME + 8 * (PAGES + 14)
    (answer,) = judged.answers
    assert Translation((PAGES + 14) * FRAME + 3, entries=answer.entries) == answer
    assert judged.memory.word(leaf) | 0x60 == dict(answer.entries)[leaf]


def test_writes_to_each_byte_of_a_word_are_found_with_the_marks_beside_them(svm, vmx):
    for judge, question in ((svm, npt_grid()), (vmx, ept_grid(accessed_dirty=True))):
        page = VA + (14 if judge is svm else 30) * FRAME
        accesses = tuple(Access(page + at, AccessType.WRITE, 0) for at in range(9))
        assert ({"Translation": 9}, []) == outcomes(judge, replace(question, accesses=accesses))


def test_writes_into_entries_of_their_own_walk_show_the_marks_all_the_same(svm):
    # The page of guest-physical 3 * FRAME is the host's last table, which maps itself there.
    question = npt_grid(used=False)
    words = bytearray(question.memory.read(0, 40 * FRAME))
    entry = (7 * FRAME) + 8 * 40
    words[entry : entry + 8] = (3 * FRAME | 7).to_bytes(8, "little")
    memory = type(question.memory)([(0, bytes(words))])
    accesses = tuple(Access(VA + 40 * FRAME + 8 * 3 + at, AccessType.WRITE, 3) for at in range(4))
    asked = replace(question, memory=memory, accesses=accesses)
    assert ({"Translation": 4}, []) == outcomes(svm, asked)


@pytest.mark.parametrize("kind", AccessType)
@pytest.mark.parametrize("cpl", [0, 3])
def test_addresses_that_are_not_canonical_are_general_protection(svm, vmx, kind, cpl):
    access = Access(_NOT_CANONICAL, kind, cpl)
    for judge, question in ((svm, npt_grid()), (vmx, ept_grid())):
        (judged,) = judge.ask([replace(question, accesses=(access,))])
        assert (GeneralProtection(),) == judged.answers


def test_the_guests_registers_decide(svm, vmx):
    # A write to a page of the guest that isn't writable, by the supervisor; CR0.WP.
    for judge, make in ((svm, npt_grid), (vmx, ept_grid)):
        for wp in (False, True):
            question = make(wp=wp)
            entry = 7 * FRAME + 8 * 30
            words = bytearray(question.memory.read(0, 40 * FRAME))
            words[entry] |= 0x60
            words[entry] &= ~2
            memory = type(question.memory)([(0, bytes(words))])
            access = Access(VA + 30 * FRAME, AccessType.WRITE)
            asked = replace(question, memory=memory, accesses=(access,))
            kinds, differ = outcomes(judge, asked)
            assert [] == differ
            assert {"PageFault" if wp else "Translation": 1} == kinds


def test_what_a_machine_lacks_is_not_shown(svm, vmx):
    ept, npt = ept_grid(), npt_grid()
    five = replace(ept, context=replace(ept.context, host=EptContext.at(HOST * FRAME, levels=5)))
    gmet = replace(npt, context=replace(npt.context, gmet=True))
    for judge, question, text in (
        (svm, ept, "the CPU has nested paging, not EPT"),
        (svm, gmet, "the CPU has no GMET"),
        (vmx, npt, "the CPU has EPT, not AMD's nested paging"),
        (vmx, five, "5-level paging under EPT, and 5-level EPT"),
    ):
        (judged,) = judge.ask([replace(question, accesses=question.accesses[:2])])
        assert (Reason(Unjudged.NOT_SHOWN, text),) * 2 == judged.answers


def test_a_guest_without_a_first_table_is_asked_by_fetches_under_svm(svm, vmx):
    # The host's entry for the guest's first table isn't present.
    for judge, question in ((svm, npt_grid()), (vmx, ept_grid())):
        words = bytearray(question.memory.read(0, 40 * FRAME))
        entry = (HOST + 3) * FRAME + 8 * 4
        words[entry : entry + 8] = bytes(8)
        memory = type(question.memory)([(0, bytes(words))])
        accesses = tuple(Access(VA, kind, cpl) for kind in AccessType for cpl in (0, 3))
        kinds, differ = outcomes(judge, replace(question, memory=memory, accesses=accesses))
        assert [4, 0][judge is vmx] == len(differ)
        assert {Reason} == {type(answer) for _, _, answer in differ} or judge is vmx
        assert [2, 6][judge is vmx] == sum(kinds.values())


def test_versions_say_what_machine_and_cpu_it_was(svm, vmx):
    for judge, question, start, end in (
        (svm, npt_grid(), "QEMU ", "SVM, 40 bits"),
        (vmx, ept_grid(), "Bochs 3", "VMX, 40 bits"),
    ):
        next(judge.ask([replace(question, accesses=())]))
        assert judge.version.startswith(start)
        assert judge.version.endswith(end)


@pytest.mark.parametrize("judge", ["svm", "vmx"])
def test_page_faults_of_the_guest_come_first(request, judge):
    machine, make = request.getfixturevalue(judge), npt_grid if judge == "svm" else ept_grid
    question = replace(make(), accesses=(Access(VA + 4 * FRAME + 9, AccessType.READ, 3),))
    (judged,) = machine.ask([question])
    assert (PageFault(5, VA + 4 * FRAME + 9),) == judged.answers


def test_a_machine_in_another_state_is_caught(svm, vmx, monkeypatch):
    monkeypatch.setattr(SwitchableVmx, "lies", True)
    monkeypatch.setattr(SwitchableSvm, "lies", True)
    _, differ = outcomes(vmx, ept_grid(mbec=True), as_bochs)
    assert len(differ) > 9
    _, differ = outcomes(svm, npt_grid(), as_qemu)
    assert len(differ) > 9


def test_an_access_that_ends_bochs_takes_no_other_with_it(vmx):
    # Bochs 3.0 panics at a supervisor's write, WP clear, to a leaf that has neither R/W nor D.
    question = ept_grid(wp=False)
    words = bytearray(question.memory.read(0, 40 * FRAME))
    words[7 * FRAME + 8 * 30] &= ~0x42
    memory = type(question.memory)([(0, bytes(words))])
    page = VA + 30 * FRAME
    other, fatal = Access(page + 0x400, AccessType.READ), Access(page, AccessType.WRITE)
    deaths = vmx.deaths
    (judged,) = vmx.ask([replace(question, memory=memory, accesses=(other, fatal, other))])
    before, answer, behind = judged.answers
    assert isinstance(before, Translation)
    assert isinstance(behind, Translation)
    if vmx.deaths > deaths:
        assert (1, Unjudged.ENDED) == (vmx.deaths - deaths, answer.kind)
        assert "panics: " in answer.text
    else:
        assert isinstance(answer, Translation)
