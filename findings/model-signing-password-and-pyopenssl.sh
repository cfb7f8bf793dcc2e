#!/bin/bash
# model-signing 1.1.1: installed alone it cannot sign, since it imports pyOpenSSL and does not ask for it; and the password of an encrypted key,
# which the API documents as a str, is refused as a str.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet model-signing==1.1.1
cd "$folder"
# Expected: what pip installs can be imported
# Seen: ModuleNotFoundError: No module named 'OpenSSL'
if "$folder/venv/bin/python" -c "import model_signing.signing" 2> log; then echo "it asks for pyOpenSSL now"; exit 1; fi
tail -1 log | grep -qx "ModuleNotFoundError: No module named 'OpenSSL'" || { cat log; exit 1; }
"$folder/venv/bin/pip" install --quiet pyopenssl==26.4.0
cat > run.py <<'PY'
import inspect
from pathlib import Path
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import signing

key = ec.generate_private_key(ec.SECP256R1())
form = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"mortar")
Path("key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
Path("model").write_text("brick")
annotation = inspect.signature(signing.Config.use_elliptic_key_signer).parameters["password"].annotation
assert "str" in str(annotation), annotation
# Expected: the password as a str, as annotated, opens the key
# Seen: TypeError, of cryptography, which takes bytes; as bytes it signs
try:
    signing.Config().use_elliptic_key_signer(private_key="key.pem", password="mortar")
except TypeError as error:
    assert "bytes" in str(error), error
else:
    raise SystemExit("a str is taken now")
signing.Config().use_elliptic_key_signer(private_key="key.pem", password=b"mortar").sign("model", "model.sig")
assert Path("model.sig").stat().st_size > 0
print("seen as described: pyOpenSSL is not asked for, and a password annotated as str must be bytes")
PY
"$folder/venv/bin/python" run.py 2> log || { cat log; exit 1; }
