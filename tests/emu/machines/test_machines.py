"""Machines: what an image answered, and how each ends; real ones, and one that misbehaves."""

import os
import shlex
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path

import pytest

from crosswalk.emu.judges.registry import open_machine
from crosswalk.emu.machines import qemu as qemu_module
from crosswalk.emu.machines.iso import make_iso
from crosswalk.emu.machines.machine import CpuWish
from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.process import fork
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.guest.boot.image import Output, Place, boot_image
from crosswalk.guest.boot.log import came_to_end, read_log
from crosswalk.walker.control import Vendor
from crosswalk.walker.errors import BadInput
from tests.emu.judges.images import DIGEST, answers, image_of

WHOLE, CUT = answers(), answers(complete=False)


def fake(tmp_path, body):
    """A machine that is a Python program; `image` is the path it was given."""
    path = tmp_path / "fake.py"
    path.write_text(f"import os, signal, sys\nimage = sys.argv[1]\nout = sys.stdout.buffer\n{body}")
    return open_machine(f"exec:{sys.executable} {path}")


def boot(machine, image=None, seconds=20.0, **options):
    return machine.boot(image or image_of(WHOLE, "powers off"), seconds=seconds, **options)


def test_the_end_of_a_log_is_its_last_record():
    assert came_to_end(WHOLE)
    assert came_to_end(b"SeaBIOS\r\n" + WHOLE + b"\r\nbye")
    assert not came_to_end(CUT)
    assert not came_to_end(WHOLE[:-1])
    broken = bytearray(WHOLE)
    broken[-1] ^= 1
    assert not came_to_end(bytes(broken))


def test_a_command_prints_the_log_of_the_image_it_gets(tmp_path):
    log = f"open(image, 'rb').read()[-{len(WHOLE)}:]"
    machine = fake(tmp_path, f"out.write(b'BIOS' + {log})")

    printed = boot(machine)

    assert (None, False) == (printed.ended, printed.by_others)
    assert read_log(printed.data, digest=DIGEST).complete


def test_a_command_gets_the_image_where_its_words_say():
    machine = open_machine("exec:sh -c 'cat \"$1\"; exit 3' x {image} y")

    assert None is boot(machine).ended
    assert "ended with status 3" == boot(machine, image_of(CUT, "powers off")).ended


@pytest.mark.parametrize(
    ("body", "ended"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", "died of SIGABRT"),
        ("sys.exit(4)", "ended with status 4"),
        ("", "ends"),
    ],
)
def test_a_machine_that_dies_leaves_what_it_printed(tmp_path, body, ended):
    cut = image_of(CUT, "powers off")
    printed = boot(fake(tmp_path, f"out.write({CUT!r}); out.flush()\n{body}"), cut)

    assert (CUT, ended, False) == (printed.data, printed.ended, printed.by_others)


def test_a_machine_that_goes_on_for_ever_hangs(tmp_path):
    printed = boot(fake(tmp_path, "out.write(b'x'); out.flush()\nwhile True: pass"), seconds=0.3)

    assert (b"x", "hangs") == (printed.data, printed.ended)


def test_a_machine_that_stays_after_the_end_of_its_log_is_ended(tmp_path):
    waits = f"out.write({WHOLE!r}); out.flush()\nsignal.pause()"

    assert None is boot(fake(tmp_path, waits)).ended


def test_a_machine_that_prints_without_end_floods(tmp_path):
    printed = boot(fake(tmp_path, "while True: out.write(b'garbage' * 1000)"))

    assert "floods" == printed.ended


def test_garbage_is_no_log(tmp_path):
    printed = boot(fake(tmp_path, "out.write(bytes(range(256)) * 9)"))

    assert "ends" == printed.ended
    with pytest.raises(BadInput, match="no answer of a boot image"):
        read_log(printed.data, digest=DIGEST)


def test_a_machine_killed_by_somebody_else_has_no_result(tmp_path):
    printed = boot(fake(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)"))

    assert printed.by_others


def test_a_log_of_another_image_is_refused():
    with pytest.raises(BadInput, match="of another image"):
        read_log(WHOLE, digest=bytes(32))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody", "nobody: no judge; there are unicorn, qemu"),
        ("exec", "exec: needs a colon and what it is"),
        ("exec:", "exec:: nothing behind the colon"),
        ("exec:'", "No closing quotation"),
        ("log:FILE", "log:FILE: a log answers what was exported, and nothing else"),
        ("log", "log: needs a colon and what it is"),
        ("log:", "log:: nothing behind the colon"),
        ("qemu:/no/such/qemu", "/no/such/qemu: no such command"),
        ("qemu:true", "true: no QEMU"),
        ("bochs:true", "true: no Bochs"),
        ("exec:/no/such/command", None),
    ],
)
def test_a_judge_that_cannot_be_had_is_named(text, words):
    with pytest.raises(BadInput, match=words or "no such command"):
        boot(open_machine(text))


def test_kvm_that_cannot_be_used_is_named(monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(qemu_module.os, "open", refused)
    with pytest.raises(BadInput, match="KVM can't be used: /dev/kvm: Permission denied"):
        qemu_module.require_kvm()


def test_qemu_shares_the_results_of_what_it_ran(qemu):
    machine = open_machine(qemu)

    printed = boot(machine)

    assert (WHOLE, None, False) == (printed.data, printed.ended, printed.by_others)
    assert machine.version.startswith("QEMU ")
    assert "/" not in machine.version


def test_qemu_keeps_the_results_of_an_image_that_never_ends(qemu):
    machine = open_machine(qemu)
    reset = boot(machine, image_of(CUT, "resets"))
    hung = boot(machine, image_of(CUT, "hangs"), seconds=1.0)

    assert (CUT, "resets") == (reset.data, reset.ended)
    assert (CUT, "hangs") == (hung.data, hung.ended)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has files without a name")
def test_nothing_is_left_of_qemu_and_its_judge_killed_together(qemu, tmp_path, monkeypatch):
    program = shutil.which(qemu.partition(":")[2] or "qemu-system-x86_64")
    asked, wrapper = tmp_path / "asked", tmp_path / "qemu"
    wrapper.write_text(
        f'#!/bin/sh\n[ $1 = --version ] || more="-qmp unix:{asked}"\nexec {program} $more "$@"\n'
    )
    wrapper.chmod(0o755)
    files = tmp_path / "files"
    files.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(files))
    machine = open_machine(f"qemu:{wrapper}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(asked))
        server.listen()
        server.settimeout(60)
        judge = fork(lambda: boot(machine, image_of(CUT, "hangs"), seconds=60.0))
        monitor = server.accept()[0]
        monitor.settimeout(60)
        with monitor, monitor.makefile("rwb") as lines:
            for command in (b"qmp_capabilities", b"query-status"):
                lines.write(b'{"execute":"%s"}\n' % command)
                lines.flush()
            while b"running" not in lines.readline():  # Its memory is there then.
                pass
            started = Path(f"/proc/{peer(monitor)}/fd")
            opened = [each.stat() for each in started.iterdir() if each.exists()]
            large = [each for each in opened if stat.S_ISREG(each.st_mode) and each.st_size >> 32]
            named = list(files.iterdir())
            os.kill(judge, signal.SIGKILL)
            os.waitpid(judge, 0)
            while lines.readline():  # To its end.
                pass
    assert [0] == [each.st_nlink for each in large]
    assert [] == named == list(files.iterdir())


def peer(connected):
    """The number of the process at the other end."""
    size = struct.calcsize("3i")
    sent = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", sent)[0]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (CpuWish(), "max"),
        (CpuWish(maxphyaddr=52, vendor=Vendor.INTEL), "max,phys-bits=52,vendor=GenuineIntel"),
        (CpuWish(vendor=Vendor.AMD, page1gb=False), "max,vendor=AuthenticAMD,-pdpe1gb"),
        (CpuWish(page1gb=True, features=frozenset({"pks"})), "max,+pdpe1gb"),
    ],
)
def test_qemu_takes_wishes(qemu, wish, words):
    machine = open_machine(qemu)

    assert words == machine._cpu(wish)
    assert None is boot(machine, wish=wish).ended


@pytest.mark.parametrize("size", [None, 1 << 36])
def test_qemu_has_as_much_ram_as_is_wanted(qemu, size):
    image = boot_image([], Place(0x800_0000), Output.MEMORY)
    printed = boot(open_machine(qemu), image, wish=CpuWish(maxphyaddr=40, ram=size))
    assert (size or 5 << 30) == max(end for _, end in read_log(printed.data).cpu.ram)


def test_qemu_that_does_not_start_is_named(qemu, monkeypatch):
    machine = open_machine(qemu)
    monkeypatch.setattr(machine, "_cpu", lambda _wish: "nonsense")

    with pytest.raises(BadInput, match="nonsense"):
        boot(machine)


def test_an_iso_file_is_the_same_each_time_and_boots_from_cd_and_stick(qemu, iso_tools, tmp_path):
    path = tmp_path / "made.iso"
    path.write_bytes(make_iso(image_of(WHOLE, "powers off")))
    program = qemu.partition(":")[2] or "qemu-system-x86_64"

    assert path.read_bytes() == make_iso(image_of(WHOLE, "powers off"))
    for drive in ("-cdrom {}", "-drive file={},format=raw,if=ide,snapshot=on"):
        words = f"-nodefaults -display none -no-reboot -m 1024 -serial stdio {drive.format(path)}"
        ran = run_command([program, *shlex.split(words)], Limits(60.0, memory=1 << 36))
        assert WHOLE in ran.output


@pytest.mark.slow
def test_each_bochs_prints_the_results_of_what_it_ran(bochs):
    for name in bochs:
        machine = open_machine(name)
        printed = boot(machine, seconds=machine.loads_in)
        log = read_log(printed.data, digest=DIGEST)

        assert (True, None) == (log.complete, printed.ended)
        assert machine.version.startswith("Bochs ")
        reset = boot(machine, image_of(CUT, "resets"), seconds=machine.loads_in)
        assert CUT in reset.data
        assert reset.ended is not None
