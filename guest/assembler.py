"""Keystone, with comments, symbols and errors that name the line."""

import re
from collections.abc import Mapping, Sequence

import keystone

from crosswalk.guest.errors import AssemblyError

__all__ = ["assemble"]

MODES = {
    16: keystone.KS_MODE_16,
    32: keystone.KS_MODE_32,
    64: keystone.KS_MODE_64,
}

LABEL = re.compile(r"\s*(\w+):")
# Text in quotes, or a decimal number that would be another one in hex.
TEXT_OR_DECIMAL = re.compile(r'"(?:[^"\\]|\\.)*"|(?<!\w)[1-9][0-9]+(?!\w)')


def assemble(
    name: str, source: str, *, bits: int, address: int, symbols: Mapping[str, int]
) -> bytes:
    """Return the machine code of `source`, in Intel syntax, for execution at `address`.

    `name` is what errors call the source, `bits` the code size (16, 32 or 64), `symbols` are
    constants the source may use. `#` begins a comment.

    Raises `AssemblyError`, with the line where one can be blamed: not for a label defined twice.
    """
    engine = keystone.Ks(keystone.KS_ARCH_X86, MODES[bits])
    constants = [_equ(symbol, value) for symbol, value in symbols.items()]
    lines = [_in_hex(line.partition("#")[0].rstrip()) for line in source.splitlines()]
    try:
        return _encode(engine, [*constants, *lines], address)
    except keystone.KsError as error:
        guilty = _guilty_line(engine, constants, lines, address)
        where = name if guilty is None else f"{name}:{guilty + 1}: {lines[guilty].strip()!r}"
        raise AssemblyError(f"{where}: {error}") from error


def _in_hex(line: str) -> str:
    """Return the line with its decimal numbers in hex.

    Keystone 0.9.2 doesn't initialise the base in which it takes numbers without a prefix: now
    and then it finds 16 there.
    """
    return TEXT_OR_DECIMAL.sub(
        lambda match: match[0] if match[0].startswith('"') else f"{int(match[0]):#x}", line
    )


def _equ(symbol: str, value: int) -> str:
    return f".equ {symbol}, {value:#x}"


def _encode(engine: keystone.Ks, lines: Sequence[str], address: int) -> bytes:
    code, _ = engine.asm("\n".join(lines), address, as_bytes=True)
    return bytes(code or b"")


def _guilty_line(
    engine: keystone.Ks, constants: list[str], lines: list[str], address: int
) -> int | None:
    """Return the index of the first line that can't be assembled by itself, or None.

    Keystone doesn't say where it stopped, so each line is tried alone, with the constants of the
    lines before it and a made-up address for every label but its own.
    """
    labels = {match[1] for line in lines if (match := LABEL.match(line))}
    definitions = list(constants)
    for number, line in enumerate(lines):
        own = LABEL.match(line)
        others = labels - {own[1]} if own else labels
        try:
            _encode(
                engine, [*definitions, *(_equ(label, address) for label in others), line], address
            )
        except keystone.KsError:
            return number
        if line.lstrip().startswith(".equ"):
            definitions.append(line)
    return None
