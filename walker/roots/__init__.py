"""Where tables begin: the roots of all address spaces in a memory.

- `find_roots`: the roots that registers, headers and VMCOREINFO name, and those that a scan of
  the memory finds, as `Roots`, best first.
- `Root`: one of them.
"""

from crosswalk.walker.roots.find import find_roots
from crosswalk.walker.roots.root import Root, Roots

__all__ = ["Root", "Roots", "find_roots"]
