"""What a finding's case says of it in words: its note, and the answers of a walker."""

import re
from dataclasses import dataclass, replace

from crosswalk.emu.findings.signature import (
    CROSSWALK,
    DUE,
    EFFECTIVE,
    EMULATOR,
    INTENDED,
    SECOND_WALK,
    WALKER,
    Signature,
)
from crosswalk.emu.report.text import outcome_text, size_text
from crosswalk.emu.targets import Capability
from crosswalk.emu.targets.answers import Unanswered, Unplaced
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.outcome import Outcome, Translation
from crosswalk.walker.rights import Rights

__all__ = [
    "Note",
    "answer_text",
    "claimed_text",
    "failure_text",
    "listed_text",
    "note_of",
    "note_text",
    "signature_in",
    "signature_text",
    "with_detail",
]

_NOTE = re.compile(r"(?P<text>.*?) \(layout (?P<layout>\d+)\)(: (?P<detail>.*))?", re.DOTALL)
_PEERS = (
    re.compile(
        r"(?P<rule>.*?) is due: (?P<peer>(?:peer|judge):.*?): (?P<said>.*)(?P<truth>)", re.DOTALL
    ),
    re.compile(
        r"(?P<rule>.*?): (?P<peer>(?:peer|judge):.*?) says (?P<said>.*), it is (?P<truth>.*)",
        re.DOTALL,
    ),
)
"""Signatures of a walker that the case doesn't name, a function in a test, and of a machine that
was asked: `peer:` and `judge:` are what tells them from other words."""
_WITNESSES = (WALKER, SECOND_WALK, INTENDED, EMULATOR, CROSSWALK)
_WORDS = {"mapped", "not mapped", "allowed", "refused"}
_WORDS_OF_A_WALKER = 300
"""As many characters of what a walker raised or printed are shown."""
_SIZES = {1 << 12, 1 << 21, 1 << 22, 1 << 30}
_RIGHTS = {
    "u": Rights.USER_READ,
    "w": Rights.SUPERVISOR_WRITE,
    "x": Rights.SUPERVISOR_EXECUTE,
}


@dataclass(frozen=True, slots=True)
class Note:
    """What a case's note says: the signature, the layout it was found in, and a detail.

    That is an answer that has no place in a case, or the error that ended a layout.
    """

    signature: Signature
    layout: int | None
    detail: str | None


def signature_text(signature: Signature, walker: str | None) -> str:
    """Return a signature as the note of a case has it that names this walker under test.

    That walker goes by its name there, without the `peer:` of a witness; `signature_in` reads it.
    """
    if walker is None or walker in _WITNESSES or signature.witness != f"peer:{walker}":
        return str(signature)
    return str(replace(signature, witness=walker))


def note_text(
    signature: Signature, layout: int, detail: str = "", walker: str | None = None
) -> str:
    """Return the note of a case that names this walker; `note_of` reads it."""
    return f"{signature_text(signature, walker)} (layout {layout}){detail and f': {detail}'}"


def with_detail(text: str | None, walker: str | None, detail: str) -> str | None:
    """Return the note of a walker's or a machine's wrong answer with this detail.

    Any other as it is.
    """
    note = note_of(text, walker)
    if note is None or note.layout is None:
        return text
    if not (note.signature.of_target or note.signature.of_judge):
        return text
    return note_text(note.signature, note.layout, detail, walker)


def note_of(text: str | None, walker: str | None) -> Note | None:
    """Return what a note says, None for other words.

    `walker` is the walker under test that the case names.
    """
    if text is None:
        return None
    found = _NOTE.fullmatch(text)
    layout, detail = (int(found["layout"]), found["detail"]) if found else (None, None)
    signature = signature_in(found["text"] if found else text, walker)
    return None if signature is None else Note(signature, layout, detail)


def signature_in(text: str, walker: str | None) -> Signature | None:
    """Return the signature that a text is, None for other words; `walker` as for `note_of`.

    The notes of earlier releases have `peer:` before a walker's name.
    """
    names = {name: name for name in _WITNESSES}
    if walker is not None:
        names = {f"peer:{walker}": f"peer:{walker}", walker: f"peer:{walker}"} | names
    for name, witness in names.items():
        rule, due, said = text.partition(f" is due: {name}: ")
        if due:
            return Signature(witness, rule, said, DUE)
        rule, says, rest = text.partition(f": {name} says ")
        said, is_, truth = rest.rpartition(", it is ")
        if says and is_:
            return Signature(witness, rule, said, truth)
    for pattern in _PEERS:
        found = pattern.fullmatch(text)
        if found is not None:
            return Signature(found["peer"], found["rule"], found["said"], found["truth"] or DUE)
    return None


def claimed_text(claims: frozenset[Capability], outcome: Outcome) -> str:
    """Return an answer in words, as far as these claims are about it."""
    if Capability.FAULTS in claims:
        return outcome_text(outcome, may=Capability.MARKS in claims)
    yes, no = ("allowed", "refused") if Capability.RIGHTS in claims else ("mapped", "not mapped")
    if not isinstance(outcome, Translation):
        return no
    page = _page_text(outcome, rights=Capability.EFFECTIVE in claims)
    return f"{yes}{_place_text(outcome)}{page if Capability.LEAVES in claims else ''}"


def answer_text(signature: Signature, said: Outcome | None) -> str:
    """Return a wrong answer in words, as far as its signature shows that it was given."""
    if said is None or signature.truth == DUE:
        return printable(signature.said)
    where = _place_text(said)
    if {signature.said, signature.truth} & _WORDS:
        return f"{signature.said}{where}{_page_text(said)}"
    what = signature.rule.partition(" of ")[0]
    if what.startswith(EFFECTIVE):
        return f"mapped{where}{_page_text(said, rights=True)}; {what}: {signature.said}"
    if what in {"size", "flags"}:
        return f"mapped{where}{_page_text(said)}; {signature.said} {what}"
    return outcome_text(said)


def failure_text(failed: Unanswered) -> str:
    """Return in words how a walker under test failed to answer, with its own words.

    It says so where no access shows that alone.
    """
    failure, count = failed.failure, len(failed.accesses)
    text = f"{failure.failure.value}: {failure!s:.{_WORDS_OF_A_WALKER}}"
    if count < 2:
        return text
    return f"{text}; when {count:,} accesses are asked together, and none of them shows it alone"


def listed_text(signature: Signature, said: Outcome) -> str:
    """Return the answer of a list, which a case doesn't hold; empty where it holds all of it."""
    listed = signature.of_target and isinstance(said, Translation) and said.page_size
    return answer_text(signature, said) if listed else ""


def _place_text(said: Outcome) -> str:
    """Return where an address is mapped to, if an answer gives that."""
    if not isinstance(said, Translation) or isinstance(said, Unplaced):
        return ""
    return f", pa {said.pa:#x}"


def _page_text(said: Outcome, *, rights: bool = False) -> str:
    """Return the size of the page, and its effective rights, where an answer has them."""
    if not isinstance(said, Translation) or not said.page_size:
        return ""
    kind = "page" if said.page_size in _SIZES else "range"
    size = f", a {kind} of {size_text(said.page_size)}"
    held = said.rights
    if not rights or held is None:
        return size
    letters = "".join(letter if held & right else "-" for letter, right in _RIGHTS.items())
    return f"{size}, rights {letters}"
