"""The kernel in Unicorn as a subject of attacks."""

from collections.abc import Callable, Iterable, Iterator

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.pc.results import Ended, Stop
from crosswalk.emu.protect.attack import (
    Attack,
    Attacked,
    DeliveryRefused,
    NotStopped,
    Other,
    Result,
    exit_result,
    run_attacks,
)
from crosswalk.emu.protect.kernel.attacks import AttackFrames, Code, attack_table, lacking
from crosswalk.emu.protect.kernel.guest_code import MARKED, words_of
from crosswalk.emu.protect.kernel.injected import find_frames, injected_code, planted
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.walker.architecture import RFlags

__all__ = ["KernelSubject", "attack_kernel", "linux_subject"]

_SECONDS = 20
_MARKED = GENERAL.index(MARKED)


def attack_kernel(protection: Protection) -> Iterator[Attacked[Code]]:
    """Run each attack from the state that the kernel is in now, in which it is left.

    One for which the kernel has nothing that it needs isn't built.
    """
    frames = find_frames(protection)
    yield from run_attacks(
        linux_subject(protection, frames),
        attack_table(frames),
        lacking=lambda attack: lacking(attack.program, frames.lacks),
    )


def linux_subject(protection: Protection, frames: AttackFrames) -> "KernelSubject":
    """Return Linux as the subject of attacks on these frames."""

    def plant(attack: Attack[Code]) -> Iterable[tuple[int, bytes]]:
        return planted(frames, injected_code(attack, protection.memory, frames))

    return KernelSubject(protection, frames.words.image + frames.site, plant)


class KernelSubject:
    """The kernel, attacked from the state that it is in now; a `Subject`.

    `plant` returns what has to be in memory for an attack: physical addresses and bytes. Its code
    begins at the linear address `start`, and runs at privilege level 0.
    """

    def __init__(
        self,
        protection: Protection,
        start: int,
        plant: Callable[[Attack[Code]], Iterable[tuple[int, bytes]]],
    ) -> None:
        self._protection, self._start, self._plant = protection, start, plant
        machine = protection.machine
        machine.cpu.load()
        self._words = words_of(protection.context)
        self._cpu = machine.cpu.snapshot()
        self._ram = machine.ram.bytes.copy()
        self._rflags = machine.cpu.rflags
        self._granted = protection.nested.granted.copy()
        self._noted = protection.noted()

    def restore(self, *, protected: bool = True, pinned: bool = True) -> None:
        """Put the kernel back into that state."""
        protection, machine = self._protection, self._protection.machine
        machine.ram.bytes[:] = self._ram
        machine.cpu.revert(self._cpu)
        machine.cpu.rflags = self._rflags
        machine.engine.ctl_flush_tb()
        protection.refusal = None
        protection.pins = pinned
        protection.note_again(self._noted)
        if protected:
            protection.resume(self._granted)
        else:
            protection.suspend()

    def run(self, attack: Attack[Code]) -> Result:
        """Run the code of an attack with interrupts off, and return its result."""
        protection, machine = self._protection, self._protection.machine
        program = attack.program
        for pa, data in self._plant(attack):
            machine.ram.write(pa, data)
        machine.engine.ctl_flush_tb()
        with machine.cpu.changed():
            self._enter_kernel()
            machine.cpu.rip = self._start
        machine.cpu.rflags = self._rflags & ~RFlags.IF
        before = self._word(program.target)
        ended = machine.run(seconds=_SECONDS)
        machine.cpu.load()
        stopped = _stopped(ended, protection.refusal)
        if program.works(self._words, before, self._word(program.target)):
            return NotStopped() if stopped is None else Other(f"works, then {stopped}")
        return stopped or Other(ended.stop.value)

    def _word(self, target: int | None) -> int:
        """Return the eight bytes of memory that an attack is about, or the register."""
        machine = self._protection.machine
        if target is None:
            return machine.cpu.general(_MARKED)
        return int.from_bytes(machine.ram.read(target, 8), "little")

    def _enter_kernel(self) -> None:
        """Go to flat segments at privilege level 0, wherever the guest is."""
        cpu, words = self._protection.machine.cpu, self._words
        if words.bits == 32:
            for name in ("ds", "es"):
                cpu.set_segment(name, words.stack)
        cpu.enter(words.code, 0, words.stack)


def _stopped(ended: Ended, refusal: Refusal | None) -> Result | None:
    """Return what stopped the run of an attack, None if the host didn't."""
    if ended.stop is Stop.REFUSED:
        return DeliveryRefused(ended.detail)
    return None if refusal is None else exit_result(refusal.left, refusal.detail)
