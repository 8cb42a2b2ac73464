"""`--walker`: which walker is under test."""

from dataclasses import replace

from crosswalk.emu.targets.builtin import BUILTIN
from crosswalk.emu.targets.capabilities import Capability, Target, parse_claims
from crosswalk.emu.targets.clib import CLibrary
from crosswalk.emu.targets.jsonl import JsonLines
from crosswalk.emu.targets.loaded import Contained
from crosswalk.emu.targets.python import load_python
from crosswalk.emu.targets.volatility import Volatility
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput

__all__ = ["KINDS", "open_target", "parse_claims"]

KINDS = (
    "python:MODULE:FUNCTION, python:FILE.py:FUNCTION, exec:COMMAND, c:LIBRARY.so, volatility3, "
    "bulk, translate, walk"
)


def open_target(text: str, limits: Limits | None = None, *, claims: str | None = None) -> Target:
    """Return the walker that `text` names; `claims`, names and commas, go before its own.

    Raises `BadInput` for one that there isn't, that can't be loaded, or can't answer that.
    """
    limits = Limits() if limits is None else limits
    chosen = None if claims is None else parse_claims(claims, "--claims")
    kind, _, rest = text.partition(":")
    if text in BUILTIN:
        return replace(BUILTIN[text], claims=_some(text, BUILTIN[text].claims, chosen))
    if kind == "python" and rest:
        return Contained(text, lambda _: load_python(rest, chosen), limits)
    if kind == "c" and rest:
        return Contained(text, lambda give_up: CLibrary(rest, chosen, give_up), limits)
    if kind == "exec" and rest:
        return JsonLines(text, rest, chosen, limits)
    if text == "volatility3":
        _some(text, Volatility.claims, chosen)
        return Contained(text, lambda _: Volatility(), limits)
    raise BadInput(f"--walker {text}: none of {KINDS}")


def _some(
    name: str, able: frozenset[Capability], chosen: frozenset[Capability] | None
) -> frozenset[Capability]:
    """Return what is chosen of what a walker can answer."""
    if chosen is not None and not chosen <= able:
        raise BadInput(f"--claims: {name} answers {', '.join(sorted(able))} only")
    return able if chosen is None else chosen
