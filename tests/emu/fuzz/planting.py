"""Planted in the program for a test: a walker with a bug, an emulator that crashes or hangs."""

import faulthandler
import os
import signal
import time

import crosswalk.emu.cli.replay
from crosswalk.emu.check.composites import CompositeChecker
from crosswalk.emu.findings.findings import CompositeFinding
from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate import generate
from crosswalk.emu.probe import Prober
from crosswalk.emu.probe.many import ManyProber
from crosswalk.walker.access import AccessType
from tests.emu.fuzz.hunted_bugs import HUNTED, PWT, path_of


def bug_named(name):
    (bug,) = [bug for bug in HUNTED if bug.name == name]
    return bug


def first_composite(predict):
    """The first finding of a composite by a walker with a bug, in layouts of one seed."""
    executor = Executor(predict)
    for index in range(60):
        found = executor.run(lambda: generate(11, index, accesses=4096), cross=True)  # noqa: B023  # At once.
        for each in found.findings:
            if isinstance(each, CompositeFinding):
                return each
    raise AssertionError("no composite shows it in 60 layouts")


def plant_walker(monkeypatch, predict):
    """The built-in walker, in campaigns, reductions and replays, is `predict`."""
    defaults = (predict, *Executor.__init__.__defaults__[1:])
    monkeypatch.setattr(Executor.__init__, "__defaults__", defaults)
    monkeypatch.setattr(CompositeChecker.__init__, "__defaults__", (predict,))
    monkeypatch.setattr(crosswalk.emu.cli.replay, "translate_many", predict)


def plant_emulator(monkeypatch, sick, act):
    """The emulator does `act` where `sick(path, context, accesses)` says so of any access."""
    place = {}
    init, enter, probe = Prober.__init__, Prober.enter, Prober.probe

    def begin(self, memory, context, *rest, **more):
        place["now"] = memory, context
        return init(self, memory, context, *rest, **more)

    def move(self, memory, context, *rest, **more):
        place["now"] = memory, context
        return enter(self, memory, context, *rest, **more)

    def make(self, accesses, *rest, **more):
        memory, context = place["now"]
        if len(accesses) and sick(path_of(memory, context, accesses.va), context, accesses).any():
            act()
        return probe(self, accesses, *rest, **more)

    monkeypatch.setattr(Prober, "__init__", begin)
    monkeypatch.setattr(Prober, "enter", move)
    monkeypatch.setattr(Prober, "probe", make)
    one_at_a_time(monkeypatch)


def one_at_a_time(monkeypatch):
    """Each case is made by a prober of its own, in which something is planted."""
    monkeypatch.setattr(ManyProber, "probe", lambda self, cases: [self.alone(it) for it in cases])


def crash(name="SIGSEGV"):
    """Die of this signal, as the emulator would."""
    faulthandler.disable()
    signal.signal(signal.Signals[name], signal.SIG_DFL)
    os.kill(os.getpid(), signal.Signals[name])


def hang():
    """Never come back, as the emulator would."""
    while True:
        time.sleep(1000)


def sick(path, context, accesses):
    """Stores by CPL 3 below a PML4E with PWT and a last entry with bit 9, 10 or 11."""
    stores = (accesses.type == AccessType.WRITE) & (accesses.cpl == 3)
    return stores & path.has(4, PWT) & path.leaf(7 << 9)
