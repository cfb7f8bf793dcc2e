"""The tab *Try*: a prompt and a seed drawn with up to four adapters, side by side, with the ranks that took part in each step."""

import dataclasses
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import gradio as gr

from studio import models
from studio.words import attempt, bars, escape, explained, picture, status
from tlora.drawing.draw import tiled
from tlora.drawing.warm import Drawn, Wanted
from tlora.errors import PictureError, SettingsError, TloraError
from tlora.metadata.concept import read_concept
from tlora.runtime.ranges import require_seed

FOLDER = Path("drawn/studio")
MOST = 4  # side by side
LONGEST = 2000  # characters of a prompt; encoders read 77 or 512 tokens


def build(page: gr.Blocks) -> None:
    """Lay the tab out."""
    usual = models.usual_sample()
    with gr.Row():
        chosen = gr.Dropdown(
            [models.BASE], value=[models.BASE], multiselect=True, max_choices=MOST, label="Drawn with, up to four"
        )
        again = gr.Button("Look for new ones", scale=0)
    prompt = gr.Textbox(label="Prompt", max_length=LONGEST)
    with gr.Row():
        seed = gr.Number(label="Seed", value=0, minimum=0, precision=0)
        strength = gr.Number(label="Strength", value=1.0, step=0.1)
        steps = gr.Number(label="Steps", value=usual.num_inference_steps, minimum=1, precision=0)
    with gr.Row():
        width = gr.Number(label="Width in pixels", value=usual.width, minimum=8, precision=0)
        height = gr.Number(label="Height in pixels", value=usual.height, minimum=8, precision=0)
        tile = gr.Checkbox(label="Tileable, shown 3 x 3", value=usual.tileable)
    draw = gr.Button("Draw", variant="primary")
    drawn = gr.HTML(status(""))
    page.load(_first_prompt, None, prompt)
    page.load(_choices, None, chosen)
    draw.click(
        _draw, [chosen, prompt, seed, strength, steps, width, height, tile], drawn, concurrency_id="drawing", concurrency_limit=4
    )
    again.click(_choices, None, chosen)


def _choices() -> gr.Dropdown:
    return gr.Dropdown(choices=models.names())


def _first_prompt() -> str:
    try:
        return read_concept(Path("concept.yaml")).prompts[0]
    except (SettingsError, OSError):
        return ""


def _draw(
    chosen: Sequence[str], prompt: str, seed: float, strength: float, steps: float, width: float, height: float, tile: bool
) -> Iterator[str]:
    """Yield what there is so far: pictures, and what is waited for."""
    try:
        sample = dataclasses.replace(
            models.usual_sample(), width=int(width), height=int(height), num_inference_steps=int(steps), tileable=bool(tile)
        )
        require_seed("seed", int(seed))
        if not chosen or len(chosen) > MOST or not prompt.strip():
            raise PictureError(f"say what to draw, and with what: one to {MOST} of the list")
        adapters = [(name, models.adapter_of(name)) for name in chosen]
    except (TloraError, OSError, ValueError, TypeError) as error:
        yield status(explained(error), wrong=True)
        return
    done: list[str] = []
    for name, adapter in adapters:
        wanted = Wanted(adapter, float(strength), prompt.strip(), int(seed), sample)
        yield _row(done) + status(f"drawing with {name} ...")
        for said in _say_while(partial(_add, done, name, wanted)):
            yield _row(done) + status(said)
    count = sum(each.startswith("<figure") for each in done)
    yield _row(done) + status(f"{count} drawn, in {FOLDER}: 'tlora infer --like' draws each again")


def _say_while(work: Callable[[Callable[[str], None]], None]) -> Iterator[str]:
    """Do work aside, and yield what it says meanwhile."""
    said: queue.Queue[str | None] = queue.Queue()

    def run() -> None:
        try:
            work(said.put)
        finally:
            said.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (line := said.get()) is not None:
        yield line


def _add(done: list[str], name: str, wanted: Wanted, say: Callable[[str], None]) -> None:
    """Draw one, and add what is shown of it, or why it could not be drawn."""
    done.append(attempt(lambda: _figure(name, _one(wanted, name, say), tile=wanted.sample.tileable)))


def _one(wanted: Wanted, name: str, say: Callable[[str], None]) -> Drawn:
    FOLDER.mkdir(parents=True, exist_ok=True)
    at = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    file = FOLDER / f"{at}-{secrets.token_hex(3)}-{name.replace(' ', '-')}-seed{wanted.seed}.png"
    return models.warm_base().draw(wanted, file, say)


def _figure(name: str, drawn: Drawn, *, tile: bool) -> str:
    """Return a picture with its name, its file and a bar for the ranks of each step."""
    shown = picture(tiled(drawn.picture), f"drawn with {name}, 3 x 3") if tile else picture(drawn.file, f"drawn with {name}")
    ranks = f"ranks by step, {drawn.ranks[0]} to {drawn.ranks[-1]}" if drawn.ranks else "the base alone, no ranks"
    told = f"{escape(name)}<br>{escape(ranks)}{bars(drawn.ranks, ranks)}<br>{escape(drawn.file)}"
    return f"<figure>{shown}<figcaption>{told}</figcaption></figure>"


def _row(figures: Sequence[str]) -> str:
    return f'<div class="row">{"".join(figures)}</div>' if figures else ""
