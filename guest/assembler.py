"""Machine code from assembly: what is shipped assembled, and Keystone for the rest.

All that the guests and the probe run is known beforehand. `assembled.json` beside this module has
its code by a digest of what it is made of, so that Keystone, which not every platform has, is
needed only for code whose addresses are found at run time. `scripts/assemble` writes that file.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING

import msgspec

from crosswalk.guest.errors import AssemblyError

if TYPE_CHECKING:
    import keystone

__all__ = ["SHIPPED", "Assembled", "assemble", "assembling_anew"]

SHIPPED = "assembled.json"
"""The file of shipped code, in this package."""

LABEL = re.compile(r"\s*(\w+):")
# Text in quotes, or a decimal number that would be another one in hex.
TEXT_OR_DECIMAL = re.compile(r'"(?:[^"\\]|\\.)*"|(?<!\w)[1-9][0-9]+(?!\w)')


class Assembled(msgspec.Struct, frozen=True, order=True):
    """Code as it is shipped, in hex; `inputs` is the digest of all that it is made of."""

    name: str
    bits: int
    address: str
    inputs: str
    code: str


_made_anew: list[Assembled] | None = None


def assemble(
    name: str, source: str, *, bits: int, address: int, symbols: Mapping[str, int]
) -> bytes:
    """Return the machine code of `source`, in Intel syntax, for execution at `address`.

    `name` is what errors call the source, `bits` the code size (16, 32 or 64), `symbols` are
    constants the source may use. `#` begins a comment.

    Raises `AssemblyError`, with the line where one can be blamed: not for a label defined twice;
    and where the code isn't shipped and Keystone isn't installed.
    """
    constants = [f".equ {symbol}, {value:#x}" for symbol, value in symbols.items()]
    lines = [_in_hex(line.partition("#")[0].rstrip()) for line in source.splitlines()]
    text = "\n".join([f"{bits} {address:#x}", *constants, *lines])
    inputs = sha256(text.encode()).hexdigest()[:32]
    if _made_anew is None and inputs in _shipped():
        return _shipped()[inputs]
    engine = _engine(name, bits)
    code = _by_keystone(engine, name, constants, lines, address)
    if _made_anew is not None:
        _made_anew.append(Assembled(name, bits, f"{address:#x}", inputs, code.hex()))
    return code


@contextmanager
def assembling_anew() -> Iterator[list[Assembled]]:
    """Have Keystone assemble everything in the body; yields what it made, as it is to be shipped.

    Modules that assemble when they are imported have to be imported in the body first.
    """
    global _made_anew  # noqa: PLW0603  # All that assembles, wherever it is.
    made = _made_anew = []
    try:
        yield made
    finally:
        _made_anew = None


@cache
def _shipped() -> dict[str, bytes]:
    """Return the code that is shipped by the digest of what it is made of."""
    data = resources.files("crosswalk.guest").joinpath(SHIPPED).read_bytes()
    rows = msgspec.json.decode(data, type=list[Assembled])
    return {row.inputs: bytes.fromhex(row.code) for row in rows}


def _in_hex(line: str) -> str:
    """Return the line with its decimal numbers in hex.

    Keystone 0.9.2 doesn't initialise the base in which it takes numbers without a prefix: now
    and then it finds 16 there.
    """
    return TEXT_OR_DECIMAL.sub(
        lambda match: match[0] if match[0].startswith('"') else f"{int(match[0]):#x}", line
    )


def _engine(name: str, bits: int) -> "keystone.Ks":
    try:
        import keystone  # noqa: PLC0415  # Not every platform has it.
    except ImportError as error:
        raise AssemblyError(
            f"{name}: to assemble it takes keystone-engine, which can't be imported: {error}"
        ) from error
    modes = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
    return keystone.Ks(keystone.KS_ARCH_X86, modes[bits])


def _by_keystone(
    engine: "keystone.Ks", name: str, constants: list[str], lines: list[str], address: int
) -> bytes:
    from keystone import KsError  # noqa: PLC0415  # As above.

    try:
        return _encode(engine, [*constants, *lines], address)
    except KsError as error:
        for number, definitions in _alone(constants, lines, address):
            try:
                _encode(engine, [*definitions, lines[number]], address)
            except KsError:
                where = f"{name}:{number + 1}: {lines[number].strip()!r}"
                raise AssemblyError(f"{where}: {error}") from error
        raise AssemblyError(f"{name}: {error}") from error


def _encode(engine: "keystone.Ks", lines: Sequence[str], address: int) -> bytes:
    code, _ = engine.asm("\n".join(lines), address, as_bytes=True)
    return bytes(code or b"")


def _alone(constants: list[str], lines: list[str], address: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line, and the definitions that it needs to be assembled alone.

    Keystone doesn't say at which line it stopped. They are the constants of the lines before, and
    a made-up address for every label but the line's own.
    """
    labels = {match[1] for line in lines if (match := LABEL.match(line))}
    before = list(constants)
    for number, line in enumerate(lines):
        own = LABEL.match(line)
        others = labels - {own[1]} if own else labels
        yield number, [*before, *(f".equ {label}, {address:#x}" for label in sorted(others))]
        if line.lstrip().startswith(".equ"):
            before.append(line)
