"""`--with`: the machine in which `protect` has a host run a guest under EPT."""

import argparse

from crosswalk.emu.monitor.machines import BochsHost
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import printable
from crosswalk.walker.protection.policy import TableKind

__all__ = ["chosen_host", "chosen_kind"]

_BOCHS = "bochs"
_FETCHED = "scripts/judges fetches Bochs 3"


def chosen_kind(options: argparse.Namespace) -> TableKind:
    """Return the kind of second-level tables that the options choose.

    Raises `BadInput` where a machine is chosen for tables that it doesn't run.
    """
    kind = TableKind(options.tables or TableKind.NPT)
    if kind is TableKind.NPT and options.machine is not None:
        raise BadInput("--with is for --tables ept and --tables ept-mbec")
    return kind


def chosen_host(options: argparse.Namespace, more: str = "") -> BochsHost:
    """Return the machine that `--with` names: Bochs, from PATH unless it says where.

    `more` are lines of its settings besides.

    Raises `BadInput` for another, and where it can't be had.
    """
    text = _BOCHS if options.machine is None else options.machine
    kind, colon, path = text.partition(":")
    if kind != _BOCHS or (colon and not path):
        raise BadInput(f"--with {printable(text)}: EPT is run by bochs or bochs:PATH")
    try:
        return BochsHost(path or _BOCHS, more=more)
    except BadInput as error:
        raise BadInput(f"{error} ({_FETCHED})") from error
