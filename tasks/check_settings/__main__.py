"""`python -m tasks.check_settings`."""

import sys

from tlora.runtime.lean_imports import lean_imports

if __name__ == "__main__":
    with lean_imports():
        from tasks.check_settings.check import main
    sys.exit(main())
