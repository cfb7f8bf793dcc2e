"""Labelled picture grids, for people."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

LABEL_WIDTH, LABEL_HEIGHT, GAP = 150, 44, 4
SMALLEST_TILE, LARGEST_TILE = 128, 384
NOT_DRAWN = "not drawn"
_INK, _PAPER, _BLANK = (20, 20, 20), (255, 255, 255), (232, 232, 232)
_MARK = (190, 30, 30)


def labelled_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    pictures: Sequence[Sequence[Image.Image | None]],
    marks: Mapping[tuple[int, int], str] | None = None,
) -> Image.Image:
    """Lay pictures out with a label at each row and column.

    Args:
        rows: A label for each row.
        columns: A label for each column.
        pictures: Rows of pictures, all of one size; small ones are enlarged without smoothing, large ones reduced. Where there is
            None it says so; one picture at least must be there.
        marks: (row, column) -> a word that is written over the picture, which is framed.
    """
    tile = _tile_size(next(picture for row in pictures for picture in row if picture))
    width = LABEL_WIDTH + len(columns) * (tile[0] + GAP)
    sheet = Image.new("RGB", (width, LABEL_HEIGHT + len(rows) * (tile[1] + GAP)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for c, label in enumerate(columns):
        _write(draw, (LABEL_WIDTH + c * (tile[0] + GAP), 4), _wrapped(label, tile[0], draw, font), font)
    for r, label in enumerate(rows):
        top = LABEL_HEIGHT + r * (tile[1] + GAP)
        _write(draw, (4, top + tile[1] // 2 - 16), _wrapped(label, LABEL_WIDTH - 8, draw, font), font)
        for c, picture in enumerate(pictures[r]):
            left = LABEL_WIDTH + c * (tile[0] + GAP)
            if picture:
                sheet.paste(_resized(picture, tile), (left, top))
                _mark(draw, (left, top), tile, (marks or {}).get((r, c), ""), font)
            else:
                draw.rectangle((left, top, left + tile[0] - 1, top + tile[1] - 1), fill=_BLANK)
                _write(draw, (left + 8, top + tile[1] // 2 - 8), NOT_DRAWN, font)
    return sheet


def _mark(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    tile: tuple[int, int],
    word: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    if word:
        left, top = at
        draw.rectangle((left, top, left + tile[0] - 1, top + tile[1] - 1), outline=_MARK, width=3)
        draw.rectangle((left, top, left + int(draw.textlength(word, font=font)) + 12, top + 22), fill=_MARK)
        draw.text((left + 6, top + 3), word, fill=_PAPER, font=font)


def _tile_size(picture: Image.Image) -> tuple[int, int]:
    longest = max(picture.size)
    factor = max(1, -(-SMALLEST_TILE // longest)) if longest < LARGEST_TILE else LARGEST_TILE / longest
    return round(picture.width * factor), round(picture.height * factor)


def _resized(picture: Image.Image, tile: tuple[int, int]) -> Image.Image:
    grows = tile[0] >= picture.width
    return picture.resize(tile, Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _wrapped(text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:2])


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    draw.multiline_text(at, text, fill=_INK, font=font, spacing=2)
