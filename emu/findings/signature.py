"""What a finding is about: the rule that two witnesses see differently, and not the address."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.findings.rules import (
    CANONICAL,
    LOADED,
    RESERVED,
    code_of,
    mapping_rule,
    page_of,
    rule_of,
)
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.workers.sandbox import NoAnswer
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import LEVELS, Entry
from crosswalk.walker.outcome import (
    ErrorCode,
    GeneralProtection,
    Outcome,
    PageFault,
    Translation,
    error_names,
)
from crosswalk.walker.translate import StepKind

__all__ = [
    "CROSSWALK",
    "Signature",
    "failed_signature",
    "failure_signature",
    "lost_signature",
    "signature_of",
    "without_numbers",
]

CROSSWALK = "crosswalk"
"""The witness of findings about Crosswalk itself."""

_TARGET = "peer:"
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_CAUSE = ErrorCode.WR | ErrorCode.US | ErrorCode.ID
_OF_A_PAGE = (
    ("pa", "address", "another", "this"),
    ("size", "size", "another", "this"),
    ("flags", "flags", "others", "its entry's"),
)
_DUE = "due"


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """Who disagrees with the truth, about which rule, and how.

    `witness` is `walker`, `second walk`, `meant`, `peer:NAME`, `emulator` where that gave no
    outcome, or `crosswalk` where the search itself failed.
    Findings with equal signatures are taken to have one cause.
    """

    witness: str
    rule: str
    said: str
    truth: str

    def __str__(self) -> str:
        if self.truth == _DUE:
            return f"{self.rule} is due: {self.witness}: {self.said}"
        return f"{self.rule}: {self.witness} says {self.said}, it is {self.truth}"

    @property
    def of_target(self) -> bool:
        """Whether a walker under test is the one that disagrees."""
        return self.witness.startswith(_TARGET)

    @property
    def slug(self) -> str:
        """A short name for a file: words of the rule, and eight digits of a hash of it all."""
        words = re.sub(r"[^a-z0-9]+", "-", self.rule.lower()).strip("-")[:48].rstrip("-")
        digest = hashlib.sha256("\0".join(self._parts()).encode()).hexdigest()
        return f"{words}-{digest[:8]}"

    def _parts(self) -> tuple[str, ...]:
        return self.witness, self.rule, self.said, self.truth


def failure_signature(name: str, failure: NoAnswer) -> Signature:
    """Return the signature of a walker under test that gave no answer."""
    said = f"{failure.failure.value}, {failure.kind}"
    return Signature(f"{_TARGET}{name}", "an answer within the limits", said, _DUE)


def lost_signature(how: str, why: str = "") -> Signature:
    """Return the signature of an emulator that gave no outcome: it crashed, hung, or failed.

    `why`, its error, counts without its numbers.
    """
    words = without_numbers(why)
    return Signature("emulator", "an outcome", f"{how}: {words}" if words else how, _DUE)


def failed_signature(due: str, why: str) -> Signature:
    """Return the signature of what Crosswalk failed to do: what was due, and what came of it."""
    return Signature(CROSSWALK, due, why, _DUE)


def without_numbers(text: str) -> str:
    """Return an error's words without its numbers, which are of the case and not of the cause."""
    return _NUMBER.sub("N", text)


def signature_of(
    context: PagingContext,
    divergence: Divergence,
    fields: Iterable[str],
    witness: str,
    claims: frozenset[Capability] = frozenset(Capability),
) -> Signature:
    """Return the signature of a divergence that shows in these fields of the outcome.

    `claims` are those of the witness: what it doesn't answer tells no two findings apart.
    """
    said, truth = divergence.predicted, divergence.observed
    names = set(fields)
    if Capability.FAULTS not in claims and "outcome" in names:
        return _about_access(context, divergence, witness, rights=Capability.RIGHTS in claims)
    if isinstance(said, PageFault) and isinstance(truth, PageFault):
        only = (said.error_code ^ truth.error_code) & ~_CAUSE
        if only == ErrorCode.P:
            return _about_presence(divergence, witness)
    if "outcome" in names or _class(said) != _class(truth):
        rule = rule_of(context, divergence)
        return Signature(witness, rule, *_answers(rule, said, truth))
    return _about_parts(context, divergence, names, witness)


def _about_parts(
    context: PagingContext, divergence: Divergence, names: set[str], witness: str
) -> Signature:
    """Return the signature of answers of one kind, of which some part differs."""
    for name, what, another, this in _OF_A_PAGE:
        if name in names:
            page = page_of(context, divergence.walk.steps[-1])
            return Signature(witness, f"{what} of a {page} page", another, this)
    if "error_code" in names:
        return _about_code(divergence, witness)
    if "cr2" in names:
        return Signature(witness, f"CR2 of {_article(divergence)}", "another", "the address")
    return _about_marks(context, divergence, witness)


def _about_access(
    context: PagingContext, divergence: Divergence, witness: str, *, rights: bool
) -> Signature:
    """Return the signature of an answer that tells no fault from another."""
    rule = rule_of(context, divergence) if rights else mapping_rule(context, divergence)
    words = ("refused", "allowed") if rights else ("not mapped", "mapped")
    said, truth = (
        words[isinstance(each, Translation)] for each in (divergence.predicted, divergence.observed)
    )
    return Signature(witness, rule, said, truth)


def _about_presence(divergence: Divergence, witness: str) -> Signature:
    absent = divergence.walk.steps[-1].kind is StepKind.NOT_PRESENT
    rule = f"P in the error code at {'an absent' if absent else 'a present'} entry"
    said, truth = (
        "set" if code_of(each) & ErrorCode.P else "clear"
        for each in (divergence.predicted, divergence.observed)
    )
    return Signature(witness, rule, said, truth)


def _class(outcome: Outcome) -> str:
    """Return what kind of answer it is; of an error code only what doesn't tell the access."""
    if isinstance(outcome, GeneralProtection):
        return "#GP"
    if isinstance(outcome, PageFault):
        cause = error_names(outcome.error_code & ~_CAUSE)
        return "#PF, not present" if cause == "none" else f"#PF, {cause}"
    return "ok"


def _answers(rule: str, said: Outcome, truth: Outcome) -> tuple[str, str]:
    """Return both answers; of those to a rule that comes before others, only whether it is met."""
    if rule in {CANONICAL, LOADED}:
        decided = [isinstance(each, GeneralProtection) for each in (said, truth)]
        names = ("#GP", "no #GP")
    elif rule.startswith(RESERVED):
        decided = [bool(code_of(each) & ErrorCode.RSVD) for each in (said, truth)]
        names = ("RSVD", "no RSVD")
    else:
        return _class(said), _class(truth)
    if decided[0] == decided[1]:
        return _class(said), _class(truth)
    return names[not decided[0]], names[not decided[1]]


def _about_code(divergence: Divergence, witness: str) -> Signature:
    """Return the signature of faults of one class that tell the access differently."""
    said, truth = code_of(divergence.predicted), code_of(divergence.observed)
    differ = error_names(said ^ truth)
    kind = divergence.access.type.name.lower()
    return Signature(
        witness,
        f"{differ} in the error code of a {kind}",
        error_names(said & (said ^ truth)),
        error_names(truth & (said ^ truth)),
    )


def _article(divergence: Divergence) -> str:
    return f"a fault at a {LEVELS[divergence.walk.steps[-1].level].entry}"


def _about_marks(context: PagingContext, divergence: Divergence, witness: str) -> Signature:
    """Return the signature of A and D bits that are set differently."""
    levels = {step.word[0]: step.level for step in divergence.walk.steps}
    before = dict(divergence.walk.words)
    last = divergence.walk.steps[-1].level if divergence.walk.steps else 0
    fault = "" if _class(divergence.predicted) == "ok" else " by a fault"
    changes = []
    for outcome in (divergence.predicted, divergence.observed):
        bits = set()
        for pa, value in outcome.entries:
            if pa not in levels:
                bits.add("a word beside the walk")
                continue
            place = "a leaf" if levels[pa] == last else "a table's entry"
            changed = value ^ before[pa]
            if context.mode is PagingMode.BIT32:
                changed = changed & 0xFFFF_FFFF | changed >> 32
            bits |= {f"{bit.name} of {place}" for bit in (Entry.A, Entry.D) if changed & bit}
            if changed & ~(Entry.A | Entry.D):
                bits.add("more than A and D")
        changes.append(bits)
    said, truth = changes
    rule = f"{', '.join(sorted(said ^ truth)) or 'A and D'}{fault}"
    return Signature(
        witness, rule, _listed(said - truth, "otherwise"), _listed(truth - said, "otherwise")
    )


def _listed(bits: set[str], otherwise: str) -> str:
    return f"set: {', '.join(sorted(bits))}" if bits else otherwise
