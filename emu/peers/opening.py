"""`--walker`: which walker is under test."""

from importlib.util import find_spec

from emu.peers.builtin import BUILTIN
from emu.peers.child import Contained
from emu.peers.claims import Claim, Limits, Peer
from emu.peers.clib import CLibrary
from emu.peers.jsonl import JsonLines
from emu.peers.python import load_function, python_answer
from walker.errors import BadInput

__all__ = ["KINDS", "open_peer", "parse_claims"]

KINDS = "python:MODULE:FUNCTION, exec:COMMAND, c:LIBRARY.so, volatility3, bulk, translate, walk"


def open_peer(text: str, limits: Limits | None = None, *, claims: str | None = None) -> Peer:
    """Return the walker that `text` names; `claims`, names and commas, are before its own.

    Raises `BadInput` for one that there isn't, or that can't be loaded.
    """
    limits = Limits() if limits is None else limits
    chosen = None if claims is None else parse_claims(claims, "--claims")
    kind, _, rest = text.partition(":")
    if text in BUILTIN:
        return BUILTIN[text]
    if kind == "python" and rest:
        function = load_function(rest)
        own = getattr(function, "claims", Claim.TRANSLATION.value)
        mine = chosen or parse_claims(own, text)
        return Contained(text, mine, python_answer(function, mine), limits)
    if kind == "c" and rest:
        library = CLibrary(rest)
        return Contained(text, chosen or library.claims, library.answer, limits)
    if kind == "exec" and rest:
        return JsonLines(text, rest, chosen, limits)
    if text == "volatility3":
        if find_spec("volatility3") is None:
            raise BadInput("volatility3 isn't there: pip install crosswalk-x86[volatility3]")
        from emu.peers.volatility import translated  # noqa: PLC0415  # Optional, slow to import.

        return Contained(text, frozenset({Claim.TRANSLATION}), translated, limits)
    raise BadInput(f"--walker {text}: none of {KINDS}")


def parse_claims(text: str, where: str) -> frozenset[Claim]:
    """Return the claims of a list of names; `BadInput` for a name that is none."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in {claim.value for claim in Claim}:
            known = ", ".join(claim.value for claim in Claim)
            raise BadInput(f"{where}: {name!r} is none of {known}")
    return frozenset(Claim(name) for name in names)
