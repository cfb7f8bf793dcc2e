"""The kinds of files that people have, well-formed and hostile: at least sixty, made here, none downloaded.

Each specimen says which row of the table in docs/data.md it belongs to and what must happen to it.
"""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

SIZE = (64, 48)
CORNER = (200, 30, 40)  # upper left, so that orientation and colour can be told


# `sample` without its noise, turned by 90 degrees, by libheif and x265: what decodes HEIC cannot write it.
HEIC = (
    b"AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA"
    b"AAIAAQAAAAAB7AABAAAAAAAAAFIAAgAAAAACPgABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQAC"
    b"AABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAA"
    b"AAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaA"
    b"AAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAA"
    b"ABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAH5tZGF0AAAATigBrxOAeSRFAX/5mo/74zw6CHk2JwW1WFbu"
    b"Ch9F3fykVEDbocb/AwO18Dnwl/0bwGvIgJsP+hYr+vPyLvpm2Qxw/wguBzz+n5ZROQthLQAAAAZFeGlmAABNTQAqAAAACAABARIAAwAAAAEABgAAAAAA"
    b"AA=="
)


@dataclass(frozen=True)
class Specimen:
    """One file: its name, its row in docs/data.md, and `convert`, `warn` or `refuse`."""

    file: str
    kind: str
    decision: str


def sample(mode: str = "RGB") -> Image.Image:
    """Return a picture of 64 x 48: a gradient with noise, its upper left quarter of one reddish colour."""
    noise = np.random.default_rng(7).integers(0, 40, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    gradient = np.linspace(40, 200, SIZE[0], dtype=np.uint8)[None, :, None]
    pixels = noise + gradient
    pixels[:24, :32] = CORNER
    return Image.fromarray(pixels).convert(mode)


def make_corpus(folder: Path) -> list[Specimen]:
    """Write the corpus into a folder and return what must happen to each file."""
    return [specimen for make in _MAKERS for specimen in make(folder)]


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """Return a PNG written by hand, for what pillow does not write: 16-bit colour, code points, bombs, lies."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), *extra, (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def deep_rows(picture: Image.Image) -> bytes:
    """Return a picture's samples with 16 bits each, as they stand in a PNG."""
    samples = np.asarray(picture).astype(">u2") * 257
    return b"".join(b"\0" + row.tobytes() for row in samples.astype(">u2"))


def tiff(samples: object, **how: object) -> bytes:
    """Return samples as a TIFF written by tifffile, which knows more kinds than pillow."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **how)
    return buffer.getvalue()


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with another value of a short that it has."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at = file.pages[0].tags[tag].valueoffset  # type: ignore[union-attr]
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


def nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    """Return an AVIF or HEIC that says other code points than it did."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def with_clap(data: bytes) -> bytes:
    """Return an AVIF that says that its middle alone is to be shown."""
    box = struct.pack(">I4s8I", 40, b"clap", 32, 1, 24, 1, 0, 1, 0, 1)
    grown = bytearray(data)

    def grow(name: bytes, at: int, more: int) -> None:
        start = grown.index(name) - 4
        grown[start : start + 4] = struct.pack(">I", struct.unpack_from(">I", grown, start)[0] + more)
        assert at >= start

    end_of_ipco = grown.index(b"ipma") - 4
    number = _count_boxes(bytes(grown[grown.index(b"ipco") + 4 : end_of_ipco])) + 1
    associations = grown.index(b"ipma") + 14  # after version, flags, count of items and the item's own number
    grown[associations] += 1
    grown.insert(associations + grown[associations], 0x80 | number)  # last, and essential
    grow(b"ipma", associations, 1)
    grown[end_of_ipco:end_of_ipco] = box
    grow(b"ipco", end_of_ipco, len(box))
    for name in (b"iprp", b"meta"):
        grow(name, end_of_ipco, len(box) + 1)
    offset = struct.pack(">I", data.index(b"mdat") + 4)
    where = grown.index(offset, grown.index(b"iloc"))
    grown[where : where + 4] = struct.pack(">I", data.index(b"mdat") + 4 + len(box) + 1)
    return bytes(grown)


def linear_profile() -> bytes:
    """Return a profile in linear light whose name begins with sRGB, as sRGB-elle-V2-g10.icc's does."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack(">I", profile[128:132])[0]):
        name, start, _ = struct.unpack(">4sII", profile[132 + 12 * index : 144 + 12 * index])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[start + 12 : start + 32] = struct.pack(">5i", 65536, 65536, 0, 65536, 0)
    return bytes(profile)


def bmp_with_profile(picture: Image.Image, profile: bytes, kind: bytes = b"DEBM") -> bytes:
    """Return a BMP of version 5 that holds a profile."""
    rows = np.asarray(picture)[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, *picture.size, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    head += bytes(16) + kind + bytes(48) + struct.pack("<IIII", 4, 124 + len(rows), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(profile), 0, 0, 138) + head + rows + profile


def adobe_rgb_by_exif(picture: Image.Image) -> bytes:
    """Return a JPEG as cameras write it that are set to Adobe RGB: no profile, but the interoperability index R03."""
    pointer = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26)  # the first directory: where the one of EXIF is
    exif = struct.pack("<HHHIHH", 2, 0xA001, 3, 1, 0xFFFF, 0) + struct.pack("<HHII", 0xA005, 4, 1, 56) + bytes(4)
    interoperability = struct.pack("<HHHI4s", 1, 1, 2, 4, b"R03\0") + bytes(4)
    body = b"II*\0" + struct.pack("<I", 8) + pointer + bytes(4) + exif + interoperability
    return encode(picture, "JPEG", exif=b"Exif\0\0" + body, quality=95, subsampling=0)


def swapped_profile() -> bytes:
    """Return an ICC profile in which red and green have changed places, so that applying it shows."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    entries = profile[red + 4 : red + 12], profile[green + 4 : green + 12]
    swapped = bytearray(profile.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")))
    swapped[red + 4 : red + 12], swapped[green + 4 : green + 12] = entries[1], entries[0]
    return bytes(swapped)


def _plain(folder: Path) -> list[Specimen]:
    picture = sample()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return _write(
        folder,
        "plain",
        "convert",
        {
            "plain.png": encode(picture, "PNG"),
            "optimised.png": encode(picture, "PNG", optimize=True),
            "plain.jpg": encode(picture, "JPEG", quality=95),
            "progressive.jpeg": encode(picture, "JPEG", progressive=True, quality=95),
            "camera.JPG": encode(picture, "JPEG", quality=95),
            "old.jfif": encode(picture, "JPEG", quality=95),
            "lossy.webp": encode(picture, "WEBP", quality=90),
            "lossless.webp": encode(picture, "WEBP", lossless=True),
            "plain.avif": encode(picture, "AVIF", quality=90),
            "plain.bmp": encode(picture, "BMP"),
            "plain.tif": encode(picture, "TIFF"),
            "packed.tiff": encode(picture, "TIFF", compression="tiff_lzw"),
            "srgb.png": encode(picture, "PNG", icc_profile=srgb),
        },
    )


def _grey_and_palette(folder: Path) -> list[Specimen]:
    grey = {
        "grey.png": encode(sample("L"), "PNG"),
        "grey.jpg": encode(sample("L"), "JPEG"),
        "one_bit.png": encode(sample("1"), "PNG"),
        "fax.tif": encode(sample("1"), "TIFF", compression="group4"),
    }
    palette = {
        "palette.png": encode(sample("P"), "PNG"),
        "palette.gif": encode(sample("P"), "GIF"),
        "palette.bmp": encode(sample("P"), "BMP"),
    }
    return _write(folder, "grey", "convert", grey) + _write(folder, "palette", "convert", palette)


def _orientation(folder: Path) -> list[Specimen]:
    files = {}
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        files[f"orientation_{value}.jpg"] = encode(sample(), "JPEG", exif=exif, quality=95)
    exif[0x0112] = 6
    files["orientation.png"] = encode(sample(), "PNG", exif=exif)
    files["orientation.webp"] = encode(sample(), "WEBP", exif=exif, lossless=True)
    files["orientation.tif"] = encode(sample(), "TIFF", exif=exif)
    files["broken_exif.jpg"] = encode(sample(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    return _write(folder, "orientation", "convert", files)


def _profiles(folder: Path) -> list[Specimen]:
    swapped = swapped_profile()
    applied = {
        "profile.jpg": encode(sample(), "JPEG", icc_profile=swapped, quality=95),
        "profile.png": encode(sample(), "PNG", icc_profile=swapped),
        "profile_on_grey.png": encode(sample("L"), "PNG", icc_profile=swapped),
    }
    applied |= {
        "profile_linear_named_srgb.png": encode(sample(), "PNG", icc_profile=linear_profile()),
        "profile_on_grey_alpha.png": encode(sample("LA"), "PNG", icc_profile=swapped),
        "profile.bmp": bmp_with_profile(sample(), swapped),
    }
    unusable = {
        "profile_broken.png": encode(sample(), "PNG", icc_profile=b"not a profile"),
        "profile_cut.jpg": encode(sample(), "JPEG", icc_profile=swapped[:200]),
        "profile_of_other_space.jpg": encode(sample("CMYK"), "JPEG", icc_profile=swapped),
    }
    lab = {"lab.tif": encode(_lab(), "TIFF")}
    return [
        *_write(folder, "profile", "convert", applied),
        *_write(folder, "unusable profile", "warn", unusable),
        *_write(folder, "CMYK", "warn", {"cmyk.jpg": encode(sample("CMYK"), "JPEG"), "cmyk.tif": encode(sample("CMYK"), "TIFF")}),
        *_write(folder, "Lab", "convert", lab),
        *_write(folder, "profile elsewhere", "refuse", {"linked.bmp": bmp_with_profile(sample(), b"C:\\p.icc\0", b"KNIL")}),
    ]


def _alpha(folder: Path) -> list[Specimen]:
    seen_through = sample("RGBA")
    seen_through.putalpha(Image.linear_gradient("L").resize(SIZE))
    opaque = {"opaque.png": encode(sample("RGBA"), "PNG"), "opaque_grey.png": encode(sample("LA"), "PNG")}
    transparent = {
        "alpha.png": encode(seen_through, "PNG"),
        "alpha_grey.png": encode(seen_through.convert("LA"), "PNG"),
        "alpha.webp": encode(seen_through, "WEBP", lossless=True),
        "alpha.tif": encode(seen_through, "TIFF"),
        "alpha_palette.png": encode(sample("P"), "PNG", transparency=sample("P").getpixel((0, 0))),
        "alpha_key.png": encode(sample(), "PNG", transparency=CORNER),
        "alpha_palette.gif": encode(sample("P"), "GIF", transparency=sample("P").getpixel((0, 0))),
    }
    key = sample().getpixel((0, 0))
    transparent |= {
        "deep_key.png": png(*SIZE, 16, 2, deep_rows(sample()), (b"tRNS", struct.pack(">3H", *(257 * part for part in key)))),
        "deep_key_grey.png": png(
            *SIZE, 16, 0, deep_rows(sample("L")), (b"tRNS", struct.pack(">H", 257 * sample("L").getpixel((0, 0))))
        ),
        "four_bit_key.png": png(4, 1, 4, 0, b"\0\x12\x34", (b"tRNS", b"\0\x03")),
    }
    return _write(folder, "opaque alpha", "convert", opaque) + _write(folder, "transparency", "warn", transparent)


def _deep(folder: Path) -> list[Specimen]:
    wide = np.repeat(np.linspace(0, 65535, 64, dtype=np.uint16)[None], 48, axis=0)
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in wide)
    sixteen = {
        "deep_grey.png": encode(Image.fromarray(wide), "PNG"),
        "deep_colour.png": png(64, 48, 16, 2, rows),
        "deep_grey.tif": encode(Image.fromarray(wide), "TIFF"),
    }
    numbers = {
        "floats.tif": encode(Image.fromarray(np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)), "TIFF"),
        "integers.tif": encode(Image.fromarray(np.arange(64 * 48, dtype=np.int32).reshape(48, 64)), "TIFF"),
    }
    numbers["colour_floats.tif"] = tiff(np.zeros((48, 64, 3), np.float32), photometric="rgb")
    signed = {f"signed_{bits}.tif": tiff(np.zeros((48, 64), f"i{bits // 8}"), photometric="minisblack") for bits in (8, 16)}
    linear = {"deep_linear.png": png(*SIZE, 16, 2, deep_rows(sample()), (b"gAMA", struct.pack(">I", 100_000)))}
    return [
        *_write(folder, "16 bit", "convert", sixteen),
        *_write(folder, "16 bit, linear light", "warn", linear),
        *_write(folder, "32 bit", "refuse", numbers),
        *_write(folder, "signed", "refuse", signed),
    ]


def _tiffs(folder: Path) -> list[Specimen]:
    colour = np.asarray(sample())
    deep, grey = colour.astype(np.uint16) * 257, np.asarray(sample("L"))
    planes = {
        f"planes_{name}.tif": tiff(
            np.moveaxis(samples, -1, 0).copy(), photometric="rgb", planarconfig="separate", compression=packed
        )
        for name, samples, packed in (("8", colour, None), ("16", deep, None), ("16_packed", deep, "zlib"))
    }
    white = {
        "zero_is_white_8.tif": tiff(255 - grey, photometric="miniswhite"),
        "zero_is_white_16.tif": tiff(65535 - grey.astype(np.uint16) * 257, photometric="miniswhite"),
    }
    lab = tiff(np.moveaxis(colour, -1, 0).copy(), photometric="cielab", planarconfig="separate")
    two = np.stack([grey, grey])
    odd = {
        "planes_lab.tif": lab,
        "planes_grey_alpha.tif": tiff(two, photometric="minisblack", planarconfig="separate", extrasamples=["unassalpha"]),
        "planes_grey_alpha_packed.tif": tiff(
            two, photometric="minisblack", planarconfig="separate", extrasamples=["unassalpha"], compression="zlib"
        ),
        "subsampled.tif": retagged(encode(sample(), "TIFF"), 262, 6),
        "other_inks.tif": tiff(np.zeros((48, 64, 4), np.uint8), photometric="separated", extratags=[(332, 3, 1, 2, True)]),
    }
    return [
        *_write(folder, "planar TIFF", "convert", planes),
        *_write(folder, "zero is white", "convert", white),
        *_write(folder, "unusual TIFF", "refuse", odd),
    ]


def _said_colours(folder: Path) -> list[Specimen]:
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(sample()))
    avif, heic = encode(sample(), "AVIF", quality=90), base64.b64decode(HEIC)
    adobe = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    coded = {
        "cicp.png": png(*SIZE, 8, 2, rows, (b"cICP", bytes([12, 13, 0, 1]))),
        "nclx.avif": nclx(avif, 12, 13),
        "nclx.heic": nclx(heic, 12, 13),
    }
    hdr = {
        "pq.png": png(*SIZE, 8, 2, rows, (b"cICP", bytes([9, 16, 0, 1]))),
        "hlg.avif": nclx(avif, 9, 18),
        "pq.heic": nclx(heic, 9, 16),
    }
    unknown = {
        "log.avif": nclx(avif, 9, 9),
        "xyz.heic": nclx(heic, 10, 13),
        "narrow.png": png(*SIZE, 8, 2, rows, (b"cICP", bytes([1, 13, 0, 0]))),
    }
    numbers = {
        "linear.png": png(*SIZE, 8, 2, rows, (b"gAMA", struct.pack(">I", 100_000))),
        "adobe.png": png(*SIZE, 8, 2, rows, (b"gAMA", struct.pack(">I", 45_455)), (b"cHRM", adobe)),
    }
    return [
        *_write(folder, "colours by code", "convert", coded),
        *_write(folder, "HDR", "refuse", hdr),
        *_write(folder, "unknown code", "refuse", unknown),
        *_write(folder, "gamma and primaries", "convert", numbers),
        *_write(folder, "Adobe RGB by EXIF", "convert", {"adobe.jpg": adobe_rgb_by_exif(sample())}),
        *_write(folder, "AVIF to be cropped", "warn", {"clap.avif": with_clap(avif)}),
    ]


def _frames(folder: Path) -> list[Specimen]:
    first, second = sample(), sample().transpose(Image.Transpose.ROTATE_180)
    several = {"save_all": True, "append_images": [second], "duration": 100}
    moving = {
        "animated.gif": encode(first.convert("P"), "GIF", **{**several, "append_images": [second.convert("P")]}),
        "animated.webp": encode(first, "WEBP", **several, lossless=True),
        "animated.png": encode(first, "PNG", **several),
        "animated.apng": encode(first, "PNG", **several),
        "animated.avif": encode(first, "AVIF", **several),
        "pages.tif": encode(first, "TIFF", save_all=True, append_images=[second]),
    }
    phone = {"phone.jpg": encode(first, "MPO", save_all=True, append_images=[second])}
    return _write(folder, "several frames", "warn", moving) + _write(folder, "phone with second image", "convert", phone)


def _names(folder: Path) -> list[Specimen]:
    picture = encode(sample(), "PNG")
    names = (
        "with space.png",
        "mur de brique é.png",
        "mur e\u0301.png",
        "煉瓦.png",
        "🧱.png",
        "it's #1 & <b>.png",
        "-dash.png",
        "no.tes.png",
    )
    files = dict.fromkeys(names, picture)
    other = {"really_png.jpg": picture, "really_jpeg.png": encode(sample(), "JPEG", quality=95)}
    (folder / "outside").mkdir()
    (folder / "outside" / "target.png").write_bytes(picture)
    (folder / "link.png").symlink_to(Path("outside") / "target.png")
    (folder / "broken_link.png").symlink_to("nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    return [
        *_write(folder, "odd name", "convert", files),
        *_write(folder, "wrong suffix", "convert", other),
        Specimen("link.png", "symbolic link", "convert"),
        Specimen("broken_link.png", "broken link", "refuse"),
        Specimen("circle.png", "broken link", "refuse"),
    ]


def _damaged(folder: Path) -> list[Specimen]:
    whole = {kind: encode(sample(), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF")}
    half = {f"half.{kind.lower()}": data[: len(data) // 2] for kind, data in whole.items()}
    half["half.gif"] = encode(sample("P"), "GIF")[:600]
    wrong_sum = bytearray(whole["PNG"])
    wrong_sum[60] ^= 0xFF
    broken = {
        "head_only.jpg": whole["JPEG"][:20],
        "head_only.png": whole["PNG"][:8],
        "wrong_checksum.png": bytes(wrong_sum),
        "no_pixels.png": png(0, 0, 8, 2, b""),
        "too_few_rows.png": png(64, 48, 8, 2, b"\0" * 100),
        "noise.jpg": np.random.default_rng(1).bytes(2000),
    }
    appended = {"appended.jpg": whole["JPEG"] + b"after the end", "appended.png": whole["PNG"] + b"after the end"}
    (folder / "folder.png").mkdir()
    return [
        *_write(folder, "empty", "refuse", {"empty.png": b"", "empty.jpg": b""}),
        *_write(folder, "truncated", "refuse", half),
        *_write(folder, "damaged", "refuse", broken),
        *_write(folder, "bytes after the end", "convert", appended),
        Specimen("folder.png", "not a file", "refuse"),
    ]


def _impostors(folder: Path) -> list[Specimen]:
    bombs = {
        "bomb.png": png(11_000, 11_000, 1, 0, bytes(1376) * 11_000),
        "large_bomb.png": png(60_000, 60_000, 8, 2, b"\0"),
        "bomb.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + bytes(6) + b"," + bytes(9) + b"\x02\0;",
    }
    others = {
        "text.png": b"this is not a picture\n",
        "page.jpg": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "document.jpg": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "archive.png": b"PK\x03\x04" + bytes(60),
        "layers.jpg": b"8BPS\0\1" + bytes(40),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    }
    return [
        *_write(folder, "decompression bomb", "refuse", bombs),
        *_write(folder, "something else named as a picture", "refuse", others),
    ]


def _heic(folder: Path) -> list[Specimen]:
    whole = base64.b64decode(HEIC)
    files = {"IMG_0001.HEIC": whole, "IMG_0002.heif": whole, "phone_heic.jpg": whole, "named_heic.png": whole}
    damaged = {"half.heic": whole[: len(whole) // 2], "head_only.heic": whole[:40], "no_boxes.heic": whole[:24] + bytes(64)}
    return _write(folder, "HEIC", "convert", files) + _write(folder, "damaged", "refuse", damaged)


def _count_boxes(data: bytes) -> int:
    at = count = 0
    while at < len(data):
        at += struct.unpack_from(">I", data, at)[0]
        count += 1
    return count


def _lab() -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(sample(), srgb, lab, outputMode="LAB")
    assert converted is not None
    return converted


def _write(folder: Path, kind: str, decision: str, files: dict[str, bytes]) -> list[Specimen]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [Specimen(name, kind, decision) for name in files]


_MAKERS: tuple[Callable[[Path], list[Specimen]], ...] = (
    _plain,
    _grey_and_palette,
    _orientation,
    _profiles,
    _alpha,
    _deep,
    _tiffs,
    _said_colours,
    _frames,
    _names,
    _damaged,
    _impostors,
    _heic,
)
