"""The tab *Watch*: what is queued, running and done, and how training fares; all of it read anew from files and servers."""

import html
from pathlib import Path

import gradio as gr

from flows.check import mlflow_served_at
from flows.runs import UNDER_WAY, Run, cancel_run, last_lines, list_runs
from flows.watch import Training, watch_training
from studio.words import attempt, curve, escape, link, picture, status, table
from tasks.tracking.store import public_uri
from tlora.errors import PictureError, TloraError

SECONDS = 4.0
REPORTS = {
    "the data": Path("reports/validate/report.html"),
    "the evaluation": Path("reports/evaluate/report.html"),
    "champion and challenger": Path("reports/register/champion.html"),
}
_NEWEST = 4  # previews that are shown


def build(page: gr.Blocks) -> None:
    """Lay the tab out."""
    with gr.Row():
        cancel = gr.Button("Cancel what runs (it saves first)")
        look = gr.Button("Look again")
    said = gr.HTML(status(""))
    view = gr.HTML(status(""))
    page.load(show, None, view)
    gr.Timer(SECONDS).tick(show, None, view, show_progress="hidden")
    look.click(show, None, view)
    cancel.click(lambda: attempt(_cancel), None, said)
    gr.Markdown("## Reports")
    which = gr.Radio(list(REPORTS), label="Which", value=next(iter(REPORTS)))
    show_report = gr.Button("Show it")
    report = gr.HTML(status(""))
    show_report.click(lambda name: attempt(lambda: _report(name)), which, report)


def show() -> str:
    """Return all of it."""
    return attempt(_runs) + attempt(_training) + attempt(_pages)


def _cancel() -> str:
    under_way = [run for run in list_runs() if run.state in UNDER_WAY and run.state != "being cancelled"]
    running = [run for run in under_way if run.state != "queued"] or under_way
    if not running:
        return status("nothing runs or waits that could be cancelled")
    cancel_run(running[0].id)
    return status(f"{running[0].name} is asked to save and to end: Train goes on where it was")


def _runs() -> str:
    runs = list_runs()
    if not runs:
        return "<h2>Runs</h2><p>Nothing was asked for yet.</p>"
    rows = [
        [escape(run.state), link(run.page, run.name), escape(run.asked_at[:19].replace("T", " ")), escape(run.words)]
        for run in runs
    ]
    return "<h2>Runs</h2>" + table(["state", "run", "asked for (UTC)", "what became of it"], rows) + _lines(runs)


def _lines(runs: list[Run]) -> str:
    """Return the last lines of the run that runs, or else of the latest."""
    run = next((run for run in runs if run.state in ("running", "being cancelled")), runs[0])
    try:
        lines = last_lines(run.id)
    except TloraError as error:
        return status(str(error), wrong=True)
    return f'<pre tabindex="0" role="region" aria-label="last lines">{escape(chr(10).join(lines))}</pre>' if lines else ""


def _training() -> str:
    training = watch_training()
    if training is None:
        return "<h2>Training</h2><p>Nothing has trained here yet.</p>"
    state = "" if training.moving or training.step == training.steps else " (standing still)"
    return f"<h2>Training</h2><p>{escape(training.line() + state)}</p>" + _drawn(training)


def _drawn(training: Training) -> str:
    pictures = training.previews[-_NEWEST:]
    shown = "".join(
        f"<figure>{picture(file, f'preview of step {step}', width=256)}<figcaption>step {step}</figcaption></figure>"
        for step, file in pictures
    )
    return (
        curve(training.losses, f"loss by step, now {training.losses[-1][1]:.4f}" if training.losses else "")
        + f'<div class="row">{shown}</div>'
    )


def _pages() -> str:
    """Return where else to look."""
    mlflow = mlflow_served_at()
    rows = [["MLflow", link(public_uri(mlflow), public_uri(mlflow)) if mlflow else "not served: make serve"]]
    return "<h2>Elsewhere</h2>" + table(["what", "where"], rows)


def _report(name: str) -> str:
    """Return a report, which is one file, in a frame that can reach nothing."""
    file = REPORTS.get(name)
    if file is None or not file.exists():
        raise PictureError(f"there is no report of {name} yet")
    page = html.escape(file.read_text(encoding="utf-8"))
    return f'<iframe sandbox="allow-scripts" title="report of {escape(name)}" srcdoc="{page}"></iframe>'
