"""Points of a boot as options name them, with symbols out of the guest's own file."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from crosswalk.emu.cli.names import symbols_of
from crosswalk.emu.load.image import GuestImage
from crosswalk.emu.load.points import Point, PointKind, parse_point
from crosswalk.walker.errors import BadInput

__all__ = ["parsed_points", "point_named"]

_SYMBOL = f"{PointKind.SYMBOL.value}:"


def parsed_points(options: argparse.Namespace, image: GuestImage) -> tuple[list[Point], Point]:
    """Return the points of --check-at, and that of --until.

    Without --until the last one is the guest's exit, with --exit-port, or "idle". `BadInput` as
    `point_named` has it, and for an exit without --exit-port.
    """
    last = PointKind.IDLE if options.exit_port is None else PointKind.EXIT
    texts = [*(options.check_at or ()), options.until or last.value]
    if options.exit_port is None and PointKind.EXIT.value in texts:
        raise BadInput("the point exit needs --exit-port, by which the guest exits")
    symbols = _symbols(texts, image, options.system_map)
    *points, until = [parse_point(text, symbols) for text in texts]
    return points, until


def point_named(text: str, image: GuestImage, system_map: Path | None = None) -> Point:
    """Return the point of this text.

    Symbols are those of the file `system_map`, without one those of the guest's own file.

    Raises `BadInput` for what is no point, and where there is no such symbol.
    """
    return parse_point(text, _symbols([text], image, system_map))


def _symbols(
    texts: list[str], image: GuestImage, system_map: Path | None
) -> Mapping[str, int] | None:
    """Return the symbols that points are named by; None where no point is."""
    if system_map is not None:
        return symbols_of(str(system_map)).symbols.addresses()
    if not any(text.startswith(_SYMBOL) for text in texts):
        return None
    symbols = image.symbols
    if not symbols:
        raise BadInput("the guest's file has no symbols: --system-map FILE takes those of another")
    return symbols
