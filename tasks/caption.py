"""`make caption`: a vision-language model proposes captions, a person reads them, and only then are they written. Not a stage.

Proposals lie in a file that can be edited; `--write` puts what it says then beside the pictures. The model is Florence-2, by
folder or by name and commit, as safetensors and without code of its own.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from tasks.dvc_command import run_dvc
from tasks.running.loopback import loopback_without_proxy
from tasks.running.state_folder import replaced_folder, state_folder
from tasks.running.telemetry import telemetry_off
from tlora.errors import ModelError, SettingsError, TloraError
from tlora.metadata.concept import read_concept
from tlora.pictures.decode import decode_picture
from tlora.pictures.files import caption_path, list_pictures
from tlora.runtime.atomic_file import write_text
from tlora.runtime.device_lock import hold_device
from tlora.runtime.progress import show_progress
from tlora.runtime.settings import read_mapping
from tlora.runtime.yaml_text import render_yaml

DATA, IMAGES, CONCEPT = Path("data"), Path("data/images"), Path("concept.yaml")
MODEL = "florence-community/Florence-2-base"
TASK = "<DETAILED_CAPTION>"
TEMPLATE = "{trigger}, {caption}"
LONGEST = 100  # tokens of a caption: CLIP reads 77 of them
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OPENING = re.compile(r"^(in this image,? (we can see|there is|i can see)|th(e|is) image shows)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Captioner:
    """The model and what prepares its input."""

    processor: Any
    model: Any
    device: torch.device


def load_captioner(model: str, revision: str, device: torch.device) -> Captioner:
    """Load Florence-2.

    Args:
        model: Folder, or name on the hub.
        revision: Commit on the hub, 40 digits; a folder has none.
        device: Where it computes.

    Raises:
        SettingsError: If a name on the hub comes without its commit: another day it would be another model.
        ModelError: If it cannot be loaded.
    """
    if not Path(model).is_dir() and not _COMMIT.fullmatch(revision):
        raise SettingsError(f"--model {model}: name its commit on the hub too, all 40 digits (--revision, REVISION=...)")
    pinned = {"revision": revision or "main"}
    try:
        loaded = Florence2ForConditionalGeneration.from_pretrained(model, use_safetensors=True, **pinned)
        return Captioner(Florence2Processor.from_pretrained(model, **pinned), loaded.eval().to(device), device)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model}: cannot be loaded as Florence-2: {str(error).strip().splitlines()[0]}") from error


@torch.no_grad()
def describe(captioner: Captioner, pictures: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each picture with what the model says of it, one at a time."""
    for picture in pictures:
        image = decode_picture(picture).convert("RGB")
        inputs = captioner.processor(text=TASK, images=image, return_tensors="pt").to(captioner.device)
        tokens = captioner.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False, num_beams=3)
        yield picture, str(captioner.processor.batch_decode(tokens, skip_special_tokens=True)[0])


def fill_template(template: str, trigger: str, said: str) -> str:
    """Return a caption with the trigger word in it.

    Raises:
        SettingsError: If the template does not hold both places, and nothing else in braces.

    Example:
        >>> fill_template("{trigger}, {caption}", "matbrk", "The image shows a grey wall.")
        'matbrk, a grey wall'
    """
    if sorted(re.findall(r"{[^}]*}", template)) != ["{caption}", "{trigger}"]:
        raise SettingsError(f"--template {template!r}: must hold {{trigger}} and {{caption}}, once each")
    plain = " ".join(_OPENING.sub("", " ".join(said.split())).split()).rstrip(".")
    return template.replace("{trigger}", trigger).replace("{caption}", plain).strip(" ,")


def proposals_file() -> Path:
    """Return where proposals lie until somebody has read them."""
    return state_folder("captions") / "proposed.yaml"


def propose(model: str, revision: str, template: str) -> Path:
    """Let the model describe every picture, and return the file to read.

    Raises:
        TloraError: If anything given is wrong; earlier proposals are then as they were.
    """
    trigger, pictures = read_concept(CONCEPT).trigger, list_pictures(IMAGES)
    fill_template(template, trigger, "")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with hold_device("cuda:0" if device.type == "cuda" else "cpu", "caption"):
        described = describe(load_captioner(model, revision, device), pictures)
        told = show_progress(described, len(pictures), "caption")
        said = {picture.name: fill_template(template, trigger, words) for picture, words in told}
    write_text(proposals_file(), render_yaml(said))
    return proposals_file()


def read_proposals() -> dict[str, str]:
    """Return what is proposed, by the names of the pictures, but for pictures that came after it: they are others.

    Raises:
        SettingsError: If the file is not what `propose` writes.
    """
    file = proposals_file()
    told: Mapping[str, Any] = read_mapping(file, "captions by picture", "") if file.exists() else {}
    newer = (
        {path.name for path in IMAGES.iterdir() if path.stat().st_mtime > file.stat().st_mtime}
        if told and IMAGES.is_dir()
        else set()
    )
    return {str(name): " ".join(str(text).split()) for name, text in told.items() if name not in newer}


def forget_proposals(names: Collection[str]) -> None:
    """Drop the proposals of some pictures: they were read, and decided on."""
    left = {name: text for name, text in read_proposals().items() if name not in names}
    if left:
        write_text(proposals_file(), render_yaml(left))
    else:
        proposals_file().unlink(missing_ok=True)


def write_proposals() -> int:
    """Write what is proposed beside the pictures, keep the captions that were there, and return how many were written.

    Raises:
        SettingsError: If nothing is proposed, or a picture is not there any more; nothing is then written.
    """
    proposed, pictures = read_proposals(), {picture.name: picture for picture in list_pictures(IMAGES)}
    if not proposed:
        raise SettingsError("nothing is proposed: 'make caption' lets a model do it first")
    if gone := sorted(proposed.keys() - pictures.keys()):
        raise SettingsError(f"{proposals_file()}: there is no picture {gone[0]} any more: take its line out, or propose anew")
    kept = replaced_folder()
    for name, text in proposed.items():
        caption = caption_path(pictures[name])
        if caption.is_file():
            shutil.copy2(caption, kept / caption.name)
        write_text(caption, text + "\n")
    forget_proposals(proposed)
    run_dvc("add", "--quiet", str(DATA))
    return len(proposed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.caption", description="Propose captions by a model, or write them.")
    parser.add_argument("--model", default=MODEL, help="Florence-2: a folder, or its name on the hub")
    parser.add_argument("--revision", default="", help="commit on the hub, 40 digits")
    parser.add_argument("--template", default=TEMPLATE, help="with {trigger} and {caption}")
    parser.add_argument("--write", action="store_true", help="write what is proposed, and was read, beside the pictures")
    options = parser.parse_args(arguments)
    telemetry_off()
    loopback_without_proxy()
    try:
        if options.write:
            print(f"caption: {write_proposals()} captions written; the ones that were there are kept in .state/replaced")
        else:
            file = propose(options.model, options.revision, options.template)
            print(f"caption: proposals are in {file}: read and correct them, then 'make caption WRITE=1'")
    except (TloraError, OSError) as error:
        print(f"caption: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
