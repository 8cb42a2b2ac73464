"""What a hypervisor grants a page of guest-physical memory."""

from enum import IntFlag

__all__ = ["Permission"]


class Permission(IntFlag):
    """The accesses allowed, by the numbers of the Heki patches' MEM_ATTR_READ, _WRITE, _EXEC."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
