"""The built-in guest under EPT with mode-based execute control, in Bochs; and planted bugs."""

import numpy as np
import pytest

from crosswalk.emu.cli.protect_guest import scenario_lines, scenario_record
from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.emu.monitor.monitor import Monitor
from crosswalk.emu.protect import vmx
from crosswalk.emu.protect.agent import Operation
from crosswalk.emu.protect.attack import (
    GuestFault,
    NotStopped,
    Other,
    VmExited,
    run_attack,
    run_attacks,
)
from crosswalk.emu.protect.attack_kinds import attacks_for
from crosswalk.emu.protect.attacks import TEXT, USER_JIT_FRAME, USER_RUN_BY_KERNEL
from crosswalk.emu.protect.events import same_event
from crosswalk.emu.protect.hypervisor import Hypervisor
from crosswalk.emu.protect.permissions import everything
from crosswalk.emu.protect.probes import Probed, probe_forged, probe_mappings
from crosswalk.emu.protect.scenario import run_scenario, stopped_by_right
from crosswalk.emu.protect.subject import protected_guest
from crosswalk.emu.protect.updates import UPDATES, run_updates
from crosswalk.guest import places
from crosswalk.guest.monitor import commands
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.architecture import EFER
from crosswalk.walker.memory import FRAME
from crosswalk.walker.nested import EptViolation
from crosswalk.walker.protection.policy import TableKind, Use

MBEC = TableKind.EPT_MBEC
ALL = Use(everything(MBEC))
ROWS = {row.name: row for row in attacks_for(MBEC)}
SHORT = [name for name in ROWS if not name.startswith("malformed")]
KNOWN = "ept-user-execute-in-bit-13"


@pytest.fixture(scope="module")
def mbec_guest(bochs3):
    """The guest protected by EPT with MBEC, which tests put back before they use it."""
    with Monitor(BochsHost(bochs3)) as monitor:
        yield protected_guest(monitor, MBEC)


@pytest.fixture
def subject(mbec_guest):
    """The same, as it was when it had been given protection."""
    mbec_guest.restore()
    return mbec_guest


def mappings(subject, *names):
    chosen = [each for each in subject.booted.image.intended if each.name in names]
    assert len(chosen) == len(names)
    return chosen


def forged(subject, start, frames):
    return probe_forged(subject.agent, subject.hypervisor.granted, start=start, frames=frames)


def test_what_is_granted_has_execution_of_supervisor_and_user_apart(subject):
    granted = subject.hypervisor.granted
    assert Use.READ | Use.SUPERVISOR_EXECUTE == granted[TEXT // FRAME]
    assert ALL & ~Use.SUPERVISOR_EXECUTE == granted[USER_JIT_FRAME // FRAME]
    assert Use.READ | Use.WRITE == granted[places.POOL // FRAME]
    assert (subject.hypervisor.tables.read_back() == granted).all()


@pytest.mark.parametrize("name", SHORT)
def test_an_attack_ends_as_stated_and_works_where_nothing_is_protected(mbec_guest, name):
    (found,) = run_attacks(mbec_guest, [ROWS[name]], unprotected=stopped_by_right)
    assert [] == found.wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if name not in SHORT])
def test_a_malformed_hypercall_is_refused(mbec_guest, name):
    assert ROWS[name].expected == run_attack(mbec_guest, ROWS[name])


@pytest.mark.slow
def test_without_mode_based_execute_control_three_attacks_work(bochs3):
    rows = attacks_for(TableKind.EPT)
    with Monitor(BochsHost(bochs3)) as monitor:
        subject = protected_guest(monitor, TableKind.EPT)
        found = list(run_attacks(subject, rows, unprotected=stopped_by_right))
    assert [] == [line for each in found for line in each.wrong]
    stopped_by_mbec = [
        each.attack.name for each in found if each.result != ROWS[each.attack.name].expected
    ]
    assert 3 == len(stopped_by_mbec)
    assert USER_RUN_BY_KERNEL in stopped_by_mbec


def test_forged_tables_reach_what_is_granted_and_no_more(subject):
    probed = forged(subject, places.EXECUTABLE, 8)
    assert ([], {KNOWN: 2}) == (probed.divergences, dict(probed.known))
    assert 8 == probed.probes["read", "allowed"]
    assert 8 == probed.probes["execute", "nested fault"]
    probed = forged(subject, places.TEXT, 16)
    assert (0, {}) == (probed.divergent, dict(probed.known))
    assert 4 == probed.probes["execute", "allowed"]


def test_own_mappings_work_at_the_levels_they_are_meant_for(subject):
    own = mappings(subject, "text", "rodata", "user text", "user data", "user jit")
    probed = probe_mappings(subject.agent, own)
    assert [] == probed.divergences
    assert {
        ("read", "allowed"): 4 + 2 + 2 + 4 + 1,
        ("write", "allowed"): 4 + 1,
        ("execute", "allowed"): 4 + 2 + 1,
    } == dict(probed.probes)


def test_memory_is_put_back_whole(subject):
    run_attack(
        subject, ROWS["loads code of its own as a module: written, made read-only, reported, run"]
    )
    subject.guest.write(places.LARGE_DATA, b"changed!")
    subject.restore()
    whole = commands.compare(vmx.BASE, vmx.COPY, places.RAM_SIZE // 8)
    (answer,) = subject.guest.monitor.perform(whole)
    assert 0 == answer.words[0]


def test_what_the_cpu_wrote_and_nobody_noted_stays(subject, monkeypatch):
    """The planted twin: D bits of the EPT are what the restoring goes by."""
    subject.agent.do(Operation.STORE, places.KERNEL + places.LARGE_DATA, 0x1234)
    with monkeypatch.context() as planted:
        planted.setattr(type(subject.guest), "_note_dirty", lambda _self: None)
        subject.restore()
    assert 0x1234 == int(subject.guest.words([places.LARGE_DATA])[0])
    subject.guest.write(places.LARGE_DATA, bytes(8))


def test_the_tables_that_the_cpu_finds_are_those_of_the_host(subject):
    assert (subject.guest.nested_words() == subject.hypervisor.tables.words).all()
    subject.hypervisor.tables.set(TEXT, FRAME, ALL)
    assert 1 == np.count_nonzero(subject.guest.nested_words() != subject.hypervisor.tables.words)


@pytest.mark.parametrize(
    ("frame", "planted", "use"),
    [
        (places.TEXT, ALL & ~Use.USER_EXECUTE, "write"),
        (places.DATA + FRAME, ALL, "execute"),
        (USER_JIT_FRAME, ALL, "execute"),
    ],
)
def test_a_right_too_many_is_found(subject, frame, planted, use):
    subject.hypervisor.tables.set(frame, FRAME, planted)
    subject.guest.flush()
    probed = forged(subject, frame, 1)
    assert 1 == probed.divergent
    assert probed.divergences[0].startswith(f"{use}: {frame:#x}: not refused")


@pytest.mark.parametrize(
    ("name", "frame", "planted", "use"),
    [
        ("text", places.TEXT, Use.READ | Use.USER_EXECUTE, "execute"),
        ("data", places.DATA + FRAME, Use.READ, "write"),
        ("user jit", USER_JIT_FRAME, ALL & ~Use.USER_EXECUTE, "execute"),
        ("user data", places.USER_DATA_FRAME, Use.READ | Use.USER_EXECUTE, "write"),
    ],
)
def test_a_right_too_few_is_found(subject, name, frame, planted, use):
    subject.hypervisor.tables.set(frame, FRAME, planted)
    subject.guest.flush()
    probed = probe_mappings(subject.agent, mappings(subject, name))
    assert 1 == probed.divergent
    assert probed.divergences[0].startswith(f"{use}: {name} at ")
    assert "EPT violation" in probed.divergences[0]


def test_execution_by_supervisor_and_user_swapped_is_reported(subject, monkeypatch):
    restore = subject.restore

    def swapped(**options):
        restore(**options)
        subject.hypervisor.tables.set(USER_JIT_FRAME, FRAME, ALL & ~Use.USER_EXECUTE)
        subject.guest.flush()

    monkeypatch.setattr(subject, "restore", swapped)
    assert NotStopped() == run_attack(subject, ROWS[USER_RUN_BY_KERNEL])


@pytest.mark.parametrize("name", ["CR4.SMEP cleared", "CR4.SMAP cleared"])
def test_a_missing_intercept_is_reported(subject, monkeypatch, name):
    monkeypatch.setattr(type(subject.guest.pins), "mask", lambda _self, _name: 0)
    assert NotStopped() == run_attack(subject, ROWS[name])


def test_a_missing_intercept_of_efer_is_reported(subject):
    subject.guest.monitor.write(vmx.MSR_BITMAP, np.zeros(512, np.uint64))
    # NX is then a reserved bit, and the mailbox can't be written.
    assert GuestFault(0xB) == run_attack(subject, ROWS["EFER.NXE cleared"])
    assert not subject.guest.context.efer & EFER.NXE
    subject.guest.enter()
    assert isinstance(run_attack(subject, ROWS["EFER.NXE cleared"]), VmExited)


def test_a_register_that_isnt_pinned_is_reported(subject, monkeypatch):
    monkeypatch.setattr(vmx, "cleared", lambda *_: [])
    assert NotStopped() == run_attack(subject, ROWS["CR0.WP cleared"])


def test_a_refusal_that_changes_nested_tables_is_reported(subject, monkeypatch):
    require = Hypervisor._require

    def careless(self, entries, allowed):
        self.tables.set(TEXT, FRAME, ALL)
        self.guest.flush()
        require(self, entries, allowed)

    monkeypatch.setattr(Hypervisor, "_require", careless)
    assert isinstance(run_attack(subject, ROWS["asks for text to be writable"]), Other)


def test_what_the_nested_walk_doesnt_predict_is_reported(subject, monkeypatch):
    monkeypatch.setattr(type(subject.guest), "predict", lambda _self, _access: None)
    assert "doesn't predict" in str(run_attack(subject, ROWS["rodata remapped writable"]))
    probed = forged(subject, places.TEXT, 1)
    assert "the nested walk predicts no event" in probed.divergences[0]


def test_a_departure_that_isnt_registered_is_a_divergence(subject, monkeypatch):
    monkeypatch.setattr(subject.guest, "_departures", ())
    probed = forged(subject, places.EXECUTABLE, 1)
    assert (1, 0) == (probed.divergent, sum(probed.known.values()))


def test_the_prediction_has_the_whole_qualification(subject):
    access = Access(places.KERNEL + TEXT, AccessType.WRITE)
    subject.agent.do(Operation.SET_CR0, 0x8000_0033 | 1 << 16)
    predicted = subject.guest.predict(access)
    assert not isinstance(predicted, EptViolation)
    result = subject.agent.do(Operation.STORE, access.va, 1)
    assert same_event(predicted, result.event)


def test_tables_that_arent_written_are_found(subject, monkeypatch):
    class Stale(type(subject.guest)):
        """A host that changes its own copy of the tables alone."""

        def flush(self):
            self._note_dirty()

    run_updates(subject, UPDATES[:1])
    monkeypatch.setattr(subject.guest, "__class__", Stale)
    (_, updated) = run_updates(subject, UPDATES[:2])
    assert any(line.startswith("write: 0x30000: not refused") for line in updated.wrong)


def test_the_scenario_is_reported(subject, monkeypatch):
    monkeypatch.setattr("crosswalk.emu.protect.scenario.UPDATES", UPDATES[:2])
    monkeypatch.setattr(
        "crosswalk.emu.protect.scenario.probe_mappings",
        lambda _agent, _intended: Probed(unbacked=7001),
    )
    rows = [ROWS[name] for name in ("text written through a new alias", USER_RUN_BY_KERNEL)]
    scenario = run_scenario(subject, frames=64, attacks=rows)
    assert ([], 0, 0) == (scenario.wrong, scenario.divergent, scenario.spared)
    assert {"r--": 29, "rw-": 7637, "r-s": 520, "r-u": 5, "rwu": 1} == scenario.frames
    record = scenario_record(scenario, 1.5, "Bochs 3.0")
    assert ("ept-mbec", "Bochs 3.0") == (record["tables"], record["machine"])
    assert {} == record["known_departures"]
    assert record["probes"] == record["agreements"] + record["known_divergences"] == 192 + 9
    lines = list(scenario_lines(scenario, 1.5, verbose=False, where="Bochs 3.0"))
    assert any("mode-based execute control, in Bochs 3.0" in line for line in lines)
    assert lines[-1].startswith("verdict: as stated: 192 accesses, 2 attacks stopped, 0 not")
