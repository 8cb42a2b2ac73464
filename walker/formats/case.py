"""Case files, format crosswalk-case/1: read, and written so that a diff is readable."""

import os
from collections.abc import Mapping
from mmap import mmap
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.casejson import CaseJson, OutcomeJson, ProbeJson, decode
from crosswalk.walker.formats.casetypes import FORMAT, Case, Cpu, OutcomeRecord, Probe
from crosswalk.walker.formats.files import map_file
from crosswalk.walker.formats.located_errors import errors_named

__all__ = [
    "FORMAT",
    "MAX_CASE_BYTES",
    "Case",
    "Cpu",
    "OutcomeRecord",
    "Probe",
    "cpu_document",
    "dump_case",
    "json_block",
    "json_line",
    "load_case",
    "parse_case",
]

MAX_CASE_BYTES = 1 << 28
"""The largest case file that is read, in bytes."""


def load_case(path: str | os.PathLike[str]) -> Case:
    """Return the case in the file at `path`.

    Raises `BadInput` for a file that can't be read or isn't a valid case, in one line that
    names the file and the place in it, and `LimitExceeded` beyond `MAX_CASE_BYTES`.
    """
    file = map_file(path)
    return parse_case(file.data, file.name)


def parse_case(data: bytes | mmap, name: str) -> Case:
    """Return the case that `data` holds as JSON; `name` is what errors call it.

    Raises as `load_case` does.
    """
    with errors_named(name):
        if len(data) > MAX_CASE_BYTES:
            raise LimitExceeded(f"{len(data)} bytes; a case has at most {MAX_CASE_BYTES}")
        return _case(decode(data[:]))


def _case(document: CaseJson) -> Case:
    cpu = msgspec.structs.asdict(document.cpu)
    return Case(
        cpu=Cpu(**{name: _value(value) for name, value in cpu.items() if value is not UNSET}),
        ram=tuple((int(start, 16), int(size, 16)) for start, size in document.ram),
        entries=_words("$.entries", document.entries),
        probes=tuple(_probe(f"$.probes[{at}]", each) for at, each in enumerate(document.probes)),
        seed=None if document.seed is UNSET else document.seed,
        note=None if document.note is UNSET else document.note,
        walker=None if document.walker is UNSET else document.walker,
    )


def _value(value: Any) -> Any:
    # A vendor is a string too, but of a type of its own.
    return int(value, 16) if type(value) is str else value


def _number(text: str | UnsetType) -> int | None:
    return None if text is UNSET else int(text, 16)


def _words(place: str, texts: Mapping[str, str]) -> dict[int, int]:
    words = {int(pa, 16): int(word, 16) for pa, word in texts.items()}
    if len(words) != len(texts):
        seen: set[int] = set()
        for text in texts:
            if int(text, 16) in seen:
                raise BadInput(f'{place}["{text}"]: the same address in two spellings')
            seen.add(int(text, 16))
    return words


def _probe(place: str, probe: ProbeJson) -> Probe:
    return Probe(
        va=int(probe.va, 16),
        access=probe.access,
        cpl=probe.cpl,
        ac=probe.ac,
        predicted=_outcome(f"{place}.predicted", probe.predicted),
        observed=_outcome(f"{place}.observed", probe.observed),
    )


def _outcome(place: str, outcome: OutcomeJson | UnsetType) -> OutcomeRecord | None:
    if outcome is UNSET:
        return None
    return OutcomeRecord(
        outcome=outcome.outcome,
        pa=_number(outcome.pa),
        error_code=_number(outcome.error_code),
        cr2=_number(outcome.cr2),
        entries={} if outcome.entries is UNSET else _words(f"{place}.entries", outcome.entries),
    )


def dump_case(case: Case) -> bytes:
    """Return `case` as JSON in UTF-8, ending in a newline.

    Equal cases give equal bytes: keys in one order, entries by address and one a line, hex in
    lower case without leading zeros, all of `cpu` written out, but for an encryption mask of 0.
    """
    parts = {"format": json_line(case.format)}
    for name in ("seed", "note", "walker"):
        if getattr(case, name) is not None:
            parts[name] = json_line(getattr(case, name))
    parts["cpu"] = json_line(cpu_document(case.cpu))
    parts["ram"] = json_line([[hex(start), hex(size)] for start, size in case.ram])
    words = sorted(case.entries.items())
    parts["entries"] = json_block("{", [f'"{pa:#x}": "{word:#x}"' for pa, word in words], "}")
    parts["probes"] = json_block("[", [_probe_text(probe) for probe in case.probes], "]")
    text = ",\n".join(f'  "{name}": {value}' for name, value in parts.items())
    return f"{{\n{text}\n}}\n".encode()


def cpu_document(cpu: Cpu) -> dict[str, Any]:
    """Return the object at `$.cpu`, without an encryption mask of 0."""
    registers = ("cr0", "cr3", "cr4", "efer", "pkru")
    document: dict[str, Any] = {name: hex(getattr(cpu, name)) for name in registers}
    document |= {"maxphyaddr": cpu.maxphyaddr, "page1gb": cpu.page1gb, "vendor": cpu.vendor}
    if cpu.encryption_mask:
        document["encryption_mask"] = hex(cpu.encryption_mask)
    return document


def json_line(value: Any) -> str:
    """Return a value as JSON in one line."""
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def json_block(opening: str, lines: list[str], closing: str) -> str:
    """Return an array or object of the document's first level, an item a line."""
    inner = ",\n".join(f"    {line}" for line in lines)
    return f"{opening}\n{inner}\n  {closing}" if lines else opening + closing


def _probe_text(probe: Probe) -> str:
    access = {"va": hex(probe.va), "access": probe.access, "cpl": probe.cpl, "ac": probe.ac}
    text = json_line(access).removesuffix("}")
    for name, record in (("predicted", probe.predicted), ("observed", probe.observed)):
        if record is not None:
            text += f',\n     "{name}": {_outcome_text(record)}'
    return text + "}"


def _outcome_text(record: OutcomeRecord) -> str:
    document: dict[str, Any] = {"outcome": record.outcome}
    for name in ("pa", "error_code", "cr2"):
        if getattr(record, name) is not None:
            document[name] = hex(getattr(record, name))
    if record.entries:
        document["entries"] = {hex(pa): hex(word) for pa, word in sorted(record.entries.items())}
    return json_line(document)
