"""The first process of a Linux guest, its archive, and what it does for whatever Linux says."""

import struct

import capstone
import pytest
import unicorn
from unicorn import x86_const as x86

from crosswalk.guest.init import AREA, DONE, FAILED, SHARED, STARTED, init_archive, init_program

STACK = 0x7000_0000
ENOENT = 2
CALL = (
    *(x86.UC_X86_REG_RAX, x86.UC_X86_REG_RDI, x86.UC_X86_REG_RSI),
    *(x86.UC_X86_REG_RDX, x86.UC_X86_REG_R10),
)
CALL32 = (
    *(x86.UC_X86_REG_EAX, x86.UC_X86_REG_EBX, x86.UC_X86_REG_ECX),
    *(x86.UC_X86_REG_EDX, x86.UC_X86_REG_ESI),
)
VDSO = 0x7010_0000


def members(archive):
    """Yield (name, mode, links, content, device) by the format's description alone."""
    at = 0
    while True:
        assert b"070701" == archive[at : at + 6]
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        start = at + 110
        name = archive[start : start + fields[11] - 1].decode()
        content = -(-(start + fields[11]) // 4) * 4
        yield name, fields[1], archive[content : content + fields[6]], tuple(fields[9:11])
        at = -(-(content + fields[6]) // 4) * 4
        if name == "TRAILER!!!":
            assert len(archive) == at
            return


def test_the_archive_has_the_process_and_the_console_it_writes_to():
    found = list(members(init_archive()))
    assert [
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, init_program(), (0, 0)),
    ] == found[:3]
    assert ["TRAILER!!!"] == [name for name, *_ in found[3:]]


def test_the_program_is_what_its_source_says():
    program = init_program()
    entry = int.from_bytes(program[24:32], "little")
    base = 0x40_0000
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    code = [f"{i.mnemonic} {i.op_str}" for i in engine.disasm(program[entry - base :], entry)]
    for wanted in (f"mov edi, {AREA:#x}", f"mov edi, {SHARED:#x}", "mov eax, 0x39"):
        assert wanted in code
    assert 4 == sum(line == "syscall " for line in code)


class Linux:
    """As much of Linux as the process sees, for one that is the parent or the child of a fork."""

    def __init__(self, *, child=False, refused=None, absent=None, wrong=(), patching=False):
        self.engine = engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        program = init_program(patching=patching)
        for start, size in ((0x40_0000, 0x1000), (AREA, 0x8000), (SHARED, 0x1000), (STACK, 0x1000)):
            engine.mem_map(start, size)
        engine.mem_write(0x40_0000, program)
        engine.reg_write(x86.UC_X86_REG_RSP, STACK + 0x800)
        engine.hook_add(unicorn.UC_HOOK_INSN, self._call, None, 1, 0, x86.UC_X86_INS_SYSCALL)
        self.calls, self.output, self.mapped, self.opened, self.filters = [], b"", {}, [], []
        self._absent = absent
        self._child, self._refused, self._wrong = child, refused, wrong
        engine.emu_start(int.from_bytes(program[24:32], "little"), 0, timeout=10_000_000)

    def _call(self, engine, _data):
        number, *given = (engine.reg_read(each) for each in CALL)
        self.calls.append(number)
        result = self._file_call(number, given)
        if number == 57:
            result = 0 if self._child else 42
        elif number == 61:  # The child has written to shared memory.
            engine.mem_write(SHARED, SHARED.to_bytes(8, "little"))
            for where in self._wrong:
                engine.mem_write(where, b"\1")
        elif number in (34, 60):
            engine.emu_stop()
        elif number in (9, 10, 11):
            self.mapped[given[0] & -4096] = (number, given[1], given[2])
        if number == self._refused:
            result = (1 << 64) - 12
        engine.reg_write(x86.UC_X86_REG_RAX, result)

    def _file_call(self, number, given):
        """What write, open, mount and seccomp answer, and 0 for any other call."""
        read = self.engine.mem_read
        if number in (1, 3) and given[0] == -ENOENT & (1 << 64) - 1:
            return given[0]
        if number == 1:
            self.output += read(given[1], given[2])
        elif number in (2, 165):
            self.opened.append(bytes(read(given[0], 64)).partition(b"\0")[0])
            if self.opened[-1] == self._absent:
                return -ENOENT & (1 << 64) - 1
            return 3 if number == 2 else 0
        elif number == 317:
            length, at = struct.unpack("<H6xQ", read(given[2], 16))
            self.filters.append((length, bytes(read(at, 8 * length))))
        return 0


def test_the_process_changes_its_mappings_forks_waits_and_sleeps():
    linux = Linux()
    assert f"{STARTED}\n{DONE}\n".encode() == linux.output
    assert [1, 9, 10, 10, 10, 11, 9, 57, 61, 1, 34] == linux.calls
    assert {1: (10, 1), 2: (10, 5), 3: (10, 0)} == {
        page: (call[0], call[2])
        for page in (1, 2, 3)
        for call in [linux.mapped[AREA + page * 0x1000]]
    }
    assert 11 == linux.mapped[AREA + 0x4000][0]


def test_the_child_writes_to_both_memories_and_exits():
    linux = Linux(child=True)
    assert [57, 60] == linux.calls[-2:]
    assert 1 == linux.engine.mem_read(AREA, 1)[0]
    assert SHARED == int.from_bytes(linux.engine.mem_read(SHARED, 8), "little")


@pytest.mark.parametrize("refused", [9, 10, 11, 57, 61])
def test_a_call_that_is_refused_is_said_and_nothing_follows(refused):
    assert f"{STARTED}\n{FAILED}\n".encode() == Linux(refused=refused).output


@pytest.mark.parametrize("where", [AREA, SHARED])
def test_a_childs_store_in_the_wrong_place_is_noticed(where):
    assert f"{STARTED}\n{FAILED}\n".encode() == Linux(wrong=[where]).output


class Linux32:
    """The same of a 32-bit Linux: INT 0x80, and the vDSO's call if it says that there is one."""

    def __init__(
        self, *, child=False, refused=None, absent=None, wrong=(), number=1, vdso=True, **options
    ):
        self.engine = engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        program = init_program(bits=32, **options)
        for start, size in ((0x40_0000, 0x1000), (AREA, 0x8000), (SHARED, 0x1000), (STACK, 0x1000)):
            engine.mem_map(start, size)
        engine.mem_map(VDSO, 0x1000)
        engine.mem_write(VDSO, b"\xcd\x80\xc3")  # int 0x80; ret
        engine.mem_write(0x40_0000, program)
        # Two arguments and a variable, each list ending in a zero, and the auxiliary vector.
        pairs = [3, 0x40_0034, *([32, VDSO] if vdso else []), 6, 0x1000, 0, 0]
        words = [2, STACK, STACK, 0, STACK, 0, *pairs]
        engine.mem_write(STACK + 0x800, struct.pack(f"<{len(words)}I", *words))
        engine.reg_write(x86.UC_X86_REG_ESP, STACK + 0x800)
        engine.hook_add(unicorn.UC_HOOK_INTR, self._call)
        self.calls, self.output, self.mapped, self.called_from = [], b"", {}, []
        self.opened, self.filters, self._absent = [], [], absent
        self._child, self._refused, self._wrong, self._number = child, refused, wrong, number
        engine.emu_start(int.from_bytes(program[24:28], "little"), 0, timeout=10_000_000)

    def _call(self, engine, vector, _data):
        assert 0x80 == vector
        number, *given = (engine.reg_read(each) for each in CALL32)
        self.calls.append(number)
        self.called_from.append(engine.reg_read(x86.UC_X86_REG_EIP) & -0x1000)
        result = {20: self._number, 2: 0 if self._child else 42}.get(number, 0)
        if number in (4, 5, 6, 21, 354):
            result = self._file_call(number, given)
        elif number == 114:
            engine.mem_write(SHARED, SHARED.to_bytes(4, "little"))
            for where in self._wrong:
                engine.mem_write(where, b"\1")
        elif number in (1, 29):
            engine.emu_stop()
        elif number == 192:
            # The kernel gives the address back, which is no error wherever it lies.
            result = given[0]
        if number in (91, 125, 192):
            self.mapped[given[0]] = (number, given[1], given[2])
        if number == self._refused:
            result = (1 << 32) - 12
        engine.reg_write(x86.UC_X86_REG_EAX, result)

    def _file_call(self, number, given):
        read = self.engine.mem_read
        if number in (4, 6) and given[0] == -ENOENT & (1 << 32) - 1:
            return given[0]
        if number == 4:
            self.output += read(given[1], given[2])
        elif number in (5, 21):
            self.opened.append(bytes(read(given[0], 64)).partition(b"\0")[0])
            if self.opened[-1] == self._absent:
                return -ENOENT & (1 << 32) - 1
            return 3 if number == 5 else 0
        elif number == 354:
            length, at = struct.unpack("<H2xI", read(given[2], 8))
            self.filters.append((length, bytes(read(at, 8 * length))))
        return 0


def test_the_process_of_32_bits_does_what_the_other_does():
    linux = Linux32()
    assert f"{STARTED}\n{DONE}\n".encode() == linux.output
    assert [4, 20, 192, 125, 125, 125, 91, 192, 2, 114, 4, 29] == linux.calls
    assert [VDSO] == [at for at in linux.called_from if at != 0x40_0000]
    assert {0: 192, 1: 125, 2: 125, 3: 125, 4: 91} == {
        (va - AREA) // 0x1000: number for va, (number, *_) in linux.mapped.items() if va != SHARED
    }
    assert [1, 5, 0] == [linux.mapped[AREA + page * 0x1000][2] for page in (1, 2, 3)]


def test_a_32_bit_process_without_a_vdso_goes_on_without_its_call():
    linux = Linux32(vdso=False)
    assert f"{STARTED}\n{DONE}\n".encode() == linux.output
    assert 20 not in linux.calls


def test_a_wrong_answer_by_the_vdso_is_noticed():
    assert f"{STARTED}\n{FAILED}\n".encode() == Linux32(number=2).output


def test_the_32_bit_child_writes_to_both_memories_and_exits():
    linux = Linux32(child=True)
    assert [2, 1] == linux.calls[-2:]
    assert 1 == linux.engine.mem_read(AREA, 1)[0]
    assert SHARED == int.from_bytes(linux.engine.mem_read(SHARED, 4), "little")


@pytest.mark.parametrize("refused", [2, 91, 114, 125, 192])
def test_a_32_bit_call_that_is_refused_is_said_and_nothing_follows(refused):
    assert f"{STARTED}\n{FAILED}\n".encode() == Linux32(refused=refused).output


@pytest.mark.parametrize("where", [AREA, SHARED])
def test_a_32_bit_childs_store_in_the_wrong_place_is_noticed(where):
    assert f"{STARTED}\n{FAILED}\n".encode() == Linux32(wrong=[where]).output


def test_a_32_bit_program_is_an_elf_file_of_one_segment_and_a_stack_that_is_not_executable():
    program = init_program(bits=32)
    assert (b"\x7fELF\x01", 2, 3) == (program[:5], program[16], program[18])
    first, second = (struct.unpack_from("<8I", program, 52 + 32 * at) for at in range(2))
    size = len(program)
    assert (1, 0, 0x40_0000, 0x40_0000, size, size, 5, 0x1000) == first
    assert (0x6474E551, 6) == (second[0], second[6])
    found = {name: content for name, _, content, _ in members(init_archive(bits=32))}
    assert program == found["init"]


COMPILING = b"/proc/sys/net/core/bpf_jit_enable"
SWITCH = b"/proc/sys/kernel/sched_schedstats"


@pytest.mark.parametrize(
    ("kind", "calls", "opened", "written"),
    [
        (
            Linux,
            [165, 157, 317, 2, 1, 3, 317, 2, 1, 3, 2, 1, 3, 1, 34],
            [b"proc", COMPILING, SWITCH, SWITCH],
            "010",
        ),
        (
            Linux32,
            [21, 172, 5, 4, 6, 354, 5, 4, 6, 354, 5, 4, 6, 5, 4, 6, 4, 29],
            [b"proc", COMPILING, COMPILING, SWITCH, SWITCH],
            "1010",
        ),
    ],
)
def test_code_is_loaded_and_text_is_patched_by_a_switch_turned_on_and_off(
    kind, calls, opened, written
):
    linux = kind(patching=True)
    assert calls == linux.calls[-len(calls) :]
    assert opened == linux.opened
    # What is written to the files stands between what the process says.
    assert f"{STARTED}\n{written}{DONE}\n".encode() == linux.output
    # A filter of one instruction: return SECCOMP_RET_ALLOW.
    assert [(1, bytes.fromhex("06 00 00 00 00 00 ff 7f"))] * 2 == linux.filters


@pytest.mark.parametrize("kind", [Linux, Linux32])
def test_a_kernel_without_that_switch_is_none_that_fails(kind):
    linux = kind(patching=True, absent=COMPILING)
    assert linux.output.endswith(f"\n10{DONE}\n".encode())
    assert 2 == len(linux.filters)


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        *((Linux, number) for number in (2, 3, 157, 165, 317)),
        *((Linux32, number) for number in (5, 6, 21, 172, 354)),
    ],
)
def test_what_cannot_be_loaded_or_turned_is_said(kind, refused):
    assert kind(patching=True, refused=refused).output.endswith(f"{FAILED}\n".encode())


@pytest.mark.parametrize("bits", [64, 32])
def test_the_archive_of_a_process_that_patches_has_a_place_for_proc(bits):
    archive = init_archive(patching=True, bits=bits)
    found = {name: content for name, _, content, _ in members(archive)}
    assert ["dev", "dev/console", "proc", "init", "TRAILER!!!"] == list(found)
    assert init_program(patching=True, bits=bits) == found["init"] != init_program(bits=bits)
