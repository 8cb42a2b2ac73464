"""The guests of the table of docs/guests.md: where each is from, and how it is booted."""

from dataclasses import dataclass, field

from crosswalk.guest.sample import EXIT_PORT

__all__ = ["GUESTS", "RowGuest"]


@dataclass(frozen=True, slots=True)
class RowGuest:
    """A guest of the table.

    `fetch` is the command that prints the path of its file; without one it is the sample kernel.
    `point` is where it is checked. `arguments` are the guest's, `program` those of its module,
    the project's own first process, if it has one; `exit_port` and `tick_every` are those of the
    command. QEMU is timed up to `text` on the console; with `grub` it boots the guest by GRUB from
    a CD, as its own loader takes no ELF files of 64 bits.
    """

    name: str
    fetch: tuple[str, ...]
    point: str
    text: str
    arguments: str = ""
    program: str | None = None
    ram: int = 256
    seconds: float = 600.0
    exit_port: int | None = field(default=None, kw_only=True)
    tick_every: int | None = field(default=None, kw_only=True)
    grub: bool = field(default=False, kw_only=True)

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the command that `exit_port` and `tick_every` are."""
        port = () if self.exit_port is None else ("--exit-port", hex(self.exit_port))
        ticks = () if self.tick_every is None else ("--tick-every", str(self.tick_every))
        return (*port, *ticks)


def _debian(name: str) -> tuple[str, ...]:
    return ("scripts/fetch-guest", name)


_TASK = "$(first-task=task-create) $(task-resume)"
"""How Mach is told to make a module its first task."""

_XEN = "console=com1 com1=115200,8n1 no-real-mode"
_TICKS = 100_000
"""For a kernel that measures its clock by a loop that does nothing but look at a variable."""

GUESTS = {
    each.name: each
    for each in (
        RowGuest("sample", (), "exit", "done\n", ram=64, exit_port=EXIT_PORT),
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
            tick_every=_TICKS,
        ),
        RowGuest(
            "gnumach-486-pae",
            _debian("gnumach-486-pae"),
            "console:multiboot modules",
            "multiboot modules",
            "console=com0",
            _TASK,
            tick_every=_TICKS,
        ),
        RowGuest("xen", _debian("xen"), "console:Detected", "Detected", _XEN, ""),
        RowGuest(
            "memtest86+", _debian("memtest86+"), "console:Memtest86+", "Memtest86+", "console=ttyS0"
        ),
    )
}
