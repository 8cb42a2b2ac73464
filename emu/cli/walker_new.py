"""`walker new`: a walker to begin with, or an adapter for one that is there."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from crosswalk.emu.cli.output import command_line
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.files import read_file, write_file
from crosswalk.walker.formats.located_errors import printable

__all__ = ["run_new"]

_INCLUDE = '-I"$(python3 -m crosswalk.emu.targets)"'
_PROTOCOL = "protocol.py"
_LARGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class _Starter:
    """A file to begin with: its name, and how Crosswalk reaches the walker in it.

    In `walkers`, `{name}` is the file as a shell takes it. `before` are the commands that come
    first; `options` those that the walker takes. An adapter has `protocol.py` beside it.
    """

    file: str
    walkers: tuple[str, ...]
    before: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    adapter: bool = False


_DEBIAN = "/usr/bin/python3"  # Debian's modules belong to Debian's Python.
_STARTERS = {
    "python": _Starter("mywalker.py", ("python:{path}:translate", "python:{path}:mappings")),
    "c": _Starter(
        "mywalker.c", ("c:{library}",), (f"cc -shared -fPIC {_INCLUDE} -o {{out}} {{name}}",)
    ),
    "exec": _Starter("mywalker_exec.py", ("exec:python3 {name}",)),
    "kdumpfile": _Starter(
        "kdumpfile_walker.py",
        (f"exec:{_DEBIAN} {{name}}",),
        ("sudo apt-get install -y python3-libkdumpfile",),
        adapter=True,
    ),
    "drgn": _Starter(
        "drgn_walker.py",
        (f"exec:{_DEBIAN} {{name}}",),
        ("sudo apt-get install -y python3-drgn",),
        adapter=True,
    ),
    "bochscpu": _Starter(
        "bochscpu_walker.py",
        ("exec:bochs/bin/python {name}",),
        ("python3 -m venv bochs", "bochs/bin/pip install 'bochscpu-python<0.4'"),
        adapter=True,
    ),
    "qemu": _Starter(
        "qemu_walker.py",
        ("exec:python3 {name}",),
        ("sudo apt-get install -y qemu-system-x86",),
        ("--walker-memory", "1200000"),
        adapter=True,
    ),
}


def run_new(options: argparse.Namespace) -> int:
    """Write a starter, print how to go on with it, and return the exit status."""
    starter = _STARTERS[options.kind]
    path = Path(options.file or starter.file)
    if path.is_dir():
        path /= starter.file
    if options.kind != "c" and path.suffix != ".py":
        raise BadInput(
            f"{printable(str(path))}: this starter is in Python: a name that ends in .py"
        )
    if os.path.lexists(path):
        raise _there(path)
    name = path.as_posix()
    # A name.so beside name.py would be what Python imports.
    library = path.with_name(f"lib{path.name.removesuffix('.c')}.so").as_posix()
    text = _shipped(f"adapters/{starter.file}" if starter.adapter else starter.file).decode()
    for old, new in (
        (starter.file, name),
        ("./libmywalker.so", _local(library)),
        ("libmywalker.so", library),
    ):
        text = text.replace(old, new)
    written = [name]
    if starter.adapter:
        written.append(_protocol_beside(path).as_posix())
    write_file(path, text.encode())
    print(f"wrote {printable(' and '.join(written))}; go on with:")
    for words in _commands(starter, name, library):
        print(f"  {words}")
    return 0


def _shipped(name: str) -> bytes:
    return (files("crosswalk.emu.targets") / "starters" / name).read_bytes()


def _protocol_beside(path: Path) -> Path:
    """Write what adapters share beside one of them, and return where; it may be there already."""
    if path.name == _PROTOCOL:
        raise BadInput(f"{printable(str(path))}: the adapter imports a file of this name")
    beside, text = path.parent / _PROTOCOL, _shipped(f"adapters/{_PROTOCOL}")
    if not os.path.lexists(beside):
        write_file(beside, text)
    elif not beside.is_file() or read_file(beside, _LARGEST) != text:
        raise _there(beside)
    return beside


def _there(path: Path) -> BadInput:
    return BadInput(f"{printable(str(path))}: is there already, and isn't overwritten")


def _local(library: str) -> str:
    return library if library.startswith("/") else f"./{library}"


def _commands(starter: _Starter, name: str, library: str) -> Iterator[str]:
    """Yield the commands that try a starter, as a shell takes them."""
    named = {
        "path": name,
        "name": command_line([name]),
        "library": _local(library),
        "out": command_line([library]),
    }
    for words in starter.before:
        yield words.format(**named)
    walkers = [walker.format(**named) for walker in starter.walkers]
    for walker in walkers:
        yield command_line(["crosswalk", "walker", "try", walker, *starter.options])
    yield command_line(["crosswalk", "fuzz", "--walker", walkers[0], *starter.options])
