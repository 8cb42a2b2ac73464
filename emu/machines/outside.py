"""Machines that others run: a command that boots images."""

import os
import shlex
import tempfile
from pathlib import Path

from crosswalk.emu.machines.machine import ANY_CPU, CpuWish, Printed
from crosswalk.emu.workers.command import run_command
from crosswalk.emu.workers.sandbox import Limits
from crosswalk.guest.boot.image import Output, results_of
from crosswalk.guest.boot.log import came_to_end
from crosswalk.walker.errors import BadInput

__all__ = ["Command"]

_IMAGE = "{image}"
_NOISE = 1 << 20
_MEMORY = 1 << 40  # Of address space: what runs machines may reserve any.
_PATIENCE = 10.0
_TAIL = 4096


class Command:
    """A command that gets the path of an image, and prints what the image sends to COM1.

    The path replaces each `{image}` in its words, else it is the last argument. It needn't end by
    itself: it is ended when the log has come to its end.
    """

    output = Output.SERIAL
    nothing_from: int | None = None
    loads_in = 10.0

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise BadInput(f"{name}: {error}") from None
        if not self._words:
            raise BadInput(f"{name}: names no command")

    @property
    def version(self) -> str:
        """The name of the program."""
        return os.path.basename(self._words[0])  # noqa: PTH119  # A name, and no path of ours.

    def heeded(self, wish: CpuWish) -> CpuWish:  # noqa: ARG002
        """Return no wish: the command isn't told any."""
        return ANY_CPU

    def boot(self, image: bytes, *, seconds: float, wish: CpuWish = ANY_CPU) -> Printed:  # noqa: ARG002
        """Boot an image; see `Machine`."""
        limits = Limits(
            seconds=seconds,
            output=results_of(image).size + _NOISE,
            memory=_MEMORY,
            patience=_PATIENCE,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "image")
            path.write_bytes(image)
            words = [word.replace(_IMAGE, str(path)) for word in self._words]
            if words == self._words:
                words.append(str(path))
            tail = b""

            def complete(part: bytes) -> bool:
                nonlocal tail
                tail = (tail + part)[-_TAIL:]
                return came_to_end(tail)

            ran = run_command(words, limits, complete=complete)
        if came_to_end(ran.output):
            return Printed(ran.output)
        return Printed(ran.output, ran.ended or "ends", ran.by_others, ran.said)

    def close(self) -> None:
        """Nothing is kept between boots."""
