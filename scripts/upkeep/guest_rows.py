"""The guests of the table of docs/guests.md: where each is from, and how it is booted."""

from dataclasses import dataclass, field

__all__ = ["GUESTS", "RowGuest"]


@dataclass(frozen=True, slots=True)
class RowGuest:
    """A guest of the table.

    `fetch` is the command that prints the path of its file; without one it is the sample kernel.
    `point` is where it is checked. `arguments` are the guest's, `program` those of its module,
    the project's own first process, if it has one. QEMU is timed up to `text` on the console; with
    `grub` it boots the guest by GRUB from a CD, as its own loader takes no ELF files of 64 bits.
    """

    name: str
    fetch: tuple[str, ...]
    point: str
    text: str
    arguments: str = ""
    program: str | None = None
    options: tuple[str, ...] = ()
    ram: int = 256
    seconds: float = 600.0
    grub: bool = field(default=False, kw_only=True)


def _debian(name: str) -> tuple[str, ...]:
    return ("scripts/fetch-guest", name)


_TASK = "$(first-task=task-create) $(task-resume)"
"""How Mach is told to make a module its first task."""

_XEN = "console=com1 com1=115200,8n1 no-real-mode"
_TICKS = ("--tick-every", "100000")
"""For a kernel that measures its clock by a loop that does nothing but look at a variable."""

GUESTS = {
    each.name: each
    for each in (
        RowGuest("sample", (), "exit", "done\n", options=("--exit-port", "0xf4"), ram=64),
        RowGuest(
            "gnumach-amd64",
            _debian("gnumach-amd64"),
            "user",
            "task loaded: first",
            "console=com0",
            _TASK,
            grub=True,
        ),
        RowGuest(
            "gnumach-486",
            _debian("gnumach-486"),
            "console:multiboot modules",
            "multiboot modules",
            "console=com0",
            _TASK,
            _TICKS,
        ),
        RowGuest(
            "gnumach-486-pae",
            _debian("gnumach-486-pae"),
            "console:multiboot modules",
            "multiboot modules",
            "console=com0",
            _TASK,
            _TICKS,
        ),
        RowGuest("xen", _debian("xen"), "console:Detected", "Detected", _XEN, ""),
        RowGuest(
            "memtest86+", _debian("memtest86+"), "console:Memtest86+", "Memtest86+", "console=ttyS0"
        ),
    )
}
