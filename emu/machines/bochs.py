"""Bochs as a machine: an image is booted from a CD by GRUB."""

import re
import tempfile
from pathlib import Path

from crosswalk.emu.machines.iso import make_iso, require_iso_tools
from crosswalk.emu.machines.machine import ANY_CPU, CpuWish, Printed
from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.guest.boot.image import Output, results_of
from crosswalk.guest.boot.log import came_to_end
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput
from crosswalk.walker.formats.located_errors import one_line

__all__ = ["Bochs"]

_BINARY = "bochs"
_SHORT = Limits(seconds=10.0)
_MEMORY = 1 << 34
_PATIENCE = 4.0

_NOISE = 1 << 16
_PANIC = re.compile(r">>PANIC<< (.*)")

_MODELS = {
    Vendor.INTEL: ("sapphire_rapids", "tigerlake", "corei7_icelake_u", "corei7_haswell_4770"),
    Vendor.AMD: ("ryzen", "zambezi"),
}
"""The CPU models that know most, of each vendor; the first that a version has is taken."""

_OTHERS = {"lass": "arrow_lake"}
"""The model for what these lack."""

_SETTINGS = """\
cpu: model={model}, count=1, ips=2000000, reset_on_triple_fault=0
romimage: file="$BXSHARE/BIOS-bochs-latest"
vgaromimage: file="$BXSHARE/VGABIOS-lgpl-latest"
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path="{folder}/cd.iso", status=inserted
boot: cdrom
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=1
log: "{folder}/log"
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
clock: sync=none
"""
_OLD = "memory: guest=3072, host=1024\nsound: driver=dummy\n"
_NEW = "memory: guest=4096, host=1024, block_size=4096\n"
"""Bochs 2 takes seconds for the blocks of 4 GiB, and can't have larger ones."""

_BLOCK_KIB = 8192
"""Of more RAM."""


class Bochs:
    """Bochs, without a screen; results come by port 0xE9.

    Its CPUs have 40 bits of physical address. Raises `BadInput` where there is no Bochs, or where
    the tools that make ISO files are missing.
    """

    output = Output.DEBUG_PORT
    nothing_from: int | None = None
    loads_in = 30.0

    def __init__(self, name: str = "bochs", path: str = _BINARY) -> None:
        self.name, self._path = name, path
        said = run_command([path, "--help"], _SHORT)
        about = (said.output + said.noise).decode(errors="replace")
        found = re.search(r"Bochs x86 Emulator (\d+)([\w.]*)", about)
        if found is None:
            raise BadInput(f"{path}: no Bochs: {said.said or said.ended or 'says no version'}")
        self._number = found[1] + found[2]
        self._old = int(found[1]) < 3
        self._debugger = "-rc " in about
        models = run_command([path, "-help", "cpu"], _SHORT)
        self._models = frozenset((models.output + models.noise).decode(errors="replace").split())
        require_iso_tools()

    @property
    def version(self) -> str:
        """Bochs' version."""
        return f"Bochs {self._number}"

    def heeded(self, wish: CpuWish) -> CpuWish:
        """Return what decides the CPU model and the RAM.

        LA57, too: 3.1 hangs where 4-level paging follows 5-level paging in an image.
        """
        features = wish.features.intersection((*_OTHERS, "la57"))
        ram = None if self._old else wish.ram
        return CpuWish(vendor=wish.vendor or Vendor.INTEL, features=features, ram=ram)

    def boot(self, image: bytes, *, seconds: float, wish: CpuWish = ANY_CPU) -> Printed:
        """Boot an image; see `Machine`."""
        most = results_of(image).size + _NOISE
        limits = Limits(seconds=seconds, output=most, memory=_MEMORY, patience=_PATIENCE)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ran = run_command(self.prepared(folder, make_iso(image), wish), limits)
            panic = self.last_words(folder)
        if panic is None:  # It wasn't content with its settings.
            raise BadInput(f"{self._path} {ran.ended or 'ended'}: {ran.said}")
        if came_to_end(ran.output):
            return Printed(ran.output)
        ended = panic if panic and not ran.by_others else ran.ended
        return Printed(ran.output, ended or "ends", ran.by_others, ran.said)

    def prepared(
        self, folder: Path, cd: bytes, wish: CpuWish = ANY_CPU, more: str = ""
    ) -> list[str]:
        """Return the command that boots a CD; `folder` is for what it reads and writes.

        `more` are lines of settings besides.
        """
        (folder / "cd.iso").write_bytes(cd)
        settings = _SETTINGS.format(model=self._model(wish), folder=folder)
        settings += self._memory(wish) + more
        (folder / "bochsrc").write_text(settings, encoding="utf-8")
        command = [self._path, "-q", "-f", str(folder / "bochsrc")]
        if self._debugger:  # It waits for commands.
            (folder / "debugger").write_text("c\n", encoding="ascii")
            command += ["-rc", str(folder / "debugger")]
        return command

    @staticmethod
    def last_words(folder: Path) -> str | None:
        """Return its last panic, as in "panics: …"; an empty text for none, None without a log."""
        log = folder / "log"
        text = log.read_text(errors="replace") if log.exists() else ""
        panics = [one_line(each) for each in _PANIC.findall(text)]
        return (f"panics: {panics[-1]}" if panics else "") if text else None

    def close(self) -> None:
        """Nothing is kept between boots."""

    def _memory(self, wish: CpuWish) -> str:
        """Return the settings of memory: what is above 3 GiB begins at 4 GiB."""
        if self._old or wish.ram is None:
            return _OLD if self._old else _NEW
        size = (wish.ram >> 20) - 1024
        return f"memory: guest={size}, host=1024, block_size={_BLOCK_KIB}\n"

    def _model(self, wish: CpuWish) -> str:
        others = [_OTHERS[each] for each in sorted(wish.features) if each in _OTHERS]
        for model in (*others, *_MODELS[wish.vendor or Vendor.INTEL]):
            if model in self._models:
                return model
        raise BadInput(
            f"{self._path}: has none of the CPU models {', '.join(_MODELS[Vendor.INTEL])}"
        )
