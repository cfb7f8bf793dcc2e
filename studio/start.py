"""The tab *Start*: pictures and captions in, what is wrong with them, how long to train, and the request to do it."""

from collections.abc import Sequence

import gradio as gr

from flows.presets import AS_IT_IS, SHARES, apply_preset, costs
from flows.runs import ask_for_run
from studio import captions, uploads
from studio.commands import option, run_command
from studio.words import attempt, status
from tasks.caption import MODEL
from tlora.errors import TloraError
from tlora.metadata.concept import read_concept


def build(page: gr.Blocks) -> None:
    """Lay the tab out."""
    gr.Markdown("## Your pictures")
    files = gr.File(label="Pictures, and captions as .txt files of the same names", file_count="multiple", height=180)
    with gr.Row():
        trigger = gr.Textbox(label="Trigger word", info="A rare word that comes to mean them, such as matbrk", max_length=100)
        name = gr.Textbox(label="Name of the concept", info="Made of that word if left empty", max_length=100)
    replace = gr.Checkbox(label="Let pictures that are there already make way (they are kept in .state/replaced)")
    begin = gr.Button("Take these pictures", variant="primary")
    began = gr.HTML(status(""))
    gr.Markdown("## Captions")
    with gr.Row():
        check = gr.Button("Check pictures and captions")
        fix = gr.Button("Put right what needs no judgement")
    checked = gr.HTML(status(""))
    with gr.Row(equal_height=True):
        model = gr.Textbox(label="A model that writes captions", info="A folder of models/, or a name on the hub", value=MODEL)
        commit = gr.Textbox(label="Its commit", info="On the hub, 40 digits; a folder has none", max_length=40)
        describe = gr.Button("Let it propose captions")
    shown, number = gr.State(0), gr.Number(label="Page of captions", value=1, minimum=1, precision=0)
    captions.table_of_captions(shown, number, checked)
    gr.Markdown("## Training")
    preset = gr.Radio([AS_IT_IS, *SHARES], value=AS_IT_IS, label="How long")
    card = gr.Number(label="Memory of the card in GB, to set what it needs; 0 leaves the settings", value=0, minimum=0)
    with gr.Row():
        tell = gr.Button("What will it take?")
        train = gr.Button("Train", variant="primary")
    told = gr.HTML(status(""))
    page.load(captions.findings_of_all, None, checked)
    begin.click(lambda *given: attempt(lambda: _begin(*given)), [files, trigger, name, replace], began).then(
        lambda count: (count + 1, captions.findings_of_all(), None), shown, [shown, checked, files]
    )
    check.click(lambda count: (attempt(captions.check), count + 1), shown, [checked, shown])
    fix.click(lambda count: (attempt(lambda: captions.check("--fix")), count + 1), shown, [checked, shown])
    describe.click(_propose, [shown, model, commit], [checked, shown])
    tell.click(lambda *given: attempt(lambda: status(costs(*_preset(*given)))), [preset, card], told)
    train.click(lambda *given: attempt(lambda: _train(*given)), [preset, card], told)


def _propose(count: int, model: str, commit: str) -> tuple[str, int]:
    return attempt(lambda: captions.propose(model, commit)), count + 1


def _begin(files: Sequence[str] | None, trigger: str, name: str, replace: bool) -> str:
    with captions.changing_pictures():
        lines = _take(files or [], trigger, name, replace=replace)
    told = [line.strip() for line in lines if "Next:" not in line and not line.strip()[:2].rstrip(".").isdigit()]
    try:
        captions.check()
    except TloraError as error:
        told.append(str(error))
    return status(told)


def _take(files: Sequence[str], trigger: str, name: str, *, replace: bool) -> list[str]:
    folder = uploads.collect(files)
    try:
        given = [f"--data={folder}", f"--trigger={trigger}", *option("name", name), *(["--replace"] if replace else [])]
        return run_command("tasks.new", *given)
    finally:
        uploads.forget(folder)


def _preset(preset: str, card: float | None) -> tuple[str, float | None]:
    return preset, card or None


def _train(preset: str, card: float | None) -> str:
    read_concept(captions.CONCEPT)
    with captions.changing_pictures():
        set_to = apply_preset(*_preset(preset, card))
        run = ask_for_run()
    said = f"params.yaml now has {', '.join(set_to)}" if set_to else ""
    return status([said, f"asked for run {run}: see Watch"])
