"""What judges are wrong about: the rule of each divergence, and its description."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from crosswalk.emu.check.compare import by_the_manuals, differing_fields
from crosswalk.emu.check.judged import AccessVerdicts, Status
from crosswalk.emu.findings.describe import described_access
from crosswalk.emu.findings.signature import DUE, JUDGE, WALKER, Signature, signature_of
from crosswalk.emu.report.finding import FindingJson
from crosswalk.walker.formats import Probe

__all__ = ["described_judged", "not_allowed", "rules_of_rows"]


def rules_of_rows(found: AccessVerdicts, name: str) -> dict[int, Signature]:
    """Return the signature of each row that diverges, in order.

    Where Crosswalk's own two walks differ, its walker is the one that is said to be wrong.
    """
    rows = found.verdicts.rows(Status.DIVERGED)
    if not rows:
        return {}
    some = np.array(rows)
    predicted, seen = found.predicted.take(some), found.seen.take(some)
    manual = by_the_manuals(found.memory, found.context, found.accesses.take(some))
    fields = differing_fields(predicted, seen), differing_fields(manual, predicted)
    signatures: dict[int, Signature] = {}
    for at, row in enumerate(rows):
        unshared = bool(found.verdicts.unshared[row])
        names = [part for part, differs in fields[unshared].items() if differs[at]]
        divergence = found.divergence(row)
        if unshared:
            turned = replace(divergence, observed=manual[at])
            signatures[row] = signature_of(found.context, turned, names, WALKER)
        else:
            turned = replace(
                divergence, predicted=divergence.observed, observed=divergence.predicted
            )
            signatures[row] = signature_of(found.context, turned, names, f"{JUDGE}{name}")
    return signatures


def described_judged(
    found: AccessVerdicts, row: int, signature: Signature, words: Mapping[int, int]
) -> FindingJson:
    """Return a divergence, or an end, described: both answers for the judge's CPU, and the walk.

    `words` are those of memory, of which those that the walk doesn't read are shown.
    """
    if signature.truth == DUE:
        probe = Probe.of(found.accesses[row])
    elif signature.witness == WALKER:
        probe = Probe.of(found.accesses[row], found.predicted[row], found.seen[row])
    else:
        probe = Probe.of(found.accesses[row], found.seen[row])
    return described_access(signature, found.memory, found.context, probe, words=words)


def not_allowed(name: str, rule: str) -> Signature:
    """Return the signature of an outcome of a composite or a sequence that nothing allows."""
    return Signature(f"{JUDGE}{name}", rule, "another outcome", "one that is allowed")
