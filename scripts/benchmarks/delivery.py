"""What an exception costs in a machine: raised by the guest, delivered, and returned from."""

import json
import sys
from statistics import median

from scripts.benchmarks.trees import Row, Tree

__all__ = ["MOST_US", "judge_delivery", "measured_delivery", "show_delivery"]

MOST_US = 40
"""The goal: microseconds of CPU time an exception, at most, in the best batch.

Its handler and its return are included.
"""

_BATCH = 200  # Exceptions.

# A guest takes the same exception again and again; its handler steps over the instruction. It runs
# in any tree that has a machine. Code of 32 bits needs one that delivers outside IA-32e mode.
_MEASURED = r"""
import importlib, json, struct, sys, time
prefix, count, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
module = lambda name: importlib.import_module(prefix + name)
from unicorn import x86_const as x86
cpus, Ram, Machine = module("emu.cpu.cpu"), module("emu.cpu.ram").Ram, module("emu.pc.pc").Machine
assemble, Segment = module("guest.assembler").assemble, cpus.Segment
ROOT, GDT, IDT, TSS, HANDLER, CODE, USER, USER_STACK, STACK, RSP0, HOLE = (
    0x1000, 0x6000, 0x7000, 0x8000, 0x9000, 0xA000, 0xB000, 0xD000, 0xF000, 0x20000, 0x30000)
FLAT = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF,
        0x00AFFB000000FFFF, 0x00CF9B000000FFFF)

def segment(selector):
    return Segment(selector, 0, 0xFFFFFFFF, FLAT[selector >> 3] >> 32 & 0x00F0FF00)

def put(ram, address, source, bits):
    ram.write(address, assemble("bench", source, bits=bits, address=address, symbols={}))

def machine_of(bits):
    ram = Ram(0, 0x100000)
    machine = Machine(ram)
    word = 8 if bits == 64 else 4
    levels = 3 if bits == 64 else 1
    for level in range(levels):
        entry = ROOT + 0x1000 * (level + 1) | 7
        ram.write(ROOT + 0x1000 * level, entry.to_bytes(word, "little"))
    for page in range(0, 0x100000, 0x1000):
        flags = 7 if page in (USER, USER_STACK - 0x1000) else 3
        entry = 0 if page == HOLE else page | flags
        ram.write(ROOT + 0x1000 * levels + page // 0x1000 * word, entry.to_bytes(word, "little"))
    ram.write(GDT, struct.pack("<7Q", *FLAT))
    if bits == 32:
        ram.write(TSS + 4, struct.pack("<II", RSP0, 0x10))
        machine.cpu.set_mode(32, cr0=0x80010033, cr3=ROOT, code=0x30, data=0x10)
    else:
        ram.write(TSS + 4, struct.pack("<Q", RSP0))
        write = machine.engine.reg_write
        write(x86.UC_X86_REG_CR4, 0x20)
        write(x86.UC_X86_REG_MSR, (0xC0000080, 0xD01))
        write(x86.UC_X86_REG_CR0, 0x80010033)
        write(x86.UC_X86_REG_CR3, ROOT)
    machine.engine.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 0x37, 0))
    machine.engine.reg_write(x86.UC_X86_REG_IDTR, (0, IDT, 0xFFF, 0))
    machine.engine.reg_write(x86.UC_X86_REG_TR, (0x40, TSS, 0x67, 0x8B00))
    return machine

def gate(ram, bits, vector, offset, dpl):
    kind = 0x8E | dpl << 5
    if bits == 64:
        data = struct.pack("<HHBBHII", offset, 0x08, 0, kind, 0, 0, 0)
    else:
        data = struct.pack("<HHBBH", offset, 0x30, 0, kind, 0)
    ram.write(IDT + vector * len(data), data)

def taken(bits, user, vector, source, step, error):
    machine = machine_of(bits)
    ram, cpu = machine.ram, machine.cpu
    sp, word, back = ("rsp", 8, "iretq") if bits == 64 else ("esp", 4, "iretd")
    size = "qword" if bits == 64 else "dword"
    drop = f"add {sp}, {word}\n" if error else ""
    move = f"add {size} ptr [{sp}], {step}\n" if step else ""
    put(ram, HANDLER, f"{drop}{move}{back}", bits)
    put(ram, HANDLER + 0x40, "cli\nhlt", bits)
    gate(ram, bits, vector, HANDLER, 3)
    gate(ram, bits, 0x81, HANDLER + 0x40, 3)
    start = USER if user else CODE
    put(ram, start, f"again: {source}\ndec ecx\njnz again\nint 0x81", bits)
    code = (0x2B if user else 0x08) if bits == 64 else (0x1B if user else 0x30)
    with cpu.changed():
        cpu.set_segment("ss", segment(0x23 if user else 0x10))
        cpu.set_segment("ds", segment(0x23 if user else 0x10))
        cpu.enter(segment(code), 3 if user else 0)
        cpu.rip, cpu.rsp = start, (USER_STACK if user else STACK) - 64
        cpu.set_general(1, count)
        cpu.set_general(3, HOLE)
    cpu.rflags = 2
    began = time.process_time()
    machine.run(seconds=600)
    used = time.process_time() - began
    made = sum(number for (each, _), number in machine.counts.items() if each == vector)
    if made != count:
        sys.exit(f"{made} exceptions of vector {vector}, not {count}")
    return used / count * 1e6

kinds = {"page fault, CPL 0": (False, 14, "mov al, [{b}]", 2, True),
         "page fault, CPL 3": (True, 14, "mov al, [{b}]", 2, True),
         "invalid opcode, CPL 0": (False, 6, "ud2", 2, False),
         "INT, CPL 3": (True, 0x80, "int 0x80", 0, False)}
found = {}
for bits in (64, 32):
    if bits == 32 and not hasattr(cpus.Cpu, "set_mode"):
        continue
    for name, (user, vector, source, step, error) in kinds.items():
        source = source.format(b="rbx" if bits == 64 else "ebx")
        found[f"{name}, {bits} bits"] = [
            taken(bits, user, vector, source, step, error) for _ in range(batches)
        ]
print(json.dumps(found))
"""


def measured_delivery(rounds: int, trees: list[Tree], *, quick: bool) -> list[Row]:
    """Return microseconds of CPU time an exception, by kind and tree, in runs by turns.

    Medians of batches, and the least: beside other work a batch takes up to twice its time.
    """
    batches = 5 if quick else 10
    runs: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for tree in trees:
            print(f"bench: delivery, {tree.name}", file=sys.stderr)
            prefix = tree.module("x").removesuffix("x")
            found = json.loads(tree.python(_MEASURED, prefix, str(_BATCH), str(batches)))
            for kind, us in found.items():
                runs.setdefault((kind, tree.name), []).extend(us)
    return [
        {"kind": kind, "tree": tree, "us": median(found), "least_us": min(found)}
        for (kind, tree), found in runs.items()
    ]


def judge_delivery(rows: list[Row]) -> list[Row]:
    """Return the goals of delivery: name, value found, upper bound."""
    return [
        {"goal": f"{row['kind']}, least, µs", "found": row["least_us"], "most": MOST_US}
        for row in rows
        if row["tree"] == "here"
    ]


def show_delivery(rows: list[Row]) -> None:
    """Print what was measured; where there is another tree, the ratio as well."""
    here = {row["kind"]: row["least_us"] for row in rows if row["tree"] == "here"}
    print("\ndelivery: an exception raised, delivered, and returned from")
    print(f"  {'kind':<34}{'tree':<8}{'µs':>8}{'least':>8}{'× least':>9}")
    for row in rows:
        ratio = row["least_us"] / here[row["kind"]]
        print(
            f"  {row['kind']:<34}{row['tree']:<8}{row['us']:>8.1f}{row['least_us']:>8.1f}"
            f"{ratio:>9.2f}"
        )
