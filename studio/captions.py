"""The part of *Start* about captions: a table of thumbnails, what is wrong beside each, and what a model proposes."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import gradio as gr

from flows.runs import UNDER_WAY, list_runs
from studio.commands import CommandError, run_command
from studio.words import attempt, escape, status, thumbnail
from tasks.caption import forget_proposals, read_proposals
from tasks.dvc_command import run_dvc
from tasks.running.state_folder import state_folder
from tlora.errors import PictureError, TloraError
from tlora.pictures.files import caption_path, list_pictures, read_caption
from tlora.runtime.atomic_file import write_text

IMAGES, CONCEPT, MODELS = Path("data/images"), Path("concept.yaml"), Path("models")
PER_PAGE = 12
LONGEST = 4000  # characters; encoders read 77 or 512 tokens
_BUSY = "a run is under way, and works on these pictures: cancel it, or wait for its end"
_turn = threading.Lock()
_PROPOSED = '<p class="finding">proposed by a model: read it before you save</p>'


def table_of_captions(shown: gr.State, number: gr.Number, checked: gr.HTML) -> None:
    """Lay out the table of thumbnails and captions, which is drawn anew whenever what it shows has changed."""

    @gr.render(inputs=[shown, number])  # type: ignore[untyped-decorator]
    def draw(_count: int, wanted: float | None) -> None:
        try:
            pictures = list_pictures(IMAGES)
        except PictureError as error:
            gr.HTML(status(str(error)))
            return
        first = PER_PAGE * (max(1, int(wanted or 1)) - 1)
        part, findings = pictures[first : first + PER_PAGE], _findings()
        gr.HTML(f"<p>Pictures {min(first + 1, len(pictures))} to {first + len(part)} of {len(pictures)}</p>")
        proposed, names = _proposals(), [picture.name for picture in part]
        before = [_caption_or_none(picture)[0] for picture in part]
        boxes = [_row(picture, findings, proposed) for picture in part]
        save = gr.Button("Save the captions of this page")

        def store(*texts: str) -> str:
            return attempt(lambda: _save(names, before, texts))

        save.click(store, boxes, checked).then(lambda count: count + 1, shown, shown)


def _row(picture: Path, findings: Sequence[Mapping[str, Any]], proposed: Mapping[str, str]) -> gr.Textbox:
    """Lay out a picture with its caption, or the one that is proposed, and what is wrong with it; return the caption's box."""
    caption, said = _caption_or_none(picture)
    text = proposed.get(picture.name, caption)
    said += _PROPOSED if picture.name in proposed else ""
    with gr.Row(equal_height=False):
        with gr.Column(scale=0, min_width=140):
            gr.HTML(thumbnail(picture, f"{picture.name}: {caption}"))
        with gr.Column(scale=1, min_width=200):
            box = gr.Textbox(
                text, label=picture.name, lines=2, max_length=LONGEST, interactive=True, key=f"{picture.name} {text}"
            )
            gr.HTML(said + "".join(_as_line(each) for each in findings if each["file"] == picture.name))
    return box


def _proposals() -> dict[str, str]:
    try:
        return read_proposals()
    except TloraError:  # whoever edited the file is told by the command
        return {}


def _caption_or_none(picture: Path) -> tuple[str, str]:
    try:
        return read_caption(picture), ""
    except PictureError as error:
        return "", status(str(error), wrong=True)


def check(*options: str) -> str:
    """Let validate look at everything, into a folder of the page's own: what a run has written stays as it is."""
    with changing_pictures() if options else nullcontext():
        return _check(options)


def _check(options: Sequence[str]) -> str:
    where = state_folder("studio", "check")
    given = [f"--data={IMAGES}", f"--concept={CONCEPT}", f"--manifest={where / 'manifest'}", f"--report={where}"]
    try:
        lines = run_command("tasks.validate", *given, *options)
    except CommandError as error:
        return findings_of_all() or status(str(error), wrong=True)
    finally:
        if options:  # something may be put right where not all is
            run_dvc("add", "--quiet", "data")
    fixed = [line.removeprefix("fixed    ") for line in lines if line.startswith("fixed    ")]
    return status([f"put right: {line}" for line in fixed] or lines[-1:]) + findings_of_all()


def _findings() -> list[dict[str, Any]]:
    file = state_folder("studio", "check") / "findings.json"
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["findings"])
    except (OSError, ValueError, KeyError):  # nobody has looked yet
        return []


def findings_of_all() -> str:
    """Return what was found wrong with no one picture, and how much there is in all."""
    findings = _findings()
    named = {path.name for path in IMAGES.iterdir()} if IMAGES.is_dir() else set()
    general = [each for each in findings if each["file"] not in named]
    count = f"{sum(each['severity'] == 'error' for each in findings)} errors, {len(findings)} findings, each beside its picture"
    return (status(count) if findings else "") + "".join(_as_line(each) for each in general)


def _as_line(finding: Mapping[str, Any]) -> str:
    said = f"{finding['severity']}: {finding['reason']}; {finding['remedy']}"
    kind = "wrong" if finding["severity"] == "error" else "finding"
    return f'<p class="{kind}">{escape(said)}</p>'


def _save(names: Sequence[str], before: Sequence[str], texts: Sequence[str]) -> str:
    """Write the captions that were changed here, unless somebody has changed the same file since it was shown."""
    with changing_pictures():
        changed = _write(names, before, texts)
        forget_proposals(names)
        if changed:
            run_dvc("add", "--quiet", "data")
    saved = f"{changed} captions saved" if changed else "no caption was changed"
    return status(saved) + (check() if changed else "")


def _write(names: Sequence[str], before: Sequence[str], texts: Sequence[str]) -> int:
    """Write all captions that were changed, or none; return how many were."""
    known, changed = {path.name: path for path in list_pictures(IMAGES)}, []
    for name, old, new in zip(names, before, texts, strict=True):
        text = " ".join((new or "").split())
        if text == old:
            continue
        if name not in known or _caption_or_none(known[name])[0] != old:
            raise PictureError(f"{name}: somebody has changed it meanwhile: look at it again before you save")
        changed.append((known[name], text))
    for picture, text in changed:
        write_text(caption_path(picture), text + "\n")
    return len(changed)


def propose(model: str, commit: str) -> str:
    """Let a model propose captions; they stand in the table then, and are written when that is saved."""
    if Path(model).exists() and not Path(model).resolve().is_relative_to(MODELS.resolve()):
        raise PictureError(f"{model}: is not in {MODELS}/: a model of this machine must lie there")
    run_command("tasks.caption", f"--model={model}", f"--revision={commit}")
    return status("captions are proposed: read them below, and save each page")


@contextmanager
def changing_pictures() -> Iterator[None]:
    """Let one person at a time change the pictures, or ask for a run on them, and nobody while a run works on them.

    Raises:
        PictureError: In a line.
    """
    if not _turn.acquire(blocking=False):
        raise PictureError("somebody else is changing the pictures just now: look at them again, then repeat this")
    try:
        if any(run.state in UNDER_WAY for run in list_runs()):
            raise PictureError(_BUSY)
        yield
    finally:
        _turn.release()
