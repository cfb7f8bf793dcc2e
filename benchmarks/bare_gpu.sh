#!/bin/sh
# bare_gpu.sh WHEELS [MINUTES]: benchmarks.gpu on a machine that has Python 3.11 or newer with torch 2.11 or newer, and no network.
#
# WHEELS is filled where there is a network, with the same Python, from an environment that `make setup` made:
#   pip freeze --exclude-editable | grep -viE '^(torch|triton|nvidia-|cuda-)' > wheels.txt
#   pip download --no-deps --dest WHEELS -r wheels.txt
# models/ has to hold the pocket models (`make pull`).
set -eu
wheels=$1 minutes=${2:-8}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv --system-site-packages "$folder/venv"  # torch is the machine's own
"$folder/venv/bin/pip" install --quiet --no-index --no-deps --find-links "$wheels" "$wheels"/*.whl
PYTHONPATH=$(pwd) "$folder/venv/bin/python" -m benchmarks.gpu --minutes "$minutes"
