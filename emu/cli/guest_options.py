"""The options of kernels and other guests as data."""

from dataclasses import replace
from pathlib import Path

from crosswalk.emu.cli.blame_options import BLAME
from crosswalk.emu.cli.options import Group, Option, flag, not_empty, number, option

__all__ = ["EPILOG", "GUEST", "KERNEL", "MODELS", "POINTS", "PROTECTED"]

MODELS = ("icelake", "epyc")
"""The models of the CPU, by the names that `--model` takes."""

_EITHER = ("kernel", "guest")
_POINT = (
    "console:TEXT, cr3:N, instructions:N, symbol:NAME, syscall:N, user, idle, or exit, with "
    "--exit-port"
)

_KERNEL = option(
    "--kernel",
    reads=True,
    metavar="FILE",
    type=Path,
    help="a bzImage (vmlinuz), or an ELF vmlinux",
)
_INITRD = option(
    "--initrd",
    reads=True,
    metavar="FILE",
    type=Path,
    help="the initial RAM disk (one with its own init)",
    needs="kernel",
)
_SHARED = (
    option("--append", metavar="ARGS", help="more arguments for the kernel", needs="kernel"),
    option(
        "--ram",
        metavar="MIB",
        type=number(least=16, most=3072),
        default=256,
        help="RAM in MiB, 16 to 3072 (256)",
        needs="kernel",
    ),
    option(
        "--timeout",
        metavar="SECONDS",
        type=number(),
        default=600,
        help="end the boot after so long (600)",
        needs="kernel",
    ),
)
_CONSOLE = flag("--console", "show the guest's console on standard error")

KERNEL = (_KERNEL, _INITRD, *_SHARED, _CONSOLE)
"""A Linux kernel as the guest; the first one names its file."""


def _for_any(each: Option) -> Option:
    return replace(each, needs=_EITHER)


GUEST = Group(
    "a kernel as the guest",
    (
        option(
            "--guest",
            reads=True,
            metavar="FILE",
            type=Path,
            help="a kernel of any kind, also compressed: Linux, Multiboot, Multiboot2, PVH, an ELF "
            "file of 64-bit code; --as for others",
        ),
        option(
            "--as",
            dest="as_format",
            metavar="FORMAT",
            type=not_empty,
            help="what --guest is (recognised): multiboot, multiboot2, pvh, elf64, linux64, "
            "linux32, or raw@ADDRESS:MODE, entered at its first byte, as raw@0x7c00:16 (MODE 16, "
            "32 or 64)",
            needs="guest",
        ),
        option(
            "--module",
            reads=True,
            metavar="FILE[,ARGS]",
            action="append",
            type=not_empty,
            help="a file to load beside it, with arguments; for Linux the initial RAM disk; may be "
            "repeated",
            needs="guest",
        ),
        replace(
            _KERNEL,
            settings={
                **_KERNEL.settings,
                "help": "a Linux kernel: a bzImage (vmlinuz), or an ELF vmlinux",
            },
        ),
        _for_any(_INITRD),
        *map(_for_any, _SHARED),
        option(
            "--model",
            choices=MODELS,
            default=MODELS[0],
            help="the CPU: icelake (LA57, SMEP, SMAP, keys), or epyc (SVM) (icelake)",
            needs=_EITHER,
        ),
        option(
            "--exit-port",
            metavar="PORT",
            type=number(bits=16),
            help="a port that the guest ends its run by: what it writes is its exit code, as with "
            "QEMU's isa-debug-exit, and one that isn't 0 makes the exit status 1",
            needs=_EITHER,
        ),
        option(
            "--tick-every",
            metavar="N",
            type=number(bits=63, least=1),
            help="a timer tick after each N instructions, for guests that wait for one in a loop "
            "that does nothing else; slow",
            needs=_EITHER,
        ),
        _CONSOLE,
    ),
)

POINTS = Group(
    "points of a guest's boot",
    (
        option(
            "--until",
            metavar="POINT",
            help=f"where the boot ends: {_POINT} (idle; exit with --exit-port)",
            needs=_EITHER,
        ),
        option(
            "--idle",
            metavar="SECONDS",
            type=number(bits=16, least=1),
            help="how long a guest does nothing but take interrupts and halt, in its own time, "
            "until it is idle (2)",
            needs=_EITHER,
        ),
        option(
            "--check-at",
            metavar="POINT",
            nargs="+",
            action="extend",
            help="check there as well",
            needs=_EITHER,
        ),
        option(
            "--limit",
            metavar="N",
            type=number(bits=63, least=1),
            help="at each point check the first N mappings of each size, holes and malformed "
            "entries (without it all, but not more than 200,000 mappings): checks take long in "
            "32-bit and PAE paging",
            needs=_EITHER,
        ),
        option(
            "--system-map",
            reads=True,
            metavar="FILE",
            type=Path,
            help="the addresses of symbols, instead of the guest's own: a System.map, an ELF "
            "file, or another that --symbols of `crosswalk walk` takes",
            needs=_EITHER,
        ),
        replace(BLAME, needs=_EITHER),
    ),
)

_OF_POINTS = ("--until", "--system-map")
_FOR_ONE = ("--exit-port", "--tick-every")
_BLAME = (
    "tell who wrote the entries of the walk of each of these addresses where protection begins, as "
    "`run` does at its last point, by two more runs without nested paging"
)


def _protected() -> Group:
    """Return the options of a guest that is protected: `GUEST`, and when that is."""
    found = [
        replace(each, needs=("guest",)) if each.names[0] in _FOR_ONE else each
        for each in GUEST.options
        if each.names[0] != "--model"
    ]
    points = [each for each in POINTS.options if each.names[0] in _OF_POINTS]
    return Group(
        GUEST.title,
        (
            *found,
            option(
                "--protect-at",
                metavar="POINT",
                help="when protection begins, as `run --until` has it but for idle: before Linux' "
                "first system call (symbol:run_init_process, or user where its symbols can't "
                "be read), of another guest when its mappings are to stay as they are (user)",
                needs=_EITHER,
            ),
            *(replace(each, needs=("guest",)) for each in points),
            replace(BLAME, settings={**BLAME.settings, "help": _BLAME}, needs=_EITHER),
        ),
    )


PROTECTED = _protected()

EPILOG = """\
examples:
  crosswalk run --guest kernel.elf --exit-port 0xf4 --expect 'no wx'
  crosswalk run --guest gnumach.gz --module ext2fs.static --until user
  crosswalk run --guest boot.bin --as raw@0x7c00:16 --until console:long
  crosswalk run --kernel vmlinuz --check-at console:Memory:
  crosswalk run --kernel vmlinuz --until console:Memory: --blame 0xffffffff81000000

exit status: 0 agreement; 1 a divergence, a broken expectation, or a guest that exited with another
code than 0; 2 bad input, a point that wasn't reached, or nothing to check there."""
