"""Results on the screen of a machine without COM1: QEMU's, by BIOS and by UEFI, read back."""

import binascii
import re
import shutil
import subprocess
import time
from importlib import resources

import pytest

from crosswalk.emu.machines.iso import judges_folder, make_iso
from crosswalk.guest.boot.image import Output, Place, boot_image, digest_of
from crosswalk.guest.boot.log import read_logs
from crosswalk.guest.boot.programs import Run
from crosswalk.walker.context import PagingMode
from crosswalk.walker.errors import BadInput

pytestmark = pytest.mark.slow

SECONDS = 60
COLUMNS, ROW = 80, 16
FIRMWARE = "root/usr/share/OVMF/OVMF_CODE.fd"
NOTHING = Run(mode=PagingMode.PAE, cr0=0x8001_0033, cr3=0x100_0000, cr4=0x20, efer=0)


@pytest.fixture(scope="module")
def image():
    """Runs without a program, enough for two pages of a text screen."""
    return boot_image([NOTHING] * 40, Place(0x820_0000), Output.SERIAL | Output.SCREEN)


def glyphs():
    """The font of the runner's source: what a digit's eight lines are."""
    source = resources.files("crosswalk.guest").joinpath("asm/runner_screen.s").read_text()
    found = re.findall(r"\.quad 0x([0-9a-f]{16})", source)
    return {bytes.fromhex(words)[::-1]: f"{at:x}" for at, words in enumerate(found)}


def text_of_pixels(path):
    data = path.read_bytes()
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data)
    width, height, pixels = int(head[1]), int(head[2]), data[head.end() :]
    scale, font = max(width // 640, 1), {**glyphs(), bytes(8): " "}

    def glyph(row, column):
        return bytes(
            sum(
                (pixels[3 * (((row * ROW + 2 * y) * width + column * 8 + x) * scale)] > 127)
                << 7 - x
                for x in range(8)
            )
            for y in range(8)
        )

    return [
        "".join(font.get(glyph(row, column), "?") for column in range(COLUMNS))
        for row in range(height // (ROW * scale))
    ]


def text_of_memory(path):
    data = path.read_bytes()
    return [data[at : at + 2 * COLUMNS : 2].decode("latin-1") for at in range(0, 4000, 160)]


def shown(qemu, arguments, command, read, path):
    """Return the lines of all pages, by QEMU's monitor: a key is pressed after each.

    A look may come while a page is being drawn: lines that are whole are kept, and the pages looked
    at from the beginning again until none is missing.
    """
    machine = subprocess.Popen(
        [
            qemu.partition(":")[2] or "qemu-system-x86_64",
            *("-serial", "none", "-display", "none", "-net", "none", "-m", "4096"),
            *("-cpu", "max", "-monitor", "stdio"),
            *arguments,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    lines, before = {}, None
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and not whole(lines):
            path.unlink(missing_ok=True)
            machine.stdin.write(f"{command}\n")
            machine.stdin.flush()
            page = dict(each for line in settled(path, read, deadline) for each in numbered(line))
            if page and page == before:
                lines |= page
                machine.stdin.write("sendkey a\n")
            before = page
    finally:
        machine.kill()
        machine.communicate()
    return [line for _, line in sorted(lines.items())]


def numbered(line):
    """Yield the number and the text of a line that is as its checksum says."""
    words = line.split()
    if len(words) == 6 and re.fullmatch("[0-9a-f]{72}", "".join(words)):
        number, content = int(words[0], 16), bytes.fromhex("".join(words[1:5]))
        if int(words[5], 16) == binascii.crc_hqx(number.to_bytes(2, "little") + content, 0):
            yield number, line


def whole(lines):
    """Whether these lines, by number, are a log with its end."""
    if not lines or sorted(lines) != list(range(len(lines))):
        return False
    try:
        (log,) = read_logs("\n".join(line for _, line in sorted(lines.items())).encode())
    except BadInput:  # It ends within a record.
        return False
    return log.complete


def settled(path, read, deadline):
    """Return what is read of a file once it is whole."""
    while time.monotonic() < deadline:
        try:
            return read(path)
        except (OSError, TypeError, IndexError):
            continue
    pytest.fail("QEMU shows nothing")


def check(lines, image):
    (log,) = read_logs("\n".join(lines).encode())
    assert (digest_of(image), True, 40) == (log.digest, log.complete, len(log.runs))


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_text_screen_by_bios(qemu, image, machine, iso_tools, tmp_path):
    iso, dump = tmp_path / "iso", tmp_path / "dump"
    iso.write_bytes(make_iso(image))
    arguments = ["-machine", machine, "-cdrom", str(iso)]

    check(shown(qemu, arguments, f'pmemsave 0xb8000 4000 "{dump}"', text_of_memory, dump), image)


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_framebuffer_by_uefi(qemu, image, machine, iso_tools, tmp_path):
    firmware = judges_folder() / "ovmf" / FIRMWARE
    if not firmware.exists():
        pytest.skip(f"no {firmware}: scripts/judges")
    iso, dump, variables = tmp_path / "iso", tmp_path / "dump", tmp_path / "variables"
    iso.write_bytes(make_iso(image))
    shutil.copy(firmware.with_name("OVMF_VARS.fd"), variables)
    drive = "if=pflash,format=raw"
    arguments = [
        *("-machine", machine, "-cdrom", str(iso)),
        *("-drive", f"{drive},readonly=on,file={firmware}", "-drive", f"{drive},file={variables}"),
    ]

    check(shown(qemu, arguments, f"screendump {dump}", text_of_pixels, dump), image)
