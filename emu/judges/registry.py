"""`--with`: the kinds of judges, by name."""

from collections.abc import Callable, Sequence
from pathlib import PurePath

from crosswalk.emu.judges.booted import BootedJudge
from crosswalk.emu.judges.judge import Judge
from crosswalk.emu.judges.logged import LoggedJudge
from crosswalk.emu.judges.unicorn import UnicornJudge
from crosswalk.emu.judges.x86isa import X86isa
from crosswalk.emu.machines.bochs import Bochs
from crosswalk.emu.machines.machine import Machine
from crosswalk.emu.machines.outside import Command
from crosswalk.emu.machines.qemu import Qemu
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import printable

__all__ = ["JUDGES", "open_judge", "open_machine", "parted", "short_names"]

JUDGES = (
    "unicorn",
    "qemu[:PATH]",
    "qemu-mttcg[:PATH]",
    "kvm[:PATH]",
    "bochs[:PATH]",
    "exec:COMMAND",
    "log:FILE",
    "x86isa[:ACL2]",
)
"""What can be given, for help and for errors."""

_SECONDS = 600.0
"""How long the emulated CPU may take for what is asked at once."""

_MACHINES: dict[str, Callable[[str, str], Machine]] = {
    "qemu": Qemu,
    "qemu-mttcg": lambda name, path: Qemu(name, path, "mttcg"),
    "kvm": lambda name, path: Qemu(name, path, "kvm"),
    "bochs": Bochs,
    "exec": Command,
}
_OTHERS: dict[str, Callable[[str, str], Judge]] = {"log": LoggedJudge, "x86isa": X86isa}
"""Judges that boot nothing."""

_DEFAULTS = {
    "qemu": "qemu-system-x86_64",
    "qemu-mttcg": "qemu-system-x86_64",
    "kvm": "qemu-system-x86_64",
    "bochs": "bochs",
    "x86isa": "acl2",
}
"""The program of a kind whose name comes without one."""


def open_machine(text: str) -> Machine:
    """Return the machine that `text` names, one of JUDGES that boots images.

    Raises `BadInput` for others, and where it can't be had.
    """
    kind, which = parted(text)
    if kind == "log":
        raise BadInput(f"{printable(text)}: a log answers what was exported, and nothing else")
    if kind not in _MACHINES:
        raise BadInput(f"{printable(text)}: boots no images")
    return _MACHINES[kind](text, which)


def open_judge(text: str) -> Judge:
    """Return the judge that `text` names, one of JUDGES.

    Raises `BadInput` for others, and where it can't be had.
    """
    if text == "unicorn":
        return UnicornJudge(_SECONDS)
    kind, which = parted(text)
    if kind in _OTHERS:
        return _OTHERS[kind](text, which)
    return BootedJudge(open_machine(text))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for each of some names of judges, all of them distinct, a short one for lines.

    It is the kind, of a log with the file's name; a further one of the same has a number.
    """
    short: dict[str, str] = {}
    for name in names:
        kind, _, which = name.partition(":")
        title = f"{kind}:{printable(PurePath(which).name)}" if kind == "log" and which else kind
        number, taken = 1, set(short.values())
        while (own := title if number == 1 else f"{title}-{number}") in taken:
            number += 1
        short[name] = own
    return short


def parted(text: str) -> tuple[str, str]:
    """Return the kind that `text` names, and which one of it; `BadInput` for no kind of JUDGES."""
    kind, colon, rest = text.partition(":")
    if kind not in _MACHINES and kind not in _OTHERS:
        raise BadInput(f"{printable(text)}: no judge; there are {', '.join(JUDGES)}")
    if colon and not rest:
        raise BadInput(f"{printable(text)}: nothing behind the colon")
    if not rest and kind not in _DEFAULTS:
        raise BadInput(f"{printable(text)}: needs a colon and what it is")
    return kind, rest or _DEFAULTS[kind]
