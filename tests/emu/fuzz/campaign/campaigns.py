"""Campaigns without an emulator: work that is told from its number."""

from collections import Counter

import numpy as np

from crosswalk.emu.findings.findings import Finding
from crosswalk.emu.findings.signature import Signature
from crosswalk.emu.fuzz.campaign import Campaign, Plan
from crosswalk.emu.fuzz.campaign.cluster import TIME_LIMIT
from crosswalk.emu.fuzz.campaign.store import Store
from crosswalk.emu.fuzz.campaign.work import Done, Failed, Task, work
from crosswalk.emu.fuzz.coverage import CoverageMap
from crosswalk.emu.fuzz.executor import LayoutResult
from crosswalk.emu.targets.tally import Tally
from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import ProcessEnded
from crosswalk.walker.formats import Case, Cpu, Probe

PLAN = Plan(accesses=16, guided=False)


def finding(rule, count=1, witness="walker"):
    case = Case(
        cpu=Cpu(cr3=0x1000),
        ram=((0, 0x10000),),
        entries={0x1000: 0x2007},
        probes=(Probe(va=0x1000 * len(rule), access="read"),),
    )
    return Finding(Signature(witness, rule, "ok", "#PF"), count, 0, case, case)


def told(task, change=tuple):
    """Every fifth layout shows a rule, each time one of three; each touches a cell of its own.

    `change` is made of its findings.
    """
    index = task.index
    findings = (finding(f"rule {index % 3}", index),) if index % 5 == 4 else ()
    known = Counter({"maxphyaddr-40": index % 2})
    found = LayoutResult(
        16 - len(findings) - known.total(),
        len(findings),
        known,
        Counter({"LAM": index % 3}),
        Counter(),
        index % 4,
        index % 2,
        Tally(),
        change(findings),
        np.zeros(0, np.bool_),
        {"probe": 0.5},
    )
    return Done.of(task, found, np.array([index % 700, 3], np.int32))


class Inline:
    """A pool that does everything at once, or in any order that its own chance likes."""

    def __init__(self, work=told, jobs=1):
        self.jobs, self._work, self.done = jobs, work, []

    def submit(self, task):
        def result():
            self.done.append(task)
            return self._work(task)

        return result

    def close(self):
        pass


def searched(folder, cases, plan=PLAN, work=told, jobs=1, seconds=None):
    """Run a campaign in a folder, as one process would."""
    store = Store(folder, plan)
    try:
        campaign = Campaign(plan, store)
        campaign.run(Inline(work, jobs), cases, seconds)
    finally:
        store.close()
    return campaign


def losing(task):
    """The same, but the eighth layout has no result."""
    return Failed("error", "no outcome at 0x1234, 5 times") if task.index == 7 else told(task)


def task(index, plan=PLAN):
    """The task of a pool for the layout of this number."""
    return Task(plan, index, CoverageMap().pack())


def result_of(result):
    """The number of a task that was done, or why it has no result."""
    try:
        done = result()
    except ProcessEnded as ended:
        return ended.how
    return done.how if isinstance(done, Failed) else done.index


def real_campaign(folder, jobs, cases, limit=TIME_LIMIT):
    """Run a campaign with the emulator and local workers in a folder."""
    plan = Plan(accesses=128)
    store = Store(folder, plan)
    pool = Pool(work, jobs, seconds=limit)
    try:
        search = Campaign(plan, store)
        search.run(pool, cases, None)
    finally:
        pool.close()
        store.close()
    return search
