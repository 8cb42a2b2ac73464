"""`walk --software`: entries that aren't present, and what they mean to an operating system."""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any

from crosswalk.emu.cli.listing_options import FILTERS
from crosswalk.emu.cli.output import emit, remark
from crosswalk.emu.cli.sources import chosen_range
from crosswalk.emu.cli.spaces import Spaces
from crosswalk.emu.report.text import size_text
from crosswalk.walker.context import PagingContext
from crosswalk.walker.entry import level_of
from crosswalk.walker.errors import BadInput, LimitExceeded
from crosswalk.walker.software import SYSTEMS, State, States, System, absent_entries

__all__ = ["MOST", "list_states", "refuse_with_software", "state_text"]

MOST = 10_000_000
"""The most lines, unless a limit is given."""
_DECIMAL = ("type", "number", "protection")
_OTHERS = (
    "expect",
    "coalesce",
    "watch",
    "format",
    "output",
    "legend",
    "symbols",
    "types",
    "memory_type",
)


def refuse_with_software(options: argparse.Namespace) -> None:
    """Raise `BadInput` for options that are about mappings, or about how those are written."""
    names = [each.dest for each in FILTERS.options]
    for name in (*names, "within", "name", *_OTHERS):
        if getattr(options, name, None) not in (None, False, [], ()):
            option = "in" if name == "within" else name.replace("_", "-")
            raise BadInput(f"--software lists what maps nothing: --{option} is about mappings")


def list_states(options: argparse.Namespace, spaces: Spaces) -> int:
    """List the entries that aren't present of each root, and return the exit status."""
    system = SYSTEMS[options.software]
    for context in spaces.contexts:
        system.require(context)
    start, end = chosen_range(options)
    kinds: Counter[str] = Counter()
    more = False
    limit = MOST if options.limit is None else options.limit
    for context in spaces.contexts:
        blocks = (
            system.states(rows)
            for rows in absent_entries(spaces.source.memory, context, start, end)
        )
        root = {"root": hex(context.root)} if spaces.named else {}
        shown = not spaces.named or options.json
        for states in blocks:
            left = limit - kinds.total()
            more = len(states) > left
            some = states.take(slice(left)) if more else states
            if len(some) and not shown:
                print(f"root {context.root:#x}:")
                shown = True
            _print(some, system, context, root, options)
            kinds.update(system.kinds[kind].name for kind in some.kind.tolist())
            if more:
                break
        if more:
            break
    if more and options.limit is None:
        raise LimitExceeded(f"stopped after {limit:,} lines; --limit N goes on, --start picks up")
    total = kinds.total()
    counted = "1 entry" if total == 1 else f"{total:,} entries"
    each = ", ".join(f"{count:,} {name}" for name, count in sorted(kinds.items()))
    behind = f": {each}" if each else ""
    remark(f"{counted} of {system.title}{behind}{', and there are more' if more else ''}")
    return 0


def _print(
    states: States,
    system: System,
    context: PagingContext,
    root: dict[str, str],
    options: argparse.Namespace,
) -> None:
    for state in system.each(states):
        if options.json:
            emit({**root, **_record(state)})
        else:
            print(state_text(state, context))


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


def state_text(state: State, context: PagingContext) -> str:
    """Return the state of an entry as a line."""
    name = level_of(context, state.level).entry
    text = (
        f"{state.va:016x} {size_text(state.size):>7} {name:<5} {state.entry:#018x}  "
        f"{state.kind.name:<13} {' '.join(_details(state))}"
    )
    return text.rstrip()


def _details(state: State) -> Iterator[str]:
    for field in state.kind.fields:
        value = state.fields[field.name]
        if field.names:
            yield field.names[value]
        else:
            yield f"{field.name} {value if field.name in _DECIMAL else hex(value)}"
    yield from state.flags
