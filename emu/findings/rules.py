"""The rule that decides about an access, by what its walk comes upon."""

from crosswalk.emu.check.compare import Divergence
from crosswalk.walker.access import AccessType
from crosswalk.walker.context import PagingContext, PagingMode
from crosswalk.walker.entry import LEVELS, Entry, is_leaf, level_of, reserved_bits
from crosswalk.walker.linear import crosses, linear_address
from crosswalk.walker.outcome import ErrorCode, GeneralProtection, Outcome, PageFault, Translation
from crosswalk.walker.translate import Step, StepKind, Walk

__all__ = ["CANONICAL", "LOADED", "RESERVED", "code_of", "mapping_rule", "page_of", "rule_of"]

CANONICAL, RESERVED = "canonical addresses", "reserved"
LOADED = "a PDPTE with reserved bits, loaded"
_PAGES = {12: "4-KiB", 21: "2-MiB", 22: "4-MiB", 30: "1-GiB"}


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
    return _PAGES[level_of(context, step.level).shift]


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
    if wrong & Entry.PS:
        kinds.append("PS")
    if wrong & Entry.G and not leaf:
        kinds.append("bit 8")
    if leaf and wrong & (level_of(context, last.level).span - 1) & ~0xFFF:
        kinds.append("low address bits")
    return f"{RESERVED} in a {entry}: {', '.join(kinds)}"


def _about_rights(context: PagingContext, divergence: Divergence) -> str:
    """Return which right the page withholds, and on which level.

    Where there are several, a walker that knew one of them would have refused all the same.
    """
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
    return lost[0] if len(lost) == 1 else "several rights at once"


def _withheld(path: Walk, right: Entry) -> list[Step]:
    return [step for step in path.steps if step.restricts and not step.entry & right]


def _named(right: str, steps: list[Step]) -> list[str]:
    if not steps:
        return []
    where = LEVELS[steps[0].level].entry if len(steps) == 1 else "several levels"
    return [f"{right} of {'' if len(steps) > 1 else 'a '}{where}"]
