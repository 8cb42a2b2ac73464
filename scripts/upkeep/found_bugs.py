"""The bugs of docs/data/found.toml, and how the programs that have them are reached."""

import shlex
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosswalk.emu.check.departures import (
    BOCHS,
    QEMU,
    UNICORN,
    X86ISA,
    Departure,
    Scope,
    departures,
)

__all__ = ["BUGS", "REGISTERED", "ROOT", "SUBJECTS", "Bug", "Subject", "bugs"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "docs" / "data" / "found.toml"
ADAPTERS = "emu/targets/starters/adapters"
_DEBIAN = "/usr/bin/python3"  # Debian's modules belong to Debian's Python.


@dataclass(frozen=True, slots=True)
class Subject:
    """A walker, emulator or model: its name for people, where it is from, and how it is reached.

    `version` is what it was found in. `walker` is what `--walker` takes, with {path} for the path
    that the reader gives; None for a judge, which is given with `--with`. A walker `lists` mappings
    or translates. `has` is a command that succeeds where it can be had, `checkout` a file of the
    reader's folder. `needs` says how it is had.
    """

    name: str
    home: str
    version: str
    needs: str
    walker: str | None = None
    has: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    checkout: str | None = None
    lists: bool = False

    @property
    def is_judge(self) -> bool:
        """Whether it is a machine, given with `--with`."""
        return self.walker is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A bug: in what, its title, the text of it, the case that shows it, and the manual.

    It is shown where `says` is part of what `replay` prints, or where each probe's
    `judged` has the values of its `judged` here. With `cr4`, a value of CR4, there is no case, and
    `says` is what the machine does at a MOV of it; with `departure`, a registered one of nested
    paging, its pair shows it. In the judges whose versions begin with one of
    `gone_in`, or that don't show the departure `registered`, it must be gone.
    """

    id: str
    subject: str
    title: str
    what: str
    manual: str = ""
    case: str = ""
    cr4: str = ""
    departure: str = ""
    says: str | None = None
    judged: tuple[dict[str, Any], ...] = ()
    gone_in: tuple[str, ...] = ()
    registered: Departure | None = None


SUBJECTS = {
    "unicorn": Subject(
        "Unicorn",
        "https://github.com/unicorn-engine/unicorn",
        "2.1.4",
        "what Crosswalk itself needs",
    ),
    "qemu": Subject(
        "QEMU (TCG)",
        "https://gitlab.com/qemu-project/qemu",
        "7.2.22, 10.0.13 and 11.1.3",
        "QEMU's qemu-system-x86_64 on PATH, or another by `--with qemu:PATH`",
    ),
    "bochs": Subject(
        "Bochs",
        "https://github.com/bochs-emu/Bochs",
        "2.7, 3.0 and 3.1",
        "`scripts/judges grub bochs-sid`, then `--with bochs:.judges/bochs-sid/bochs`",
    ),
    "gdb-pt-dump": Subject(
        "gdb-pt-dump",
        "https://github.com/martinradev/gdb-pt-dump",
        "commit 9df79f3",
        "a checkout, named by `--checkout gdb-pt-dump=DIR`",
        "exec:python3 docs/examples/gdb_pt_dump_walker.py {path}",
        checkout="pt/pt_x86_64_parse.py",
        lists=True,
    ),
    "libvmi": Subject(
        "LibVMI",
        "https://github.com/libvmi/libvmi",
        "0.15.0, commit 82bbee6",
        "a checkout, built with its file driver in `build`, named by `--checkout libvmi=DIR`",
        "exec:python3 docs/examples/libvmi_walker.py {path}/build/libvmi/libvmi.so",
        options=("--walker-memory", "1200000"),
        checkout="build/libvmi/libvmi.so",
    ),
    "volatility3": Subject(
        "Volatility 3",
        "https://github.com/volatilityfoundation/volatility3",
        "2.28.2",
        "`pip install volatility3`",
        "volatility3",
        (sys.executable, "-c", "import volatility3"),
    ),
    "x86isa": Subject(
        "x86isa, the model of x86 in ACL2's books",
        "https://github.com/acl2/acl2/tree/master/books/projects/x86isa",
        "Debian's ACL2 8.5dfsg-5",
        "11 GB of memory, and `apt-get install acl2 acl2-books acl2-books-certs` (2.7 GB) or "
        "`scripts/judges acl2`, then `--with x86isa:.judges/acl2/acl2`",
    ),
    "drgn": Subject(
        "drgn",
        "https://github.com/osandov/drgn",
        "0.0.22 (Debian 0.0.22-1)",
        "`apt-get install python3-drgn`",
        f"exec:{_DEBIAN} {ADAPTERS}/drgn_walker.py",
        (_DEBIAN, "-c", "import drgn"),
    ),
    "libkdumpfile": Subject(
        "libkdumpfile",
        "https://github.com/ptesarik/libkdumpfile",
        "0.5.1 (Debian 0.5.1-1)",
        "`apt-get install python3-libkdumpfile`",
        f"exec:{_DEBIAN} {ADAPTERS}/kdumpfile_walker.py",
        (_DEBIAN, "-c", "import addrxlat"),
    ),
    "bochscpu": Subject(
        "bochscpu-python",
        "https://github.com/hugsy/bochscpu-python",
        "0.3.1",
        "a virtual environment with `pip install 'bochscpu-python<0.4'`, named by "
        "`--checkout bochscpu=DIR`",
        f"exec:{{path}}/bin/python {ADAPTERS}/bochscpu_walker.py",
        checkout="bin/python",
    ),
    "gva2gpa": Subject(
        "QEMU's monitor",
        "https://gitlab.com/qemu-project/qemu",
        "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)",
        "`apt-get install qemu-system-x86`",
        f"exec:{_DEBIAN} {ADAPTERS}/qemu_walker.py",
        ("qemu-system-x86_64", "--version"),
        ("--walker-memory", "1200000"),
    ),
}


def walker_of(subject: Subject, path: str) -> str:
    """Return what `--walker` takes, with the reader's path in it; of a judge it is empty."""
    return (subject.walker or "").replace("{path}", shlex.quote(path))


def bugs(text: str) -> dict[str, Bug]:
    """Return the bugs of found.toml by name, in its order.

    Raises `TypeError` for a key that is missing or that there isn't, `KeyError` for a subject.
    """
    found = {}
    for name, table in tomllib.loads(text).items():
        subject = table.pop("in")
        rest = {
            key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
        }
        found[name] = Bug(id=name, subject=subject, **rest)
        bug = found[name]
        if bug.departure:
            found[name] = _by_pair(bug)
            continue
        by_case = SUBJECTS[subject].is_judge and not bug.cr4
        whole = bool(bug.judged) is by_case and bool(bug.says) is not by_case
        if not whole or bool(bug.case) is bool(bug.cr4):
            raise TypeError(f"{name}: a walker's bug has `says`, a judge's has `judged`")
    return found


def _by_pair(bug: Bug) -> Bug:
    """Return a bug with the registered departure that it is, which has a pair; `TypeError` else."""
    entry = {each.id: each for each in departures(Scope.NESTED, who=bug.subject)}.get(bug.departure)
    if entry is None or entry.pair is None or bug.case or bug.cr4 or bug.says or bug.judged:
        raise TypeError(f"{bug.id}: no departure that a pair of tables shows, or more than that")
    return replace(bug, registered=entry, manual=entry.manual)


def registered(listed: Iterable[Bug]) -> dict[str, Bug]:
    """Return the registered departures that have case files, as bugs of each judge.

    Those left out have the case of a bug that is listed.
    """
    scopes = (Scope.ACCESS, Scope.COMPOSITE, Scope.SEQUENCE)
    cases = {(bug.subject, bug.case) for bug in listed}
    found = (
        Bug(
            id=f"{who}-{each.id}",
            subject=who,
            title=each.differs,
            what=each.reason,
            case=f"tests/cases/{each.folder}/{each.case}",
            manual=each.manual,
            judged=({"verdict": "known", "known": each.id},),
            registered=each,
        )
        for who in (UNICORN, QEMU, BOCHS, X86ISA)
        for each in departures(*scopes, who=who)
    )
    return {bug.id: bug for bug in found if (bug.subject, bug.case) not in cases}


BUGS = bugs(DATA.read_text("utf-8"))
REGISTERED = registered(BUGS.values())
