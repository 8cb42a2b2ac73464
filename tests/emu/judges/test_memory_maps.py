"""The memory of QEMU's machines in a file, read by their presets: what was loaded is there."""

import random
import subprocess

import pytest

from crosswalk.walker.formats import open_contents
from crosswalk.walker.formats.memory_map import pieces_of

FRAME, MIB = 4096, 1 << 20
# The first size in MiB with another hole, and the last one without.
SIZES = {"pc": (3583, 3584), "q35": (2815, 2816), "microvm": (3072, 3073)}


def loaded(size, machine):
    """The frames that are loaded, by address: the last of each piece, and one in its middle."""
    pieces = pieces_of([f"qemu-{machine}"], size)
    places = [piece.pa + piece.size // 2 // FRAME * FRAME for piece in pieces]
    places += [piece.pa + piece.size - FRAME for piece in pieces]
    return {pa: random.Random(pa).randbytes(FRAME) for pa in places}


@pytest.fixture
def saved(qemu, tmp_path):
    """Return what starts a machine with so many bytes of RAM in a file, and returns the file."""

    def saved(machine, size):
        program = qemu.partition(":")[2] or "qemu-system-x86_64"
        path = tmp_path / "memory.raw"
        backend = f"memory-backend-file,id=ram,size={size},mem-path={path},share=on"
        command = [program, "-M", f"{machine},memory-backend=ram", "-m", f"{size // MIB}M"]
        command += ["-object", backend, "-nodefaults", "-display", "none", "-S"]
        for pa, content in loaded(size, machine).items():
            (tmp_path / f"{pa:x}").write_bytes(content)
            command += ["-device", f"loader,file={tmp_path / f'{pa:x}'},addr={pa},force-raw=on"]
        subprocess.run(
            [*command, "-monitor", "stdio"],
            input="quit\n",
            check=True,
            text=True,
            capture_output=True,
            timeout=120,
        )
        return path

    return saved


@pytest.mark.parametrize(
    ("machine", "size"),
    [(machine, size * MIB) for machine, sizes in SIZES.items() for size in (*sizes, 5120)],
)
def test_a_preset_places_the_memory_of_its_machine(machine, size, saved):
    path = saved(machine, size)
    memory = open_contents(path, memory_map=[f"qemu-{machine}"]).memory
    assert size == path.stat().st_size
    for pa, content in loaded(size, machine).items():
        assert content == memory.read(pa, FRAME)


def test_by_the_preset_of_another_machine_the_memory_is_elsewhere(saved):
    path = saved("q35", 5120 * MIB)
    memory = open_contents(path, memory_map=["qemu-pc"]).memory
    above = min(pa for pa in loaded(5120 * MIB, "q35") if pa >= 1 << 32)
    assert random.Random(above).randbytes(FRAME) != memory.read(above, FRAME)
