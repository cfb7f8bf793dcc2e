"""Import as an environment would that has only what drawing and training need, and without looking for garbage meanwhile.

diffusers, transformers and accelerate look round at import for packages that none of our commands uses, and import what they
find: seconds, for every stage. A command imports its stage within `lean_imports`, which lets them find none. The library's own
modules never do: whoever imports `tlora` in a program that uses diffusers with PEFT finds both as they are.

Importing makes a million objects that stay. Python's garbage collector looks through them again and again, a sixth of the time.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder

# Who asks: diffusers for bitsandbytes (which brings all of torch's compiler), peft and scipy; accelerate for boto3, to rent
# machines; transformers for scipy and sklearn; torch for pydot, to draw graphs.
NEVER_NEEDED_AT_IMPORT = frozenset({"bitsandbytes", "boto3", "peft", "pydot", "scipy", "sklearn"})


@contextmanager
def lean_imports(*packages: str) -> Iterator[None]:
    """Let packages not be found by what is imported within the context; afterwards they are found as ever.

    A library that was imported within it goes on without them to the end of the process.

    Args:
        packages: Names of packages besides those that no command needs, such as `transformers`.
    """
    absent = NEVER_NEEDED_AT_IMPORT | set(packages)

    class _LeanPathFinder(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
            return None if fullname in absent else super().find_spec(fullname, path, target)  # type: ignore[arg-type]

    before, collecting = list(sys.meta_path), gc.isenabled()
    sys.meta_path[:] = [_LeanPathFinder if finder is PathFinder else finder for finder in before]
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        sys.meta_path[:] = [PathFinder if finder is _LeanPathFinder else finder for finder in sys.meta_path]
