"""The JSON form of a case file, decoded strictly; meaning is checked in `casetypes`."""

import json
import re
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from crosswalk.walker.context import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.casetypes import FORMAT, AccessName, OutcomeName
from crosswalk.walker.formats.located_errors import one_line

__all__ = ["CaseJson", "CpuJson", "Hex32", "Hex64", "OutcomeJson", "ProbeJson", "decode"]

_HEX64 = r"^0x[0-9a-fA-F]{1,16}\Z"
_HEX32 = r"^0x[0-9a-fA-F]{1,8}\Z"
Hex64 = Annotated[str, Meta(pattern=_HEX64)]
Hex32 = Annotated[str, Meta(pattern=_HEX32)]


class CpuJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The object at `$.cpu`."""

    cr3: Hex64
    cr0: Hex64 | UnsetType = UNSET
    cr4: Hex64 | UnsetType = UNSET
    efer: Hex64 | UnsetType = UNSET
    pkru: Hex32 | UnsetType = UNSET
    maxphyaddr: Annotated[int, Meta(ge=32, le=52)] | UnsetType = UNSET
    page1gb: bool | UnsetType = UNSET
    vendor: Vendor | UnsetType = UNSET
    encryption_mask: Hex64 | UnsetType = UNSET


class OutcomeJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The object at `$.probes[…].predicted` and `.observed`."""

    outcome: OutcomeName
    pa: Hex64 | UnsetType = UNSET
    error_code: Hex32 | UnsetType = UNSET
    cr2: Hex64 | UnsetType = UNSET
    entries: dict[Hex64, Hex64] | UnsetType = UNSET


class ProbeJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The object at `$.probes[…]`."""

    va: Hex64
    access: AccessName
    cpl: Literal[0, 3]
    ac: bool
    predicted: OutcomeJson | UnsetType = UNSET
    observed: OutcomeJson | UnsetType = UNSET


class CaseJson(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole document."""

    format: Literal["crosswalk-case/1"]
    cpu: CpuJson
    ram: list[tuple[Hex64, Hex64]]
    entries: dict[Hex64, Hex64]
    probes: list[ProbeJson]
    seed: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    note: str | UnsetType = UNSET
    walker: str | UnsetType = UNSET


def decode(data: bytes) -> CaseJson:
    """Return the document in `data`.

    Raises `BadInput`, in one line that begins with the place (`$.probes[2].access: …`), for
    what isn't JSON or not of this form: unknown, missing and repeated keys among it.
    """
    try:
        document = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        _reject_other_format(data)
        raise BadInput(_located(str(error), data)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(one_line(f"not JSON: {error}")) from None
    _reject_repeated_keys(data)
    return document


_DECODER = msgspec.json.Decoder(CaseJson)
_FORM = re.compile(
    r"(?P<text>.*?)( - at (?P<key>`key` in )?`(?P<place>\$[^`]*)`)?", flags=re.DOTALL
)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_CHOICES = {
    "access": "read, write or execute",
    "cpl": "0 or 3",
    "format": FORMAT,
    "outcome": "ok, page_fault or general_protection",
    "vendor": "intel or amd",
}
_TEXTS = {"access", "format", "note", "outcome", "vendor", "walker"}


class _Head(Struct):
    format: str


def _reject_other_format(data: bytes) -> None:
    # Said before anything else that may be wrong: to a later format, all of that is right.
    try:
        head = msgspec.json.decode(data, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if head.format != FORMAT:
        raise BadInput(f"$.format: {one_line(head.format)!r} is not {FORMAT}")


def _located(error: str, data: bytes) -> str:
    found = _FORM.fullmatch(error)
    text = found["text"] if found else error
    place = (found and found["place"]) or "$"
    is_key = bool(found and found["key"])
    if is_key or place.endswith("[...]"):
        place = _offender(place.removesuffix("[...]"), data, is_key=is_key)
    name = place.rpartition(".")[2]
    if "matching regex" in text:
        bits = 32 if repr(_HEX32) in text else 64
        text = f'expected a hex string such as "0x1000", at most {bits} bits'
    elif text.startswith("Expected `str`, got") and name not in _TEXTS:
        text = f'expected a hex string such as "0x1000"{text.removeprefix("Expected `str`")}'
    elif text.startswith("Invalid enum value"):
        text = f"{text} (must be {_CHOICES[name]})"
    return one_line(f"{place}: {text}")


def _offender(place: str, data: bytes, *, is_key: bool) -> str:
    """Return the place of the first wrong key or value of the object of words at `place`."""
    try:
        words = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return place
    for key, index in _STEP.findall(place):
        words = words[key or int(index)]
    for key, value in cast("dict[str, object]", words).items():
        judged = key if is_key else value
        if not isinstance(judged, str) or not re.match(_HEX64, judged):
            return f'{place}["{key}"]'
    return place


def _reject_repeated_keys(data: bytes) -> None:
    # msgspec lets the last of several equal keys win. The standard library shows all of them;
    # by now the document is known to be shallow and to hold no number too large for it.
    def pairs_once(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for at, key in enumerate(keys) if key in keys[:at])
            raise BadInput(f'the key "{one_line(twice)}" is there twice in one object')

    json.loads(data, object_pairs_hook=pairs_once)
