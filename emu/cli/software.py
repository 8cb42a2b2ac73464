"""`walk --software`: entries that aren't present, and what they mean to an operating system."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crosswalk.emu.cli.listing_options import FILTERS
from crosswalk.emu.cli.listing_output import chosen_format
from crosswalk.emu.cli.output import remark
from crosswalk.emu.cli.sources import chosen_range
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.text import size_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.formats.files import write_parts
from crosswalk.walker.software import SYSTEMS, State, System, absent_entries

__all__ = ["MOST", "list_states", "refuse_with_software"]

MOST = 10_000_000
"""The most lines, unless a limit is given."""
_DECIMAL = ("type", "number", "protection")
_OTHERS = ("expect", "coalesce", "watch", "legend", "symbols", "types", "memory_type")
_AT_ONCE = 8192


def refuse_with_software(options: argparse.Namespace) -> None:
    """Raise `BadInput` for options that are about mappings, and for forms that this list hasn't."""
    names = [each.dest for each in FILTERS.options]
    for name in (*names, "within", "name", *_OTHERS):
        if getattr(options, name, None) not in (None, False, [], ()):
            option = "in" if name == "within" else name.replace("_", "-")
            raise BadInput(f"--software lists what maps nothing: --{option} is about mappings")
    if chosen_format(options) not in ("text", "json"):
        raise BadInput(f"--software and --format {options.format}: choose text or json")


@dataclass(slots=True)
class _Counts:
    """What was listed: how many entries of each kind, and whether there are more."""

    kinds: Counter[str] = field(default_factory=Counter)
    more: bool = False


def list_states(options: argparse.Namespace, spaces: Spaces) -> int:
    """List the entries that aren't present of each root, and return the exit status."""
    system = SYSTEMS[options.software]
    for context in spaces.contexts:
        system.require(context)
    counts = _Counts()
    parts = _parts(options, spaces, system, counts)
    if options.output is not None:
        write_parts(options.output, parts)
    else:
        for part in parts:
            sys.stdout.flush()
            sys.stdout.buffer.write(part)
    total = counts.kinds.total()
    counted = "1 entry" if total == 1 else f"{total:,} entries"
    each = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.kinds.items()))
    more = ", and there are more" if counts.more else ""
    remark(f"{counted} of {system.title}{f': {each}' if each else ''}{more}")
    return 0


def _parts(
    options: argparse.Namespace, spaces: Spaces, system: System, counts: _Counts
) -> Iterator[bytes]:
    """Yield the list, some thousand entries at once, and count them by kind.

    `LimitExceeded` for too many, unless a limit was given.
    """
    start, end = chosen_range(options)
    limit = MOST if options.limit is None else options.limit
    as_json = chosen_format(options) == "json"
    for context in spaces.contexts:
        root = {"root": hex(context.root)} if spaces.named else {}
        shown = not spaces.named or as_json
        for rows in absent_entries(spaces.source.memory, context, start, end):
            for at in range(0, len(rows), _AT_ONCE):
                states = system.states(rows.take(slice(at, at + _AT_ONCE)))
                left = limit - counts.kinds.total()
                some = states.take(slice(left))
                counts.kinds.update(system.kinds[kind].name for kind in some.kind.tolist())
                each = system.each(some)
                if as_json:
                    lines = [json.dumps({**root, **_record(state)}) for state in each]
                else:
                    lines = [_state_text(state, context) for state in each]
                if lines and not shown:
                    lines = [f"root {context.root:#x}:", *lines]
                    shown = True
                yield "".join(f"{line}\n" for line in lines).encode()
                counts.more = len(states) > left
                if counts.more:
                    if options.limit is None:
                        raise LimitExceeded(
                            f"stopped after {limit:,} lines; --limit N goes on, --start picks up"
                        )
                    return


def _record(state: State) -> dict[str, Any]:
    """Return the state of an entry as JSON has it."""
    fields = {
        name: value if name in _DECIMAL else hex(value) for name, value in state.fields.items()
    }
    return {
        "va": hex(state.va),
        "size": state.size,
        "level": state.level,
        "entry": hex(state.entry),
        "state": state.kind.name,
        **fields,
        "flags": list(state.flags),
    }


def _state_text(state: State, context: PagingContext) -> str:
    """Return the state of an entry as a line."""
    name = level_of(context, state.level).entry
    text = (
        f"{state.va:016x} {size_text(state.size):>7} {name:<5} {state.entry:#018x}  "
        f"{state.kind.name:<13} {' '.join(_details(state))}"
    )
    return text.rstrip()


def _details(state: State) -> Iterator[str]:
    for each in state.kind.fields:
        value = state.fields[each.name]
        if each.names:
            yield each.names[value]
        else:
            yield f"{each.name} {value if each.name in _DECIMAL else hex(value)}"
    yield from state.flags
