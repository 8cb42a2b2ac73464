"""What a hypervisor may grant each guest-physical page.

- `Permission`: reading, writing, executing, as a hypervisor is asked for them.
"""

from walker.protection.permission import Permission

__all__ = ["Permission"]
