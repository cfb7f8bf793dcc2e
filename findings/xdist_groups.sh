#!/bin/bash
# pytest-xdist 3.8.0 under pytest 9.2.0: `--dist loadgroup` with `@pytest.mark.xdist_group` is accepted and does nothing. xdist tells its scheduler of a group by
# a suffix that it writes into a private attribute of each test, which this pytest no longer reads: tests of one group run in different processes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pytest==9.2.0" "pytest-xdist==3.8.0"
cat > "$folder/test_group.py" <<'PY'
import os
import time

import pytest


@pytest.mark.xdist_group("servers")
@pytest.mark.parametrize("number", range(4))
def test_of_the_group(number):
    time.sleep(0.5)
    with open("processes", "a") as log:
        print(os.environ["PYTEST_XDIST_WORKER"], file=log)
PY
cd "$folder"
"$folder/venv/bin/pytest" -q -n 2 --dist loadgroup test_group.py
processes=$(sort -u processes | tr '\n' ' ')
echo "the group ran in: $processes"
# Expected: one process, such as "gw0".
# Seen: "gw0 gw1"
[ "$processes" = "gw0 gw1 " ] || { echo "the behaviour has changed" >&2; exit 1; }
