"""ISO files that boot an image, by BIOS and UEFI, from a CD or a stick, with GRUB."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.walker.errors import BadInput, CrosswalkError

__all__ = ["judges_folder", "make_iso", "make_iso_of", "require_iso_tools"]

_SECONDS, _DATE = 1_577_836_800, "2020010100000000"
"""What stands for the time in all that the tools write: the same image, the same ISO file."""

_LIMITS = Limits(seconds=120.0, patience=5.0)
_CONFIG = """\
insmod all_video
search --no-floppy --set=root --file /{name}
{commands}
boot
"""
_SHARED = (
    "iso9660 part_gpt part_msdos fat search search_fs_file multiboot boot echo video all_video"
)
_FORMATS = {
    "i386-pc": f"{_SHARED} biosdisk vbe vga",
    "x86_64-efi": f"{_SHARED} efi_gop",
}
"""The modules that GRUB has built in, by platform."""


def judges_folder() -> Path:
    """Return where scripts/judges puts what it fetches: CROSSWALK_JUDGES, or .judges."""
    return Path(os.environ.get("CROSSWALK_JUDGES") or ".judges")


def make_iso(image: bytes) -> bytes:
    """Return an ISO file that boots a multiboot image; the rest as in `make_iso_of`."""
    title = f"crosswalk-{hashlib.sha256(image).hexdigest()[:16]}.img"
    return make_iso_of({title: image}, f"multiboot /{title}")


def make_iso_of(files: Mapping[str, bytes], commands: str) -> bytes:
    """Return an ISO file on which GRUB runs `commands` and boots: hybrid, for BIOS and UEFI.

    `files` are its contents by name, in the root folder; GRUB knows the CD by the first of them.
    Made by GRUB's tools, xorriso and mtools, from PATH, or as fetched by scripts/judges; the same
    versions make the same bytes. Raises `BadInput` where they aren't there.
    """
    tools = _Tools()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "tree"
        tree.mkdir()
        for title, content in files.items():
            (tree / title).write_bytes(content)
        config = folder / "grub.cfg"
        text = _CONFIG.format(name=next(iter(files)), commands=commands)
        config.write_text(text, encoding="ascii")
        cores = {each: tools.core(each, config, folder) for each in _FORMATS}
        boot = (tools.modules("i386-pc") / "cdboot.img").read_bytes()
        (tree / "bios.img").write_bytes(boot + cores["i386-pc"].read_bytes())
        tools.fat(cores["x86_64-efi"], folder / "efi.img")
        mbr = tools.modules("i386-pc") / "boot_hybrid.img"
        made = folder / "made.iso"
        # The options that grub-mkrescue gives, but for those of other machines.
        tools.run(
            "xorriso",
            *("-as", "mkisofs", "-quiet", "-R", "-J", "-V", "CROSSWALK", "-o", str(made)),
            *(f"--modification-date={_DATE}", "--set_all_file_dates", _DATE),
            *("-b", "bios.img", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
            *("--grub2-boot-info", "--grub2-mbr", str(mbr), "--protective-msdos-label"),
            *("--efi-boot", "efi.img", "-efi-boot-part", "--efi-boot-image"),
            *(str(tree), "-graft-points", f"efi.img={folder / 'efi.img'}"),
        )
        return made.read_bytes()


def require_iso_tools() -> None:
    """Raise `BadInput` where the tools that make ISO files are missing."""
    _Tools()


class _Tools:
    """The programs that make an ISO file, wherever they are."""

    def __init__(self) -> None:
        self._fetched = judges_folder() / "grub"
        names = ("grub-mkimage", "xorriso", "mformat", "mmd", "mcopy")
        self._paths = {name: self._found(name) for name in names}
        missing = [name for name, path in self._paths.items() if path is None]
        missing += [f"GRUB's modules for {each}" for each in _FORMATS if not self._has(each)]
        if missing:
            raise BadInput(
                f"an ISO file needs {', '.join(missing)}: Debian's grub-common, grub-pc-bin, "
                "grub-efi-amd64-bin, xorriso and mtools, or scripts/judges grub"
            )

    def _found(self, name: str) -> str | None:
        fetched = self._fetched / name
        return str(fetched.resolve()) if fetched.exists() else shutil.which(name)

    def _has(self, platform: str) -> bool:
        return (self.modules(platform) / "kernel.img").exists()

    def modules(self, platform: str) -> Path:
        """Return the folder of GRUB's modules for a platform."""
        fetched = self._fetched / "root"
        return (fetched.resolve() if fetched.exists() else Path("/")) / "usr/lib/grub" / platform

    def core(self, platform: str, config: Path, folder: Path) -> Path:
        """Make GRUB itself, with what it needs built in."""
        made = folder / f"{platform}.core"
        self.run(
            "grub-mkimage",
            *("-O", platform, "-d", str(self.modules(platform)), "-p", "/", "-c", str(config)),
            *("-o", str(made), *_FORMATS[platform].split()),
        )
        return made

    def fat(self, program: Path, made: Path) -> None:
        """Make a FAT file system from which UEFI starts a program."""
        size = program.stat().st_size
        kilobytes = 1440 if size < 1_300_000 else 2880
        self.run("mformat", "-C", "-f", str(kilobytes), "-N", "0", "-i", str(made), "::")
        self.run("mmd", "-i", str(made), "::/EFI", "::/EFI/BOOT")
        self.run("mcopy", "-i", str(made), str(program), "::/EFI/BOOT/BOOTX64.EFI")

    def run(self, name: str, *options: str) -> None:
        """Run one of them."""
        command = [
            "env",
            f"SOURCE_DATE_EPOCH={_SECONDS}",
            "TZ=UTC",
            str(self._paths[name]),
            *options,
        ]
        ran = run_command(command, _LIMITS)
        if ran.ended is not None:
            raise CrosswalkError(f"{name} {ran.ended}: {ran.said}")
