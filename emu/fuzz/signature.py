"""What a finding is about: the rule that two witnesses see differently, and not the address."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from emu.check.compare import Divergence
from emu.peers.claims import PeerFailure
from walker.access import AccessType
from walker.context import PagingContext, PagingMode
from walker.entry import LEVELS, Entry, is_leaf, level_of, reserved_bits
from walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, error_names
from walker.translate import Step, StepKind, Walk

__all__ = ["Signature", "failure_signature", "signature_of"]

_CAUSE = ErrorCode.WR | ErrorCode.US | ErrorCode.ID
_CANONICAL, _RESERVED = "canonical addresses", "reserved"
_LOADED = "a PDPTE with reserved bits, loaded"
_PAGES = {12: "4-KiB", 21: "2-MiB", 22: "4-MiB", 30: "1-GiB"}


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """Who disagrees with the truth, about which rule, and how.

    `witness` is `walker`, `meant` or `peer:NAME`. Findings with equal signatures are taken to
    have one cause.
    """

    witness: str
    rule: str
    said: str
    truth: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.witness} says {self.said}, it is {self.truth}"

    @property
    def slug(self) -> str:
        """A short name for a file: words of the rule, and eight digits of a hash of it all."""
        words = re.sub(r"[^a-z0-9]+", "-", self.rule.lower()).strip("-")[:48].rstrip("-")
        digest = hashlib.sha256("\0".join(self._parts()).encode()).hexdigest()
        return f"{words}-{digest[:8]}"

    def _parts(self) -> tuple[str, ...]:
        return self.witness, self.rule, self.said, self.truth


def failure_signature(name: str, failure: PeerFailure) -> Signature:
    """Return the signature of a walker under test that gave no answer."""
    return Signature(f"peer:{name}", "an answer within the limits", failure.failure.value, "due")


def signature_of(
    context: PagingContext, divergence: Divergence, fields: Iterable[str], witness: str
) -> Signature:
    """Return the signature of a divergence that shows in these fields of the outcome."""
    said, truth = divergence.predicted, divergence.observed
    names = set(fields)
    if isinstance(said, PageFault) and isinstance(truth, PageFault):
        only = (said.error_code ^ truth.error_code) & ~_CAUSE
        if only == ErrorCode.P:
            entry = divergence.walk.steps[-1].kind
            where = "an absent" if entry is StepKind.NOT_PRESENT else "a present"
            rule = f"P in the error code at {where} entry"
            return Signature(witness, rule, *("clear", "set")[:: 1 if truth.error_code & 1 else -1])
    if "outcome" in names or _class(said) != _class(truth):
        rule = _rule(context, divergence)
        return Signature(witness, rule, *_answers(rule, said, truth))
    if "pa" in names:
        last = divergence.walk.steps[-1]
        return Signature(witness, f"address of a {_page(context, last)} page", "another", "this")
    if "error_code" in names:
        return _about_code(divergence, witness)
    if "cr2" in names:
        return Signature(witness, f"CR2 of {_article(divergence)}", "another", "the address")
    return _about_marks(context, divergence, witness)


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
    if rule == _CANONICAL:
        decided = [isinstance(each, GeneralProtection) for each in (said, truth)]
        names = ("#GP", "no #GP")
    elif rule.startswith(_RESERVED):
        decided = [bool(_code(each) & ErrorCode.RSVD) for each in (said, truth)]
        names = ("RSVD", "no RSVD")
    else:
        return _class(said), _class(truth)
    if decided[0] == decided[1]:
        return _class(said), _class(truth)
    return names[not decided[0]], names[not decided[1]]


def _rule(context: PagingContext, divergence: Divergence) -> str:
    """Return the rule that decides between two classes of answer."""
    said, truth = divergence.predicted, divergence.observed
    path = divergence.walk
    if isinstance(said, GeneralProtection) or isinstance(truth, GeneralProtection):
        return _CANONICAL if context.mode.long else _LOADED
    last = path.steps[-1]
    codes = {_code(said), _code(truth)}
    if last.kind is StepKind.OUTSIDE:
        return f"a table outside RAM, {LEVELS[last.level].table}"
    if last.kind is StepKind.RESERVED or any(code & ErrorCode.RSVD for code in codes):
        return _about_reserved(context, path)
    if last.kind is StepKind.NOT_PRESENT:
        return f"P of a {LEVELS[last.level].entry}"
    if any(code & ErrorCode.PK for code in codes):
        return (
            f"protection key of a {_page(context, last)} page, "
            f"{divergence.access.type.name.lower()}"
        )
    return _about_rights(context, divergence)


def _page(context: PagingContext, step: Step) -> str | None:
    return _PAGES.get(level_of(context, step.level).shift)


def _code(outcome: Outcome) -> int:
    return outcome.error_code if isinstance(outcome, PageFault) else 0


def _about_reserved(context: PagingContext, path: Walk) -> str:
    last = path.steps[-1]
    entry = LEVELS[last.level].entry
    leaf = is_leaf(context, last.level, last.entry)
    wrong = last.entry & reserved_bits(context, last.level, leaf=leaf)
    if not wrong:
        return f"{_RESERVED} in a {entry}: nothing"
    kinds = []
    if wrong & Entry.XD:
        kinds.append("XD")
    if wrong >> context.maxphyaddr & (1 << 52 - context.maxphyaddr) - 1:
        kinds.append("address bits above MAXPHYADDR")
    if context.mode is PagingMode.PAE and wrong >> 52 & 0x7FF:
        kinds.append("bits 62:52")
    if wrong & Entry.PS:
        kinds.append("PS")
    if wrong & Entry.G and not leaf:
        kinds.append("bit 8")
    if leaf and wrong & (level_of(context, last.level).span - 1) & ~0xFFF:
        kinds.append("low address bits")
    return f"{_RESERVED} in a {entry}: {', '.join(kinds)}"


def _about_rights(context: PagingContext, divergence: Divergence) -> str:
    """Return which rights the page withholds, and on which level; or that it withholds none."""
    access, path = divergence.access, divergence.walk
    user = access.cpl == 3
    user_page = not _withheld(path, Entry.US)
    lost: list[str] = []
    if access.type is AccessType.EXECUTE:
        if context.nxe:
            lost += _named("XD", [step for step in path.steps if step.entry & Entry.XD])
        if user_page and not user and context.smep:
            lost.append("SMEP")
    else:
        if access.type is AccessType.WRITE and (user or context.wp):
            lost += _named("R/W", _withheld(path, Entry.RW))
        if user_page and not user and context.smap and not access.ac:
            lost.append("SMAP")
    if user:
        lost += _named("U/S", _withheld(path, Entry.US))
    if not lost:
        whose = "user" if user_page else "supervisor"
        lost.append(f"no right withheld from a {access.type.name.lower()} of a {whose} page")
    return " and ".join(lost)


def _withheld(path: Walk, right: Entry) -> list[Step]:
    return [step for step in path.steps if step.restricts and not step.entry & right]


def _named(right: str, steps: list[Step]) -> list[str]:
    if not steps:
        return []
    where = LEVELS[steps[0].level].entry if len(steps) == 1 else "several levels"
    return [f"{right} of {'' if len(steps) > 1 else 'a '}{where}"]


def _about_code(divergence: Divergence, witness: str) -> Signature:
    """Return the signature of faults of one class that tell the access differently."""
    said, truth = _code(divergence.predicted), _code(divergence.observed)
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
