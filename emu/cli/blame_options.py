"""`--blame`: the addresses whose page-table entries' stores are asked for."""

import argparse
from dataclasses import dataclass

from crosswalk.emu.cli.options import number, option

__all__ = ["BLAME", "BlameTarget"]

_PHYSICAL = "pa:"


@dataclass(frozen=True, slots=True)
class BlameTarget:
    """What --blame names: a linear address, or with `physical` the frame of a physical one."""

    address: int
    physical: bool = False

    def __str__(self) -> str:
        return f"{_PHYSICAL if self.physical else ''}{self.address:#x}"


def _target(text: str) -> BlameTarget:
    """Return the target that a value names; `argparse.ArgumentTypeError` for another text."""
    digits = text.removeprefix(_PHYSICAL)
    try:
        return BlameTarget(number()(digits), physical=digits != text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}: an address, or pa: and one") from None


BLAME = option(
    "--blame",
    metavar="VA|pa:PA",
    type=_target,
    nargs="+",
    action="extend",
    help="run once more, and tell who wrote the entries of the walk of each of these addresses at "
    "the last point: instruction, symbol and moment; of a physical one, of each mapping of its "
    "frame",
    needs="kernel",
)
