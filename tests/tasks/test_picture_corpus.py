import re
from pathlib import Path

from tests.tasks.picture_corpus import make_corpus
from tlora.pictures.colour import Refused
from tlora.pictures.decode import decode_bytes, read_picture

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_file_of_the_corpus_is_converted_warned_of_or_refused_as_documented(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    assert len(corpus) >= 60
    decided = {}
    for specimen in corpus:
        try:
            decoded = decode_bytes(read_picture(tmp_path / specimen.file))
            assert decoded.picture.mode == "RGB"
            decided[specimen.file] = "warn" if decoded.notes else "convert"
        except Refused as refused:
            decided[specimen.file] = "refuse" if refused.reason and refused.remedy else "refused without a word"
    assert decided == {specimen.file: specimen.decision for specimen in corpus}


def test_the_documented_table_is_the_corpus(tmp_path: Path) -> None:
    rows = re.findall(r"^\| ([^|]+) \| (convert|warn|refuse) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert set(rows) == {(specimen.kind, specimen.decision) for specimen in make_corpus(tmp_path)}


def test_every_kind_of_finding_is_documented() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "tasks/validate").glob("*.py"), *(root / "tlora/pictures").glob("*.py")]
    code = "".join(file.read_text() for file in files)
    kinds = set(re.findall(r'(?:Finding\(\s*"(?:error|warning)",\s*|Note\(|_copy\([\w\[\]]+, )"(\w+)"', code))
    documented = {
        kind
        for row in re.findall(r"^\| ([\w, ]+) \| (?:error|warning) \|", DOCUMENT.read_text(), re.M)
        for kind in row.split(", ")
    }
    assert len(kinds) > 20
    assert kinds <= documented
