#!/bin/bash
# pillow 13.0.0 opens these valid files without an error or a warning and gives other pictures than they hold: planar RGB TIFF of 16 bits (uncompressed),
# Lab TIFF in planes, grey with alpha in planes (deflate), 16-bit grey TIFF with zero as white, 12-bit grey TIFF (12 bits in a mode of 16),
# TIFF palettes of 8-bit levels, and the transparent colour (tRNS) of PNGs with 2, 4 or 16 bits. tifffile reads the TIFFs as they are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "pillow==13.0.0" "tifffile==2026.3.3" "numpy==2.4.6"
cat > "$folder/run.py" <<'PY'
import io
import struct
import warnings
import zlib

import numpy as np
import tifffile
from PIL import Image

warnings.simplefilter("error")
rows, columns = np.mgrid[:48, :64]
colour = np.dstack([columns * 4, rows * 5, np.full_like(rows, 90)])
seen = {}


def tiff(samples, **how):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **how)
    return file.getvalue()


def read(data, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode)).astype(int)


def png(depth, kind, row, key):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


planes = np.moveaxis(colour.astype(np.uint16) * 257, -1, 0).copy()
data = tiff(planes, photometric="rgb", planarconfig="separate")
assert np.array_equal(tifffile.imread(io.BytesIO(data)), planes)
seen["planar RGB of 16 bits, mean error"] = np.abs(read(data) - colour).mean() > 20

levels = colour.astype(np.uint8)
together = tiff(levels, photometric="cielab", planarconfig="contig")
apart = tiff(np.moveaxis(levels, -1, 0).copy(), photometric="cielab", planarconfig="separate")
lab = [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in (together, apart)]
seen["Lab in planes differs from Lab in pixels"] = np.abs(lab[0] - lab[1]).mean() > 20

grey = (columns * 4).astype(np.uint8)
two = tiff(np.stack([grey, grey]), photometric="minisblack", planarconfig="separate", extrasamples=["unassalpha"], compression="zlib")
seen["alpha of grey in planes is lost"] = not np.array_equal(np.asarray(Image.open(io.BytesIO(two)).getchannel("A")), grey)

white = tiff(65535 - grey.astype(np.uint16) * 257, photometric="miniswhite")
seen["zero is white, 16 bits: negative"] = np.array_equal(np.asarray(Image.open(io.BytesIO(white))) >> 8, 255 - grey)

tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 6}
body = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
twelve = b"II*\0" + struct.pack("<I", 14) + bytes.fromhex("fffffffff000") + struct.pack("<H", len(tags)) + body + bytes(4)
seen["white of 12 bits is 4095 of 65535"] = Image.open(io.BytesIO(twelve)).mode == "I;16" and np.asarray(Image.open(io.BytesIO(twelve))).max() == 4095

palette = tiff(np.full((4, 4), 200, np.uint8), photometric="palette", colormap=np.array([[*range(256)]] * 3, np.uint16))
seen["a palette of 8-bit levels is black"] = read(palette).max() == 0

for name, file in {
    "16-bit grey": png(16, 0, b"\x80\x01", b"\x80\x01"),
    "48-bit colour": png(16, 2, b"\x80\x01" * 3, b"\x80\x01" * 3),
    "4-bit grey": png(4, 0, b"\x80", b"\x00\x08"),
    "2-bit grey": png(2, 0, b"\x40", b"\x00\x01"),
}.items():
    picture = Image.open(io.BytesIO(file))
    picture.load()
    alpha = picture.convert("RGBA").getchannel("A").getpixel((0, 0)) if picture.mode != "I;16" else picture.info["transparency"]
    seen[f"tRNS of {name}: the pixel is not clear"] = alpha != 0
# Expected: all of them False.
# Seen: all of them True, without a warning.
for what, happened in seen.items():
    print(f"{what}: {happened}")
assert all(seen.values()), "the behaviour has changed"
PY
"$folder/venv/bin/python" "$folder/run.py"
