"""A stub of QEMU's, scripted: a guest of a few tables behind the protocol, and ways to spoil it.

It is written from GDB's manual and from what QEMU does, apart from the client: a guest is paused
when somebody connects, and by any byte that comes while it runs.
"""

import socket
import threading
from contextlib import contextmanager, suppress

from tests.tables import context

PAGE = 0x1000
FLAT = """FlatView #0
 AS "I/O", root: io
 Root memory region: io
  0000000000000000-000000000000ffff (prio 0, i/o): io

FlatView #1
 AS "memory", root: system
 AS "cpu-memory-0", root: system
 Root memory region: system
{}  00000000fed00000-00000000fed003ff (prio 0, i/o): hpet
  00000000fef00000-00000000fef00fff (prio 0, romd): system.flash0
  00000000fee00000-00000000feefffff (prio 4096, ramd): a device's own

FlatView #2
 AS "PIIX3", root: bus master container
 Root memory region: (none)
  No rendered FlatView

"""
TARGET = (
    '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>'
    '<architecture>i386:x86-64</architecture><xi:include href="64bit.xml"/></target>'
)
REGISTERS = """<?xml version="1.0"?>
<!DOCTYPE target SYSTEM "gdb-target.dtd">
<feature name="org.gnu.gdb.i386.core">
  <flags id="x64_cr0" size="8"><field name="PG" start="31" end="31"/></flags>
  <reg name="rax" bitsize="64" type="int64" regnum="0"/>
  <reg name="eflags" bitsize="32"/>
  <!--reg name="cs_base" bitsize="64" type="int64"/>
  <reg name="ss_base" bitsize="64" type="int64"/-->
  <reg name="cr0" bitsize="64" type="x64_cr0"/>
  <reg name="cr2" bitsize="64"/>
  <reg name="cr3" bitsize="64"/>
  <reg name="cr4" bitsize="64"/>
  <reg name="cr8" bitsize="64" regnum="9"/>
  <reg name="efer" bitsize="64"/>
</feature>
"""
NUMBERS = {1: "eflags", 2: "cr0", 3: "cr2", 4: "cr3", 5: "cr4", 9: "cr8", 10: "efer"}
QOM = {"phys-bits": "46", "pdpe1gb": "false", "vendor": '"GenuineIntel"'}
CPUS = 'Hotpluggable CPUs:\n  type: "max-x86_64-cpu"\n  qom_path: "/machine/unattached/device[0]"\n'


def cpu_of(cr3=0x1000, **changed):
    """The registers of a CPU by name, as numbers."""
    state = context()
    values = {"cr0": state.cr0, "cr3": cr3, "cr4": state.cr4, "efer": state.efer}
    return {"eflags": 0x246, "cr2": 0xBAD, "cr8": 0, **values, **changed}


def framed(data):
    return b"$%s#%02x" % (data, sum(data) & 0xFF)


class HungUp(Exception):
    """The stub closes the connection."""


class Stub:
    """`memory` is what the guest has, as `read(pa, size)`; `cpus` are the registers of each CPU.

    `running` and `physical` are the state that it is found in, and then the one that it is in.
    `spoil` gets each command and the packets that answer it, and returns what is sent instead; it
    may raise `HungUp`. `documents` and `printed` may be changed. `log` has every command.
    """

    def __init__(self, memory, cpus=None, *, running=True, physical=False, version="7.2.22"):
        self.memory, self.cpus = memory, cpus or [cpu_of()]
        self.running, self.physical, self.version = running, physical, version
        self.state = ""
        self.size, self.no_ack = 0x400, False
        self.spoil = lambda command, packets: packets
        self.documents = {"target.xml": TARGET, "64bit.xml": REGISTERS}
        flat = [f"  {s:016x}-{s + n - 1:016x} (prio 0, ram): pc.ram\n" for s, n in memory.ranges]
        self.printed = {"info mtree -f": FLAT.format("".join(flat)), "info version": version}
        self.printed["info hotpluggable-cpus"] = CPUS
        self.log, self.connections = [], 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.name = f"gdb:127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    @property
    def found(self):
        """What a client has to leave as it was."""
        return self.running, self.physical

    @contextmanager
    def listening(self):
        self._thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self):
        """Nothing answers from now on."""
        with suppress(OSError):  # It may have ended before.
            self._listening.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._listening.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection, suppress(HungUp, ConnectionError):
                self._attach(connection)

    def _attach(self, connection):
        self._last, self._chosen, self._quiet = b"", 0, False
        if self.running:
            self.running = False
            if self.says_stopped:
                self._last = framed(b"T02thread:01;")
                self._say(connection, self._last)
        buffer = b""
        while some := connection.recv(1 << 16):
            buffer += some
            while buffer:
                taken = self._take(connection, buffer)
                if not taken:
                    break
                buffer = buffer[taken:]

    @property
    def says_stopped(self):
        return tuple(map(int, self.version.split(".")[:2])) < (8, 1)

    def _take(self, connection, buffer):
        """Do what the first bytes ask for; how many they are."""
        sign = buffer[:1]
        if sign != b"$":
            if self._last and sign == b"-":
                connection.sendall(self._last)
            elif not (self._last and sign == b"+"):
                self.running = False  # A byte that nothing waits for.
            if sign == b"+":
                self._last = b""
            return 1
        end = buffer.find(b"#")
        if end < 0 or len(buffer) < end + 3:
            return 0
        data = buffer[1:end]
        if int(buffer[end + 1 : end + 3], 16) != sum(data) & 0xFF:
            connection.sendall(b"-")
            return end + 3
        assert not self.running, "a command to a guest that runs"
        self.log.append(data)
        packets = b"".join(map(framed, self._answers(data)))
        spoilt = self.spoil(data, packets)
        self.running = data == b"D"
        self._say(connection, spoilt)
        self._last = b"" if self._quiet else packets
        return end + 3

    def _say(self, connection, packets):
        connection.sendall(packets)

    def _answers(self, command):
        text = command.decode()
        if text.startswith("qRcmd,"):
            printed = self._monitor(bytes.fromhex(text[6:]).decode())
            return [b"O" + part.encode().hex().encode() for part in printed] + [b"OK"]
        return [self._answer(text).encode("latin-1")]

    def _monitor(self, asked):
        if asked == "info status":
            run = "running" if self.running else "paused"
            return [f"VM status: {run}{f' ({self.state})' if self.state else ''}\r\n"]
        if asked.startswith("qom-get /machine/unattached/device[0] "):
            return [QOM[asked.split()[-1]] + "\r\n"]
        return [f"{line}\r\n" for line in self.printed[asked].split("\n")]

    def _answer(self, text):
        for prefix, answer in (
            ("qSupported", self._supported),
            ("QStartNoAckMode", self._start_quiet),
            ("qqemu.PhyMemMode", lambda _: f"{self.physical:d}"),
            ("Qqemu.PhyMemMode:", self._set_physical),
            ("qXfer:features:read:", self._transfer),
            ("qfThreadInfo", self._threads),
            ("qsThreadInfo", self._threads),
            ("Hg", self._choose),
            ("p", self._register),
            ("m", self._read),
            ("D", lambda _: "OK"),
        ):
            if text.startswith(prefix):
                return answer(text)
        return ""

    def _supported(self, _):
        return f"PacketSize={self.size:x};qXfer:features:read+;vContSupported+;multiprocess+"

    def _start_quiet(self, _):
        self._quiet = self.no_ack
        return "OK" if self.no_ack else ""

    def _set_physical(self, text):
        self.physical = text[-1] == "1"
        return "OK"

    def _transfer(self, text):
        *_, name, part = text.split(":")
        start, size = (int(number, 16) for number in part.split(","))
        document = self.documents[name]
        return ("l" if start + size >= len(document) else "m") + document[start : start + size]

    def _threads(self, text):
        self._listed = 0 if text[1] == "f" else self._listed + 1
        return f"m{self._listed + 1:02x}" if self._listed < len(self.cpus) else "l"

    def _choose(self, text):
        self._chosen = int(text.removeprefix("Hg"), base=16) - 1
        return "OK" if self._chosen < len(self.cpus) else "E22"

    def _register(self, text):
        name = NUMBERS[int(text[1:], base=16)]
        return self.cpus[self._chosen][name].to_bytes(4 if name == "eflags" else 8, "little").hex()

    def _read(self, text):
        assert self.physical, "memory read by linear address"
        start, size = (int(number, 16) for number in text[1:].split(","))
        return self.memory.read(start, size).hex() if 2 * size <= self.size else "E22"
