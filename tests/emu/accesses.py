"""Accesses in few letters, and what the emulated CPU makes of them."""

from crosswalk.emu.probe import Prober
from crosswalk.walker.access import Access, AccessType
from crosswalk.walker.columns import Accesses, Outcomes


def read(va, cpl=0, *, ac=False):
    return Access(va, AccessType.READ, cpl, ac)


def write(va, cpl=0, *, ac=False):
    return Access(va, AccessType.WRITE, cpl, ac)


def execute(va, cpl=0, *, ac=False):
    return Access(va, AccessType.EXECUTE, cpl, ac)


def every(va):
    """All three types at both privileges."""
    return [make(va, cpl) for cpl in (0, 3) for make in (read, write, execute)]


def columns(outcomes):
    """All columns of some outcomes, to be compared."""
    return {name: getattr(outcomes, name).tolist() for name in Outcomes.__dataclass_fields__}


def probe(prober, *accesses, bulk=True):
    """The outcomes that a prober observes, as a list."""
    outcomes = prober.probe(Accesses.of(accesses), bulk=bulk)
    return [outcomes[at] for at in range(len(accesses))]


def observe(memory, context, *accesses):
    """The outcomes that fresh probers observe, as a list: in bulk, and one by one, the same."""
    found = probe(Prober(memory, context), *accesses)
    assert found == probe(Prober(memory, context), *accesses, bulk=False)
    return found


def tables_of(prober):
    """A copy of the tables as the prober's CPU sees them, its own copies of the root included."""
    workspace = prober._workspace
    return workspace.space.tables(workspace._tables).copy()


def borrowed_slots(prober):
    """The two root slots that the prober borrows for itself."""
    return [slot.number for slot in prober._workspace.trampoline.slots[:2]]
