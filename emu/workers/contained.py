"""Run a function in a child process; its crash is an error like another."""

from collections.abc import Callable
from typing import TypeVar

from crosswalk.emu.workers.pool import Pool
from crosswalk.emu.workers.process import TRIES, ProcessEnded, ProcessLost
from crosswalk.walker.errors import CrosswalkError

__all__ = ["EmulatorCrash", "contained"]

Result = TypeVar("Result")


class EmulatorCrash(CrosswalkError):
    """The emulator took its process down, or doesn't come back."""


def contained(
    work: Callable[[], Result], seconds: float | None = None, *, again: bool = False
) -> Result:
    """Return what `work` returns, or raise what it raises, from a child process.

    `EmulatorCrash` if the child dies, or takes longer than `seconds`. With `again`, `work` is done
    once more where others killed its process: it must not have printed anything. What it returns
    has to be picklable.
    """
    pool: Pool[None, Result] = Pool(
        lambda _: work(), seconds=seconds, sure=1, tries=TRIES if again else 1, who="the emulator"
    )
    with pool:
        try:
            return pool.submit(None)()
        except ProcessLost as lost:
            raise EmulatorCrash(str(lost)) from None
        except ProcessEnded as ended:
            authors = "; a case for its authors" if ended.by_signal else ""
            raise EmulatorCrash(f"the emulator {ended}{authors}") from None
