"""JSON documents of the project's formats: read strictly, written so that a diff is readable.

What cases, composites and sequences have in common: numbers as hex strings, a state (registers,
RAM, entries), outcomes, and one reader. An error is one line that begins with the place in the
document, as `$.probes[2].access: …`.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from mmap import mmap
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.located_errors import one_line
from crosswalk.walker.outcome import GeneralProtection, Outcome, PageFault, Translation

__all__ = [
    "MAX_CASE_BYTES",
    "AccessName",
    "Count",
    "CpuJson",
    "Document",
    "FaultJson",
    "Hex32",
    "Hex64",
    "OkJson",
    "OutcomeJson",
    "ProtectionJson",
    "StateJson",
    "Words",
    "document_bytes",
    "format_of",
    "hex_words",
    "is_json",
    "json_block",
    "json_line",
    "numbers",
    "outcome_of",
    "outcome_record",
    "read_document",
    "words_of",
]

MAX_CASE_BYTES = 1 << 28
"""The largest case file that is read, in bytes."""

_HEX64 = r"^0x[0-9a-fA-F]{1,16}\Z"
_HEX32 = r"^0x[0-9a-fA-F]{1,8}\Z"
Hex64 = Annotated[str, Meta(pattern=_HEX64)]
Hex32 = Annotated[str, Meta(pattern=_HEX32)]
Words = Annotated[
    dict[str, str],
    Meta(
        description="8-byte words by physical address",
        extra_json_schema={
            "propertyNames": {"pattern": _HEX64},
            "patternProperties": {_HEX64: {"type": "string", "pattern": _HEX64}},
        },
    ),
]
"""Read as strings, and checked by `words_of`: to check a million patterns here takes longer."""

Count = Annotated[int, Meta(ge=0)]
"""How many of something."""

AccessName = Literal["read", "write", "execute"]
_HEX = 'expected a hex string such as "0x1000"'
_is_hex64 = re.compile(_HEX64).match


class Document(Struct, frozen=True, forbid_unknown_fields=True):
    """An object of a document; an unknown key is an error."""


class CpuJson(Document, frozen=True, kw_only=True):
    """The object at `$.cpu`."""

    cr0: Hex64 | UnsetType = UNSET
    cr3: Hex64
    cr4: Hex64 | UnsetType = UNSET
    efer: Hex64 | UnsetType = UNSET
    pkru: Hex32 | UnsetType = UNSET
    pkrs: Hex32 | UnsetType = UNSET
    maxphyaddr: Annotated[int, Meta(ge=32, le=52)] | UnsetType = UNSET
    page1gb: bool | UnsetType = UNSET
    vendor: Vendor | UnsetType = UNSET
    encryption_mask: Hex64 | UnsetType = UNSET


class StateJson(Document, frozen=True, kw_only=True):
    """A state of the machine: registers, backed ranges as (start, size), entries of tables."""

    format: str
    cpu: CpuJson
    ram: list[tuple[Hex64, Hex64]]
    entries: Words


class _OutcomeJson(Document, frozen=True, tag_field="outcome", kw_only=True):
    entries: Words | UnsetType = UNSET


class OkJson(_OutcomeJson, frozen=True, tag="ok"):
    """An access that reached `pa`."""

    pa: Hex64


class FaultJson(_OutcomeJson, frozen=True, tag="page_fault"):
    """A page fault."""

    error_code: Hex32
    cr2: Hex64


class ProtectionJson(_OutcomeJson, frozen=True, tag="general_protection"):
    """A general-protection fault."""


OutcomeJson = OkJson | FaultJson | ProtectionJson
Read = TypeVar("Read", bound=Document)


class _Head(Struct):
    format: str


class _Entries(Struct):
    entries: Raw = Raw(b"{}")


def format_of(data: bytes) -> str | None:
    """Return the format that a JSON document names, None where there is none."""
    try:
        return msgspec.json.decode(data, type=_Head).format
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def is_json(data: bytes) -> bool:
    """Return whether `data` is one JSON document, whole, of any form."""
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def read_document(data: bytes | mmap, kind: type[Read], most: int = MAX_CASE_BYTES) -> Read:
    """Return the document in `data`; `LimitExceeded` where that has more than `most` bytes.

    Raises `BadInput`, in one line that begins with the place, for what isn't JSON or not of this
    form: unknown, missing and repeated keys among it.
    """
    if len(data) > most:
        raise LimitExceeded(f"{len(data)} bytes; at most {most} are read")
    data = data[:]
    try:
        document = cast("Read", _decoder(kind).decode(data))
    except msgspec.ValidationError as error:
        # Another format comes first: to a later one, all else that is wrong here may be right.
        expected, found = kind.__annotations__["format"].__args__[0], format_of(data)
        if found not in {None, expected}:
            raise BadInput(f"$.format: {one_line(str(found))!r} is not {expected}") from None
        raise BadInput(_located(str(error), data)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(one_line(f"not JSON: {error}")) from None
    _reject_repeated_keys(data, document)
    return document


@cache
def _decoder(kind: type[Document]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


_FORM = re.compile(r"(?P<text>.*?)( - at (`key` in )?`(?P<place>\$[^`]*)`)?", flags=re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_CHOICES = {
    "access": "read, write or execute",
    "cpl": "0 or 3",
    "outcome": "ok, page_fault or general_protection",
    "vendor": "intel or amd",
}
_TEXTS = {
    *("access", "format", "halted", "known", "note", "outcome", "step", "vendor", "verdict"),
    *("version", "walker", "why"),
}


def _located(error: str, data: bytes) -> str:
    found = _FORM.fullmatch(error)
    text, place = (found["text"], found["place"] or "$") if found else (error, "$")
    if place.endswith("[...]"):
        place = _offender(place.removesuffix("[...]"), data)
    name = place.rpartition(".")[2]
    if "matching regex" in text:
        text = f"{_HEX}, at most {32 if repr(_HEX32) in text else 64} bits"
    elif text.startswith("Expected `str`, got") and name not in _TEXTS:
        text = f"{_HEX}{text.removeprefix('Expected `str`')}"
    elif text.startswith("Invalid") and name in _CHOICES:
        text = f"{text} (must be {_CHOICES[name]})"
    return one_line(f"{place}: {text}")


def _offender(place: str, data: bytes) -> str:
    """Return the place of the first value that is no string of the object of words at `place`."""
    try:
        words = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return place
    for key, index in _STEP.findall(place):
        words = words[key or int(index)]
    wrong = (key for key, value in words.items() if not isinstance(value, str))
    return f'{place}["{next(wrong)}"]'


def _reject_repeated_keys(data: bytes, document: Document) -> None:
    # msgspec lets the last of several equal keys win. The standard library shows all of them;
    # by now the document is known to be shallow and to hold no number too large for it. The
    # entries, of which there may be a million, are counted first: as strings of digits they have
    # four quotes a pair.
    def pairs_once(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for at, key in enumerate(keys) if key in keys[:at])
            raise BadInput(f'the key "{one_line(twice)}" is there twice in one object')

    entries = bytes(msgspec.json.decode(data, type=_Entries).entries)
    if entries.count(b'"') == 4 * len(getattr(document, "entries", ())):
        data = data.replace(entries, b"{}", 1)
    json.loads(data, object_pairs_hook=pairs_once)


def numbers(document: Document) -> dict[str, Any]:
    """Return what is given in a document, by name, with hex strings as numbers.

    A vendor is a string too, but of a type of its own.
    """
    return {
        name: int(value, 16) if type(value) is str else value
        for name, value in msgspec.structs.asdict(document).items()
        if value is not UNSET
    }


def words_of(place: str, texts: Mapping[str, str] | UnsetType) -> dict[int, int]:
    """Return words by address; `BadInput` for what is no number, and for an address given twice."""
    if texts is UNSET:
        return {}
    for name, text in texts.items():
        if not (_is_hex64(name) and _is_hex64(text)):
            raise BadInput(f'{place}["{one_line(name)}"]: {_HEX}, at most 64 bits')
    words = {int(pa, 16): int(word, 16) for pa, word in texts.items()}
    if len(words) != len(texts):
        seen: set[int] = set()
        for name in texts:
            if int(name, 16) in seen:
                raise BadInput(f'{place}["{name}"]: the same address in two spellings')
            seen.add(int(name, 16))
    return words


def outcome_of(place: str, document: OutcomeJson | UnsetType) -> Outcome | None:
    """Return an outcome, None where there is none; raises as `words_of`."""
    if document is UNSET:
        return None
    entries = tuple(sorted(words_of(f"{place}.entries", document.entries).items()))
    match document:
        case OkJson():
            return Translation(int(document.pa, 16), entries=entries)
        case FaultJson():
            return PageFault(int(document.error_code, 16), int(document.cr2, 16), entries)
    return GeneralProtection(entries)


def outcome_record(outcome: Outcome, *, entries: bool = True) -> dict[str, Any]:
    """Return an outcome as JSON has it everywhere; without `entries`, those only if there are any.

    Whether it reached an address, or which fault it took, with the words that it changed.
    """
    match outcome:
        case Translation():
            record: dict[str, Any] = {"outcome": "ok", "pa": hex(outcome.pa)}
        case PageFault(code, cr2):
            record = {"outcome": "page_fault", "error_code": hex(code), "cr2": hex(cr2)}
        case _:
            record = {"outcome": "general_protection"}
    if entries or outcome.entries:
        record["entries"] = hex_words(outcome.entries)
    return record


def hex_words(words: Iterable[tuple[int, int]]) -> dict[str, str]:
    """Return words by address as JSON has them, in the order given."""
    return {hex(pa): hex(word) for pa, word in words}


def document_bytes(parts: Mapping[str, str]) -> bytes:
    """Return a document of these members, each already JSON, in UTF-8 with a newline at the end."""
    text = ",\n".join(f'  "{name}": {value}' for name, value in parts.items())
    return f"{{\n{text}\n}}\n".encode()


def json_line(value: Any) -> str:
    """Return a value as JSON in one line."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def json_block(opening: str, lines: Iterable[str], closing: str) -> str:
    """Return an array or object of the document's first level, an item a line."""
    inner = ",\n".join(f"    {line}" for line in lines)
    return f"{opening}\n{inner}\n  {closing}" if inner else opening + closing
