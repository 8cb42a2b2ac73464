"""Attacks run one by one, from the same state, without protection and with it."""

from collections.abc import Iterator
from dataclasses import dataclass

from crosswalk.emu.cpu.cpu import GENERAL
from crosswalk.emu.pc.pc import Stop
from crosswalk.emu.protect.kernel.attack_frames import DIRECT, IMAGE, Places, find_places
from crosswalk.emu.protect.kernel.attacks import ATTACKS, MARK, Attack
from crosswalk.emu.protect.kernel.guestwalk import find_leaf
from crosswalk.emu.protect.kernel.protection import Protection, Refusal
from crosswalk.guest.assembler import assemble
from crosswalk.walker.errors import CrosswalkError
from crosswalk.walker.memory import FRAME

__all__ = ["Fought", "fight", "is_as_meant"]

_SECONDS = 20
_R15 = GENERAL.index("r15")
_PLANTED = bytes.fromhex("488903 f4")  # mov [rbx], rax; hlt
_KERNEL_CODE = 0x10
_INTERRUPT_GATE = 0x8E00
_INTERRUPTS = 1 << 9


@dataclass(frozen=True, slots=True)
class Fought:
    """What became of an attack: whether it succeeded without protection, and with it.

    `refusal` is what the host refused, if it did; `guarded` what the CPU's guard said; `pa` the
    frame that it was after, if it was after one. `end` says how the run with protection ended.
    """

    attack: Attack
    before: bool
    after: bool
    refusal: Refusal | None
    guarded: str
    pa: int | None
    end: str


def is_as_meant(fought: Fought) -> bool:
    """Return whether an attack works where nothing is enforced, and else ends as it is to.

    A nested fault has to tell the frame that the attack is after.
    """
    attack, refusal = fought.attack, fought.refusal
    if not fought.before:
        return False
    if attack.guarded:
        return not fought.after and bool(fought.guarded)
    if attack.stopped is None:
        return fought.after and refusal is None
    if fought.after or refusal is None or refusal.exit != attack.stopped.name:
        return False
    return refusal.gpa is None or (
        fought.pa is not None and refusal.gpa // FRAME == fought.pa // FRAME
    )


def fight(protection: Protection) -> Iterator[Fought]:
    """Run each attack, from the state that the guest is in now, which it is left in.

    A process's memory has to be mapped there; errors as `find_places`.
    """
    places = find_places(protection)
    arena = _Arena(protection, places)
    for attack in ATTACKS:
        before, *_ = arena.run(attack, protected=False)
        after, refusal, guarded, end = arena.run(attack, protected=True)
        yield Fought(attack, before, after, refusal, guarded, arena.aimed(attack), end)
    arena.restore()


class _Arena:
    """The guest's state as it was, and running code from there."""

    def __init__(self, protection: Protection, places: Places) -> None:
        self._protection, self._places = protection, places
        machine = protection.machine
        machine.cpu.load()
        self._cpu = machine.cpu.snapshot()
        self._ram = machine.ram.bytes.copy()
        self._rflags = machine.cpu.rflags
        self._writable = protection.nested.writable
        self._executable = protection.nested.executable

    def restore(self) -> None:
        """Have everything as it was, protection on."""
        protection, machine = self._protection, self._protection.machine
        machine.ram.bytes[:] = self._ram
        machine.cpu.revert(self._cpu)
        machine.cpu.rflags = self._rflags
        machine.engine.ctl_flush_tb()
        protection.refusal = None
        protection.pins = True
        protection.resume(self._writable, self._executable)

    def run(self, attack: Attack, *, protected: bool) -> tuple[bool, Refusal | None, str, str]:
        """Return whether the attack succeeded, what was refused, by whom, and the run's end."""
        self.restore()
        protection, machine, places = self._protection, self._protection.machine, self._places
        protection.pins = attack.pins
        if protected:
            protection.resume(self._writable, self._executable)
        else:
            protection.suspend()
        source = f"cli\n{attack.source}\nmov r15, MARK\nhlt"
        site = IMAGE + places.site
        symbols = self._symbols()
        code = assemble(attack.name, source, bits=64, address=site, symbols=symbols)
        if len(code) > FRAME:
            raise CrosswalkError(f"{attack.name}: {len(code)} bytes of code")
        machine.ram.write(places.site, code)
        machine.ram.write(places.site + FRAME - 1, b"\xf4")
        machine.ram.write(places.user_frame, _PLANTED)
        machine.engine.ctl_flush_tb()
        with machine.cpu.changed():
            machine.cpu.rip = site
        machine.cpu.rflags = self._rflags & ~_INTERRUPTS
        target = self._target(attack)
        was = None if target is None else machine.ram.read(target, 8)
        ended = machine.run(seconds=_SECONDS)
        machine.cpu.load()
        if target is None:
            success = machine.cpu.general(_R15) == MARK
        else:
            success = machine.ram.read(target, 8) != was
        guarded = ended.detail if ended.stop is Stop.REFUSED else ""
        return success, protection.refusal, guarded, ended.stop.value

    def aimed(self, attack: Attack) -> int | None:
        """Return the frame at which a nested fault is to stop it."""
        return self._places.data if attack.target == "result" else self._target(attack)

    def _target(self, attack: Attack) -> int | None:
        places = self._places
        return {
            "text": places.text,
            "rodata": places.rodata,
            "data": places.data,
            "result": places.free[-1],
            "": None,
        }[attack.target]

    def _symbols(self) -> dict[str, int]:
        places = self._places
        frames = {"text": places.text, "rodata": places.rodata, "data": places.data}
        frames |= {"result": places.free[-1], "root": places.root}
        frames |= {f"free{number}": pa for number, pa in enumerate(places.free[:-1])}
        symbols = {"MARK": MARK, "USER": places.user, "COPIER": places.copier}
        for name, pa in frames.items():
            symbols[name.upper()] = pa
            symbols[f"{name.upper()}_DIRECT"] = DIRECT + pa
            symbols[f"{name.upper()}_IMAGE"] = IMAGE + pa
        image = {"RODATA": places.rodata, "DATA": places.data}
        direct = {"TEXT": places.text, "FREE0": places.free[0]}
        for base, named in ((IMAGE, image), (DIRECT, direct)):
            for name, pa in named.items():
                symbols[f"{name}_ENTRY"] = DIRECT + self._entry(base + pa)
        symbols["USER_ENTRY"] = DIRECT + places.root + 8 * (places.user >> 39)  # of the root
        handler = IMAGE + places.site + FRAME - 1
        low = handler & 0xFFFF | _KERNEL_CODE << 16 | _INTERRUPT_GATE << 32
        symbols["GATE_LOW"] = low | (handler >> 16 & 0xFFFF) << 48
        symbols["GATE_HIGH"] = handler >> 32
        return symbols

    def _entry(self, va: int) -> int:
        leaf = find_leaf(self._protection.machine.ram.words, self._places.root, va)
        if leaf is None:
            raise CrosswalkError(f"{va:#x} isn't mapped")
        return leaf.entry
