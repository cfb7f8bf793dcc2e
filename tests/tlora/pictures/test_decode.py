import base64
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks.picture_corpus import CORNER, HEIC, SIZE, adobe_rgb_by_exif, bmp_with_profile, encode, sample, swapped_profile
from tlora.errors import PictureError
from tlora.pictures.colour import Refused
from tlora.pictures.decode import decode_bytes, decode_picture
from tlora.pictures.files import caption_path, list_pictures, mask_path, read_caption


def test_a_plain_png_decodes_to_its_own_pixels(tmp_path: Path) -> None:
    sample().save(tmp_path / "a.png")
    assert decode_picture(tmp_path / "a.png").tobytes() == sample().tobytes()


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (4, (0, 1)), (5, (0, 0)), (6, (1, 0)), (7, (1, 1)), (8, (0, 1))],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_each_exif_orientation_is_turned_upright(orientation: int, corner: tuple[int, int], kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = decode_bytes(encode(sample(), kind, exif=exif, **options)).picture
    assert picture.size == (SIZE if orientation < 5 else SIZE[::-1])
    x, y = (5 if side == 0 else length - 6 for side, length in zip(corner, picture.size, strict=True))
    assert picture.getpixel((x, y)) == CORNER


def test_a_colour_profile_is_applied_and_not_carried_along() -> None:
    picture = decode_bytes(encode(sample(), "PNG", icc_profile=swapped_profile())).picture
    assert picture.getpixel((5, 5)) == pytest.approx((30, 200, 40), abs=1)
    assert picture.info == {}


def test_sixteen_bits_become_the_high_byte() -> None:
    deep = Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16))
    assert [p[0] for p in np.asarray(decode_bytes(encode(deep, "PNG")).picture)[0]] == [0, 0, 1, 255]


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    decoded = decode_bytes(encode(clear, "PNG"))
    assert decoded.picture.getpixel((0, 0)) == (255, 255, 255)
    assert [note.kind for note in decoded.notes] == ["alpha"]


def test_a_truncated_file_is_refused_by_name_with_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "cut.png"
    file.write_bytes(encode(sample(), "PNG")[:-500])
    with pytest.raises(PictureError, match=r"cut\.png: it is damaged or cut short .*: copy it again"):
        decode_picture(file)


def test_random_damage_is_refused_or_decoded_but_never_anything_else() -> None:
    rng = np.random.default_rng(0)
    sources = [encode(sample(), kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP")] + [encode(sample("P"), "GIF")]
    sources += [base64.b64decode(HEIC), bmp_with_profile(sample(), swapped_profile()), adobe_rgb_by_exif(sample())]
    outcomes = set()
    for n in range(900):
        data = bytearray(sources[n % len(sources)])
        for position in rng.integers(0, len(data), 3):
            data[position] = rng.integers(256)
        try:
            outcomes.add(decode_bytes(bytes(data)).picture.mode)
        except Refused:
            outcomes.add("refused")
    assert outcomes == {"RGB", "refused"}


def test_pictures_are_listed_sorted_without_hidden_files_and_captions(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "ü.webp", ".hidden.png", "._a.jpg", "a.txt", "notes.md"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_pictures(tmp_path)] == ["a.jpg", "b.PNG", "ü.webp"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "no such folder"), ("empty", "holds no pictures"), ("file", "not a folder"), ("phone", "convert .*IMG_1.CR2")],
)
def test_a_folder_without_pictures_is_refused_in_one_line(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "IMG_1.CR2").touch()
    (tmp_path / "file").touch()
    with pytest.raises(PictureError, match=reason):
        list_pictures(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"a wall\n", "a wall"),
        (b"\xef\xbb\xbfa wall", "a wall"),
        (b"  a\r\n wall ", "a wall"),
        ("é 壁".encode(), "é 壁"),
        (b"", ""),
    ],
)
def test_a_caption_is_one_line_of_utf8(tmp_path: Path, data: bytes, caption: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert read_caption(tmp_path / "a.jpg") == caption


def test_a_missing_caption_is_empty(tmp_path: Path) -> None:
    assert read_caption(tmp_path / "a.jpg") == ""


@pytest.mark.parametrize(("data", "encoding"), [("wänd".encode("latin-1"), "WINDOWS-1252"), ("wänd".encode("utf-16"), "UTF-16")])
def test_a_caption_in_another_encoding_is_refused_with_the_command_that_helps(tmp_path: Path, data: bytes, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(PictureError, match=f"a.txt: its caption is not UTF-8 .*iconv -f {encoding}"):
        read_caption(tmp_path / "a.jpg")


def test_a_caption_is_found_across_unicode_normal_forms(tmp_path: Path) -> None:
    (tmp_path / "e\u0301.txt").write_text("a wall")
    assert read_caption(tmp_path / "\u00e9.jpg") == "a wall"
    assert caption_path(tmp_path / "none.jpg").name == "none.txt"


def test_a_name_whose_other_spelling_is_too_long_for_the_disk_has_no_caption_and_no_mask(tmp_path: Path) -> None:
    picture = tmp_path / ("\uac00" * 80 + ".jpg")  # 240 bytes of Korean, twice as many where taken apart
    picture.touch()
    assert caption_path(picture) == picture.with_suffix(".txt")
    assert mask_path(picture) is None


def test_a_phones_heic_is_decoded_upright() -> None:
    decoded = decode_bytes(base64.b64decode(HEIC))
    assert (decoded.picture.size, decoded.picture.mode, decoded.notes) == ((48, 64), "RGB", ())
    corner = decoded.picture.getpixel((42, 5))  # upper left before it was turned
    assert all(abs(seen - meant) < 12 for seen, meant in zip(corner, CORNER, strict=True))


def test_without_its_extra_heic_is_refused_in_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(
        Refused, match=r"^it is HEIC, which the optional extra 'heif' reads: pip install 'flux-tlora\[heif\]' here"
    ):
        decode_bytes(base64.b64decode(HEIC))
