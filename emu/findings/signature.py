"""What a finding is about: the rule that two witnesses see differently, and not the address."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from crosswalk.emu.check.compare import Divergence
from crosswalk.emu.targets.capabilities import Capability
from crosswalk.emu.workers.sandbox import NoAnswer
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import ADDRESS_FIELD, LEVELS, Entry, is_leaf, level_of, reserved_bits
from crosswalk.walker.linear import crosses, linear_address
from crosswalk.walker.outcome import (
    ErrorCode,
    GeneralProtection,
    Outcome,
    PageFault,
    Translation,
    error_names,
)
from crosswalk.walker.rights import Rights
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = [
    "CANONICAL",
    "CROSSWALK",
    "DUE",
    "EFFECTIVE",
    "EMULATOR",
    "INTENDED",
    "JUDGE",
    "LOADED",
    "OF_PDPTES",
    "PAGES",
    "RESERVED",
    "SECOND_WALK",
    "WALKER",
    "Signature",
    "code_of",
    "ended_signature",
    "failed_signature",
    "failure_signature",
    "lost_signature",
    "mapping_rule",
    "page_of",
    "rule_of",
    "signature_of",
    "without_numbers",
]


CANONICAL, RESERVED = "canonical addresses", "reserved"
LOADED = "a PDPTE with reserved bits, loaded"
OF_PDPTES = "bit 5 of a PDPTE of PAE paging"
"""What is A in other entries."""
EFFECTIVE = "effective "
"""What rules about effective rights of a listed mapping begin with."""
_SIZES = {12: "4-KiB", 21: "2-MiB", 22: "4-MiB", 30: "1-GiB"}
PAGES = tuple(_SIZES.values())
"""What pages are called in rules."""


def rule_of(context: PagingContext, divergence: Divergence) -> str:
    """Return the rule that decides between two kinds of answer, of which one is the truth."""
    said, truth = divergence.predicted, divergence.observed
    path = divergence.walk
    pointer = _about_pointer(context, divergence)
    if pointer is not None:
        return pointer
    codes = {code_of(said), code_of(truth)}
    if isinstance(said, GeneralProtection) or path.leaf is None:
        return mapping_rule(context, divergence)
    if any(code & ErrorCode.RSVD for code in codes):
        return _about_reserved(context, path)
    kind = divergence.access.type.name.lower()
    page = page_of(context, path.leaf)
    if any(code & ErrorCode.PK for code in codes):
        return f"protection key of a {page} page, {kind}"
    if isinstance(truth, Translation):
        return f"{kind} of a {page} page that withholds nothing"
    return _about_rights(context, divergence)


def mapping_rule(context: PagingContext, divergence: Divergence) -> str:
    """Return the rule that decides whether an address is mapped at all."""
    answers = divergence.predicted, divergence.observed
    path = divergence.walk
    pointer = _about_pointer(context, divergence)
    if pointer is not None:
        return pointer
    if any(isinstance(each, GeneralProtection) for each in answers) or not path.steps:
        return CANONICAL if context.mode.long else LOADED
    last = path.steps[-1]
    if last.kind is StepKind.OUTSIDE:
        return f"a table outside RAM, {LEVELS[last.level].table}"
    if last.kind is StepKind.RESERVED:
        return _about_reserved(context, path)
    if last.kind is StepKind.NOT_PRESENT:
        return f"P of a {LEVELS[last.level].entry}"
    return f"a {page_of(context, last)} page that is there"


def _about_pointer(context: PagingContext, divergence: Divergence) -> str | None:
    """Return the rule that decides before the walk, if the answers differ for its sake.

    Either raises #GP, or the access is allowed and the other side refuses it.
    """
    access, said, truth = divergence.access, divergence.predicted, divergence.observed
    faults = any(isinstance(each, GeneralProtection) for each in (said, truth))
    refused = isinstance(truth, Translation) and not isinstance(said, Translation)
    if not (faults or refused):
        return None
    if crosses(context, access):
        return "the half of the addresses that LASS bars"
    linear = linear_address(context, access)
    if linear is None or linear == access.va:
        return None
    return f"address bits that {'UAI' if context.uai else 'LAM'} ignores"


def page_of(context: PagingContext, step: Step) -> str:
    """Return what a page is called that an entry of this step's level maps."""
    return _SIZES[level_of(context, step.level).shift]


def code_of(outcome: Outcome) -> int:
    """Return the error code of a page fault, 0 of anything else."""
    return outcome.error_code if isinstance(outcome, PageFault) else 0


def _about_reserved(context: PagingContext, path: Walk) -> str:
    last = path.steps[-1]
    entry = LEVELS[last.level].entry
    leaf = is_leaf(context, last.level, last.entry)
    wrong = last.entry & reserved_bits(context, last.level, leaf=leaf)
    if not wrong:
        return f"{RESERVED} in a {entry}: nothing"
    kinds = []
    if wrong & Entry.XD:
        kinds.append("XD")
    if wrong >> context.maxphyaddr & (1 << 52 - context.maxphyaddr) - 1:
        kinds.append("address bits above MAXPHYADDR")
    if context.mode is PagingMode.PAE and wrong >> 52 & 0x7FF:
        kinds.append("bits 62:52")
    if not last.restricts and wrong & ~ADDRESS_FIELD & 0xFFF:
        kinds.append("bits 8:5 and 2:1")
        return f"{RESERVED} in a {entry}: {', '.join(kinds)}"
    if wrong & Entry.PS:
        kinds.append("PS")
    if wrong & Entry.G and not leaf:
        kinds.append("bit 8")
    if leaf and wrong & (level_of(context, last.level).span - 1) & ~0xFFF:
        kinds.append("low address bits")
    return f"{RESERVED} in a {entry}: {', '.join(kinds)}"


def _about_rights(context: PagingContext, divergence: Divergence) -> str:
    """Return which right the page withholds, and on which level.

    Where there are several, which they are: a walker that knew one of them would have refused.
    """
    access, path = divergence.access, divergence.walk
    user = access.cpl == 3
    user_page = not _withheld(path, Entry.US)
    lost: dict[str, str] = {}
    if access.type is AccessType.EXECUTE:
        if context.nxe:
            lost |= _named("XD", [step for step in path.steps if step.entry & Entry.XD])
        if user_page and not user and context.smep:
            lost["SMEP"] = "SMEP"
    else:
        if access.type is AccessType.WRITE and (user or context.wp):
            lost |= _named("R/W", _withheld(path, Entry.RW))
        if user_page and not user and context.smap and not access.ac:
            lost["SMAP"] = "SMAP"
    if user:
        lost |= _named("U/S", _withheld(path, Entry.US))
    if len(lost) == 1:
        return next(iter(lost.values()))
    return f"{', '.join(lost)} at once" if lost else "rights of a page"


def _withheld(path: Walk, right: Entry) -> list[Step]:
    return [step for step in path.steps if step.restricts and not step.entry & right]


def _named(right: str, steps: list[Step]) -> dict[str, str]:
    """Return the right, and in words which of the walk's entries withhold it."""
    if not steps:
        return {}
    last = steps[-1]
    leaf = last.kind is StepKind.LEAF
    if len(steps) > 1:
        return {right: f"{right} of several levels{', the leaf among them' if leaf else ''}"}
    page = " that maps a page" if leaf and last.level > 1 else ""
    return {right: f"{right} of a {LEVELS[last.level].entry}{page}"}


WALKER, SECOND_WALK, INTENDED = "walker", "second walk", "meant"
"""Who is compared with the CPU: the built-in walker, what the emulated CPU is stated to do
(`crosswalk.emu.check.compare.as_emulated`), a layout's intentions."""

EMULATOR, CROSSWALK = "emulator", "crosswalk"
"""The witnesses of findings about the emulator, and about Crosswalk itself."""

_TARGET = "peer:"
JUDGE = "judge:"
"""What the witness of a finding about a machine that was asked begins with."""
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")
_CAUSE = ErrorCode.WR | ErrorCode.US | ErrorCode.ID
_OF_A_PAGE = (
    ("pa", "address", "another", "this"),
    ("size", "size", "another", "this"),
    ("flags", "flags", "others", "its entry's"),
)
_OF = {
    AccessType.READ: "a read",
    AccessType.WRITE: "a write",
    AccessType.EXECUTE: "an execute",
}
DUE = "due"
"""The truth of findings that are about no answer, but about one that is missing."""


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """Who disagrees with the truth, about which rule, and how.

    `witness` is `walker`, `second walk`, `meant`, `peer:NAME`, `judge:NAME`, `emulator` where that
    gave no outcome, or `crosswalk` where the search itself failed.
    Findings with equal signatures are taken to have one cause.
    """

    witness: str
    rule: str
    said: str
    truth: str

    def __str__(self) -> str:
        if self.truth == DUE:
            return f"{self.rule} is due: {self.witness}: {self.said}"
        return f"{self.rule}: {self.witness} says {self.said}, it is {self.truth}"

    @property
    def of_target(self) -> bool:
        """Whether a walker under test is the one that disagrees."""
        return self.witness.startswith(_TARGET)

    @property
    def of_judge(self) -> bool:
        """Whether a machine that was asked is the one that disagrees."""
        return self.witness.startswith(JUDGE)

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
    return Signature(f"{_TARGET}{name}", "an answer within the limits", said, DUE)


def lost_signature(how: str, why: str = "") -> Signature:
    """Return the signature of an emulator that gave no outcome: it crashed, hung, or failed.

    `why`, its error, counts without its numbers.
    """
    words = without_numbers(why)
    return Signature(EMULATOR, "an outcome", f"{how}: {words}" if words else how, DUE)


def ended_signature(judge: str, asked: AccessType | str, how: str) -> Signature:
    """Return the signature of a machine that died, hung or flooded at an access of this type.

    Or at what else it was asked, as "a composite".
    """
    what = _OF[asked] if isinstance(asked, AccessType) else asked
    return Signature(f"{JUDGE}{judge}", f"an outcome of {what}", how, DUE)


def failed_signature(due: str, why: str) -> Signature:
    """Return the signature of what Crosswalk failed to do: what was due, and the error."""
    return Signature(CROSSWALK, due, why, DUE)


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

    `claims` are those of the witness: what it doesn't answer is no part of the signature.
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
    if "effective" in names:
        return _about_effective(context, divergence, witness)
    if "error_code" in names:
        return _about_code(divergence, witness)
    if "cr2" in names:
        return Signature(witness, f"CR2 of {_article(divergence)}", "another", "the address")
    return _about_marks(context, divergence, witness)


_EFFECTIVE = (
    ("U/S", Rights.USER_READ, Entry.US, False),
    ("R/W", Rights.SUPERVISOR_WRITE, Entry.RW, False),
    ("XD", Rights.SUPERVISOR_EXECUTE, Entry.XD, True),
)
"""Effective rights: the bit of an entry, what it gives, the bit itself, and whether it withholds
the right where it is set."""


def _about_effective(context: PagingContext, divergence: Divergence, witness: str) -> Signature:
    """Return the signature of effective rights of a page: of the first that differs."""
    said, truth = (
        each.rights if isinstance(each, Translation) and each.rights else Rights(0)
        for each in (divergence.predicted, divergence.observed)
    )
    name, right, bit, when_set = next(row for row in _EFFECTIVE if (said ^ truth) & row[1])
    path = divergence.walk
    if truth & right:
        rule = f"{EFFECTIVE}{name} of a {page_of(context, path.steps[-1])} page"
        return Signature(witness, rule, "withheld", "granted")
    steps = [step for step in path.steps if step.restricts and bool(step.entry & bit) is when_set]
    return Signature(witness, f"{EFFECTIVE}{_named(name, steps)[name]}", "granted", "withheld")


def _about_access(
    context: PagingContext, divergence: Divergence, witness: str, *, rights: bool
) -> Signature:
    """Return the signature of an answer that doesn't distinguish faults."""
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
    """Return the kind of an answer; of an error code without W/R, U/S and I/D."""
    if isinstance(outcome, GeneralProtection):
        return "#GP"
    if isinstance(outcome, PageFault):
        cause = error_names(outcome.error_code & ~_CAUSE)
        return "#PF, not present" if cause == "none" else f"#PF, {cause}"
    return "ok"


def _answers(rule: str, said: Outcome, truth: Outcome) -> tuple[str, str]:
    """Return both answers; for a rule that precedes all others, only whether it applies."""
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
    """Return the signature of faults of one class that differ in W/R, U/S or I/D."""
    said, truth = code_of(divergence.predicted), code_of(divergence.observed)
    differ = error_names(said ^ truth)
    kind = divergence.access.type.name.lower()
    article = "an" if divergence.access.type is AccessType.EXECUTE else "a"
    return Signature(
        witness,
        f"{differ} in the error code of {article} {kind}",
        error_names(said & (said ^ truth)),
        error_names(truth & (said ^ truth)),
    )


def _article(divergence: Divergence) -> str:
    return f"a fault at a {LEVELS[divergence.walk.steps[-1].level].entry}"


def _about_marks(context: PagingContext, divergence: Divergence, witness: str) -> Signature:
    """Return the signature of bits that walks leave differently, as A and D."""
    steps = {step.word[0]: step for step in divergence.walk.steps}
    before = dict(divergence.walk.words)
    last = divergence.walk.steps[-1].level if divergence.walk.steps else 0
    fault = "" if _class(divergence.predicted) == "ok" else " by a fault"
    sides = [dict(each.entries) for each in (divergence.predicted, divergence.observed)]
    changes: tuple[set[str], set[str]] = set(), set()
    for pa in sides[0].keys() | sides[1].keys():
        step = steps.get(pa)
        changed = [side.get(pa, before.get(pa, 0)) ^ before.get(pa, 0) for side in sides]
        for bits, own in zip(changes, changed, strict=True):
            if step is not None:
                bits.update(_marks(context, step, own & (changed[0] ^ changed[1]), last))
            elif changed[0] != changed[1] and own:
                bits.add("a word beside the walk")
    said, truth = changes
    rule = f"{', '.join(sorted(said | truth)) or 'A and D'}{fault}"
    if said | truth == {OF_PDPTES} and said != truth:
        words = ("set", "left as it was")
        return Signature(witness, rule, words[not said], words[not truth])
    if said and said == truth:
        return Signature(witness, rule, "set in another entry", "set in this one")
    return Signature(
        witness, rule, _listed(said - truth, "otherwise"), _listed(truth - said, "otherwise")
    )


def _marks(context: PagingContext, step: Step, changed: int, last: int) -> set[str]:
    """Return in words which bits these are of an entry, or of two: of 32-bit paging."""
    if context.mode is PagingMode.BIT32:
        changed = changed & 0xFFFF_FFFF | changed >> 32
    place = "a leaf" if step.level == last else "a table's entry"
    names = {Entry.A: f"A of {place}", Entry.D: f"D of {place}"}
    if context.mode is PagingMode.PAE and not step.restricts:
        names = {Entry.A: OF_PDPTES}  # It has neither A nor D.
    bits = {name for bit, name in names.items() if changed & bit}
    return bits | ({"more than A and D"} if changed & ~sum(names) else set())


def _listed(bits: set[str], otherwise: str) -> str:
    return f"set: {', '.join(sorted(bits))}" if bits else otherwise
