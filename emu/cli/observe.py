"""`translate --observe`: the access made in the emulator, and compared with its prediction."""

from crosswalk.emu.check import compare_all
from crosswalk.emu.check.departures import FATAL
from crosswalk.emu.check.nested import NestedDivergence, agrees, known_nested
from crosswalk.emu.check.nested_deviations import EMULATOR
from crosswalk.emu.check.nested_emulated import emulated
from crosswalk.emu.cli.translate import Observation
from crosswalk.emu.probe import FEATURES, LACKS, Prober, subset_of
from crosswalk.emu.probe.nested import NestedProber
from crosswalk.emu.probe.subset import nested_subset_of
from crosswalk.emu.targets.answers import Answers
from crosswalk.emu.workers.contained import contained
from crosswalk.walker.access import Access
from crosswalk.walker.columns import Accesses
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats import Source
from crosswalk.walker.nested import NestedContext, NestedOutcome
from crosswalk.walker.outcome import Outcome

__all__ = ["observe", "observe_nested"]


def observe(source: Source, access: Access, predicted: Outcome) -> Observation:
    """Make an access, in a child process."""
    return contained(lambda: _observation(source, access, predicted))


def _observation(source: Source, access: Access, predicted: Outcome) -> Observation:
    accesses = Accesses.of([access])
    prober = Prober(subset_of(source.memory, source.context, accesses.va), source.context)
    lacking = int(prober.lacking(accesses)[0])
    if lacking:
        name = FEATURES[lacking - 1]
        return Observation(lacking=name, lacks=LACKS[name])
    observed = prober.probe(accesses)[0]
    one, other = Answers.none(len(accesses)), Answers.none(len(accesses))
    one.fill(0, predicted)
    other.fill(0, observed)
    found = compare_all(source.memory, source.context, accesses, one.outcomes, other.outcomes)
    return Observation(observed, bool(found), found[0].known if found else None)


def observe_nested(
    source: Source, context: NestedContext, access: Access, predicted: NestedOutcome
) -> tuple[NestedOutcome, tuple[str, ...] | None]:
    """Make an access under nested paging, in a child process.

    Returns what was observed, and None where the prediction allows it, else the names of the known
    divergences that explain it, none for a divergence that isn't known.
    """
    memory = source.memory

    def work() -> NestedOutcome:
        if emulated(memory, context, access, EMULATOR) is None:
            raise BadInput(f"the emulator can't make this access: {FATAL.differs}")
        return NestedProber(nested_subset_of(memory, context, access.va), context).probe(access)

    observed = contained(work)
    if agrees(memory, predicted, observed):
        return observed, None
    return observed, known_nested(
        memory, context, NestedDivergence(access, (predicted,), observed)
    ).known
