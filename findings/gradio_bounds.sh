#!/bin/bash
# gradio 6.31.0 asks for pillow below 13 and tomlkit below 0.15, so pip refuses to install it beside pillow 13.0.0, which reads some pictures otherwise than 12 does.
# Its page starts and answers with pillow 13.0.0 all the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# Expected: a release of today's gradio installs beside today's pillow, or does not work beside it.
# Seen: pip finds no set of versions ("Cannot install gradio==6.31.0 and pillow==13.0.0 because these package versions have conflicting dependencies"), and installed past that
# bound the page answers: "gradio 6.31.0 answers with pillow 13.0.0".
if "$folder/venv/bin/pip" install -q --dry-run "gradio==6.31.0" "pillow==13.0.0" 2> "$folder/refusal"; then echo "the behaviour has changed" >&2; exit 1; fi
grep -im1 "conflict" "$folder/refusal"
"$folder/venv/bin/pip" install -q "gradio==6.31.0"
"$folder/venv/bin/pip" install -q --no-deps "pillow==13.0.0"
GRADIO_ANALYTICS_ENABLED=False "$folder/venv/bin/python" - <<'PY'
import urllib.request
import gradio, PIL
with gradio.Blocks(analytics_enabled=False) as page:
    gradio.Image(PIL.Image.new("RGB", (4, 4)))
_, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
assert urllib.request.urlopen(address).status == 200, "the behaviour has changed"
print("gradio", gradio.__version__, "answers with pillow", PIL.__version__)
PY
