"""The kernel under EPT as a subject of attacks."""

from collections.abc import Iterator

from crosswalk.emu.monitor.vmx import ExitReason, Field
from crosswalk.emu.protect.attack import (
    Attack,
    Attacked,
    NotStopped,
    Other,
    Result,
    VmExited,
    run_attacks,
    violation_result,
)
from crosswalk.emu.protect.kernel.attack_kinds import attacks_for
from crosswalk.emu.protect.kernel.attacks import AttackFrames, Code, lacking
from crosswalk.emu.protect.kernel.ept import EptProtection, EptRefusal, exit_words
from crosswalk.emu.protect.kernel.guest_code import MARKED
from crosswalk.emu.protect.kernel.injected import find_frames, injected_code, planted
from crosswalk.walker.architecture import RFlags, Vector
from crosswalk.walker.nested.outcome import EptViolation

__all__ = ["EptSubject", "attack_under_ept"]

_ENDS = (Vector.DF, Vector.GP, Vector.PF)
"""The exceptions that end an attack: nothing is behind them that it needs."""


def attack_under_ept(host: EptProtection) -> Iterator[Attacked[Code]]:
    """Run each attack from the state that the kernel is in now, in which it is left.

    It is at an exit in the kernel. An attack for which the kernel has nothing that it needs isn't
    built.
    """
    frames = find_frames(host)
    yield from run_attacks(
        EptSubject(host, frames),
        attacks_for(frames, host.kind),
        lacking=lambda attack: lacking(attack.program, frames.lacks),
    )


class EptSubject:
    """The kernel, attacked from the state that it is in now; a `Subject`.

    Injected code replaces the text at `frames.site`.
    """

    def __init__(self, host: EptProtection, frames: AttackFrames) -> None:
        self._host, self._frames = host, frames
        self._rflags = host.left.rflags & ~RFlags.IF
        self._granted = host.nested.granted.copy()
        self._noted = host.noted()
        self._saved = host.guest.save()

    def restore(self, *, protected: bool = True, pinned: bool = True) -> None:
        """Put the kernel back into that state."""
        host = self._host
        host.guest.put_back(self._saved)
        host.refusal = None
        host.pins = pinned
        host.note_again(self._noted)
        if protected:
            host.resume(self._granted)
        else:
            host.suspend()

    def run(self, attack: Attack[Code]) -> Result:
        """Run the code of an attack with interrupts off, and return its result."""
        host, frames, guest = self._host, self._frames, self._host.guest
        code = injected_code(attack, host.memory, frames)
        for pa, data in planted(frames, code):
            guest.write(pa, data)
        before = self._word(attack.program.target)
        exceptions = sum(1 << vector for vector in _ENDS)
        guest.vmx.set(
            {
                Field.RIP: frames.words.image + frames.site,
                Field.RFLAGS: self._rflags,
                Field.INTERRUPTIBILITY: 0,
                Field.ACTIVITY: 0,
                Field.EXCEPTION_BITMAP: exceptions,
            }
        )
        left = guest.run()
        while left is not None and left.reason not in _ENDED and host.handle(left):
            left = guest.run()
        guest.vmx.set({Field.EXCEPTION_BITMAP: 0})
        stopped = _stopped(host.refusal)
        if attack.program.works(frames.words, before, self._word(attack.program.target)):
            return NotStopped() if stopped is None else Other(f"works, then {stopped}")
        return stopped or Other(str(left))

    def _word(self, target: int | None) -> int:
        """Return the word of memory that an attack is about, or the register."""
        if target is None:
            return self._host.left.register(MARKED)
        return int.from_bytes(self._host.memory.read(target, 8), "little")


_ENDED = {ExitReason.HLT, ExitReason.VMCALL, ExitReason.EXCEPTION}


def _stopped(refusal: EptRefusal | None) -> Result | None:
    """Return what stopped the run of an attack, None if the host didn't."""
    if refusal is None:
        return None
    left = refusal.left
    if left.reason == ExitReason.EPT_VIOLATION:
        return violation_result(EptViolation(left.qualification, left.gpa, left.gla))
    return VmExited(exit_words(left))
