"""A machine that isn't there: what one that does as the walker says would leave behind."""

from dataclasses import replace

from crosswalk.emu.judges.nested.code import access_at, code_pages, done_at
from crosswalk.emu.judges.nested.outcomes import Left, Made, sign_of, stored_byte, word_of
from crosswalk.emu.judges.nested.svm import NestedEntries
from crosswalk.emu.judges.nested.vmx import EptEntries
from crosswalk.emu.judges.nested.workspace import Lending, make_workspace
from crosswalk.walker.access import AccessType
from crosswalk.walker.architecture import Vector
from crosswalk.walker.nested.context import EptContext
from crosswalk.walker.outcome import GeneralProtection, PageFault, Translation

LENT = 0xC10_0000


def workspace(question, *, guest_too=False):
    """What a machine would get of a question."""
    host = question.context.host
    form = EptEntries() if isinstance(host, EptContext) else NestedEntries()
    lending = Lending(form, code_pages(), LENT, host.root, guest_too)
    return make_workspace(
        question.memory, question.context, question.tables, lending, question.slots
    )


def made(space, access, predicted):
    """What is left behind by an access, and by what is done to see where it went."""
    fetched = access.type is AccessType.EXECUTE
    at = access.va if fetched else access_at(access)
    match predicted:
        case Translation():
            return _reached(space, access, predicted)
        case PageFault():
            left = Left(
                at, vector=Vector.PF, error_code=predicted.error_code, address=predicted.cr2
            )
        case GeneralProtection():
            left = Left(at, vector=Vector.GP)
        case fault:
            left = Left(at, fault=replace(fault, entries=()))
            if hasattr(fault, "open"):
                left = replace(left, fault=replace(left.fault, open=0))
    return Made(left, predicted.entries)


def _reached(space, access, predicted):
    now = dict(predicted.entries)
    word = word_of(predicted.pa)
    content = now.get(word, space.memory.word(word) or 0)
    match access.type:
        case AccessType.READ:
            left = Left(
                done_at(access),
                rax=content >> access.va % 8 * 8 & 0xFF,
                rsi=_sign(space, now, predicted.pa),
                vector=Vector.UD,
            )
            return Made(left, predicted.entries)
        case AccessType.WRITE:
            left = Left(done_at(access), vector=Vector.UD)
            own = _stored(now, word, content, access.va, stored_byte(space, access.va))
            again = None
            if access.va % 8 < 2:
                later = access.va + 2
                there = _stored(now, word, content, later, stored_byte(space, later))
                again = Made(left, there)
            return Made(left, own, again)
    code = _sign(space, now, predicted.pa) >> 8 & 0xFFFF_FFFF
    left = Left(access.va + 1, vector=Vector.DB)
    return Made(left, predicted.entries, Made(replace(left, rax=code), ()))


def _sign(space, now, pa):
    at = sign_of(pa)
    return now.get(at, space.memory.word(at) or 0)


def _stored(now, word, content, va, byte):
    shift = va % 8 * 8
    value = content & ~(0xFF << shift) | byte << shift
    return tuple(sorted({**now, word: value}.items()))
