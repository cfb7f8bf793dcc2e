"""Stage: train the adapter on cached latents and cached captions; the transformer is alone on the device.

Killed at any moment and run again, it goes on from the last state and ends in the same bytes. Asked to stop (SIGTERM or
SIGINT), it finishes the step, saves, and exits with 75.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL.Image import Image

from tasks.running.cli import named_section
from tasks.running.state_folder import state_folder
from tasks.tracking.live import LiveRun
from tasks.tracking.runs import PREVIEW_SERIES, training_points
from tasks.train.identity import Inputs, TrainSettings, describe_adapter, fingerprint_fields, shaping_params
from tasks.train.preview import draw_preview, preview_file
from tasks.train.provenance import circumstances
from tasks.train.stopping import GAIN, CheckpointMeasure, reason_to_stop
from tlora.errors import CacheError, OutOfMemoryError, SettingsError
from tlora.flux.cached import INDEX, JoinedViews, LatentCache, PromptCache, read_index
from tlora.flux.files import require_base
from tlora.flux.model import outline_transformer
from tlora.flux.prior_folder import PRIOR_CAPTIONS, PRIOR_GRID, PRIOR_LATENTS, PRIOR_SOURCE
from tlora.flux.spec import ModelSpec
from tlora.inject import require_targets
from tlora.runtime.atomic_file import write_bytes, write_json, write_png
from tlora.runtime.preemption import asked_to_stop
from tlora.sampling import draws_twice
from tlora.training.loop import Training, image_tokens
from tlora.training.memory_advice import PARAMS_KEYS
from tlora.training.mfu import device_name
from tlora.training.run import EarlyEnd, Run, TrainingData, finish, make_accelerator, prepared_training, train_to_the_end
from tlora.training.run_folder import PREVIEWS, RunFolder
from tlora.training.weight_change import check_effect, relative_change


def train(
    settings: TrainSettings,
    model: ModelSpec,
    *,
    prompts: Path,
    latents: Path,
    prior: Path,
    concept: Path,
    adapters: Path,
    report: Path,
) -> None:
    """Train the adapter.

    Args:
        settings: Section `train`.
        model: Section `model`.
        prompts: Cached caption embeddings.
        latents: Cached views of the training pictures.
        prior: Pictures of other things, the base's own or a folder's, empty unless they are asked for.
        concept: concept.yaml, for name and trigger word.
        adapters: Output folder, a folder per checkpoint and `final`.
        report: Output folder, the step log and what is not a function of the inputs.
    """
    require_base(model)
    with named_section("train"):
        base, config = outline_transformer(model), settings.training.adapter
        require_targets(base, settings.target_modules, config, leave_blocks_out=settings.leave_blocks_out)
    accelerator = make_accelerator(model, settings.training, settings.mixed_precision)
    inputs = Inputs(prompts, latents, prior, concept)
    views, captions = LatentCache(latents), PromptCache(prompts)
    if settings.asks_for_class_captions:
        captions.with_class_captions()
    if settings.training.preservation.is_on:
        _require_trigger(captions, views, inputs)
    mixed = _with_prior(views, captions, inputs) if settings.training.prior.is_on else JoinedViews(views)
    text_tokens = captions.read(sorted({str(entry["caption"]) for entry in views.entries}))[0].shape[1]  # or one is missing
    metadata = describe_adapter(settings, model, inputs)
    fields = fingerprint_fields(settings, model, inputs, metadata, accelerator.num_processes)
    run = Run(
        model,
        settings.training,
        metadata,
        TrainingData(mixed, mixed.shapes(), captions.read, text_tokens, captions.class_captions, len(mixed) - len(views)),
        accelerator,
        RunFolder(state_folder("train"), fields, settings.keep_states, writes=accelerator.is_main_process, say=_say),
        adapters,
        report,
        settings.checkpointing_steps,
        settings.state_steps,
    )
    started = circumstances()
    with prepared_training(run, PARAMS_KEYS, settings.preview.num_inference_steps, "train", _say) as training:
        run.folder.rebuild(adapters, report)
        with asked_to_stop(_say) as stop, LiveRun(metadata, say=_say) as live:
            watch = _Watch(run, training, settings, views, captions, live)
            watch.preview(training.step)  # asked for, perhaps, only after that step was taken
            for line in train_to_the_end(run, training, lambda: stop.is_made, watch.early_end):
                watch.look(line)
            if accelerator.is_main_process:
                if watch.reason_to_stop:
                    _say(watch.reason_to_stop)
                change = finish(run, training, _say)  # asked to stop by now, it ends as it would have
                record = {"fingerprint": run.folder.fingerprint, "params": shaping_params(settings, model), **started}
                _write_records(run, training, change, record, watch.reason_to_stop, mixed)
                (report / "prior.png").unlink(missing_ok=True)  # another run's
                if settings.training.prior.is_on:
                    write_bytes(report / "prior.png", (prior / PRIOR_GRID).read_bytes())


def _with_prior(views: LatentCache, captions: PromptCache, inputs: Inputs) -> JoinedViews:
    """Return the views with the prior pictures after them, whose captions are then among the others.

    Raises:
        SettingsError: If there are none, or none of a size that is trained on.
    """
    if not read_index(inputs.prior / PRIOR_LATENTS):
        raise SettingsError(
            f"{inputs.prior}: no pictures, and prior_share is above 0: set pictures or folder of draw_prior, or prior_share to 0"
        )
    captions.with_captions_of(inputs.prior / PRIOR_CAPTIONS)
    added = LatentCache(inputs.prior / PRIOR_LATENTS)
    if missing := sorted(set(views.shapes()) - set(added.shapes())):
        raise CacheError(f"{inputs.prior}: holds no picture of {missing[0][1]} x {missing[0][0]} latents", "cache")
    return JoinedViews(views, added)


def _require_trigger(captions: PromptCache, views: LatentCache, inputs: Inputs) -> None:
    """Refuse to preserve what is being taught: without the trigger word in a caption there is nothing else to keep.

    Raises:
        SettingsError: If no caption holds it.
    """
    if all(captions.class_captions.get(str(entry["caption"])) in (None, entry["caption"]) for entry in views.entries):
        raise SettingsError(
            f"{inputs.concept}: no caption holds the trigger word, so preserve would keep the pictures from being learnt:"
            " put it into the captions, or set preserve to 0"
        )


def _write_records(
    run: Run, training: Training, change: dict[str, float], record: dict[str, Any], reason: str, mixed: JoinedViews
) -> None:
    """Write the summary, and the record of what the result is not a function of."""
    summary = {"steps": training.step, "last_loss": run.folder.last_line()["loss"], "relative_change": change}
    summary |= {"ended_early": reason} if reason else {}
    if run.data.prior:
        cache = mixed.caches[1]
        captions = [str(entry["caption"]) for entry in cache.entries]
        folder = json.loads((cache.folder / INDEX).read_text(encoding="utf-8")).get(PRIOR_SOURCE)
        summary["prior"] = {"pictures": len(captions), "prompts": sorted(set(captions)), "from": folder or "drawn by the base"}
    write_json(run.report / "summary.json", summary)
    measured = {"peak_memory": training.memory.peaks, "mfu": run.folder.usual_mfu(), "matmul_rate": training.matmul_rate}
    measured |= {"device": device_name(training.accelerator.device), "image_tokens": max(map(image_tokens, run.data.shapes))}
    write_json(run.report / "run.json", {**record, **measured})


@dataclass(frozen=True)
class _Watch:
    """Whoever looks on while training runs, in the first process alone: MLflow, previews and the guard."""

    run: Run
    training: Training
    settings: TrainSettings
    views: LatentCache
    captions: PromptCache
    live: LiveRun

    @cached_property
    def early_end(self) -> EarlyEnd | None:
        """What ends training before its last step."""
        if not self.settings.stop.is_on:
            return None
        steps = self.settings.preview.num_inference_steps
        measure = CheckpointMeasure(self.run.model, self.views, self.captions, self.settings.stop, steps)

        def measured() -> dict[str, float]:
            with self.training.memory.phase("preview"), self.training.weights_to_save() as transformer:
                return measure.measure(transformer)

        return EarlyEnd(measured, lambda: bool(self.reason_to_stop))

    @property
    def reason_to_stop(self) -> str:
        """Why training ends before its last step, with the one that was logged last; empty if it goes on."""
        log = self.run.folder.lines() if self.settings.stop.is_on else []
        return reason_to_stop(log, self.settings.stop) if len(log) < self.settings.training.loop.max_train_steps else ""

    def look(self, line: dict[str, float]) -> None:
        """Check, send and draw what a step calls for."""
        if self.training.accelerator.is_main_process:
            self._judge(int(line["step"]), is_measured=GAIN in line)
            self.live.log(training_points(line))
            self.preview(int(line["step"]))

    def preview(self, step: int) -> None:
        """Draw a preview if the step calls for one that is not there yet."""
        every, file = self.settings.preview.preview_every, preview_file(self.run.folder.previews, step)
        if not (every and step and step % every == 0 and self.training.accelerator.is_main_process) or file.exists():
            return
        if drawn := self._draw(step):
            write_png(file, drawn[0])
            self.run.publish()
            _say(f"preview of step {step}: {preview_file(self.run.report / PREVIEWS, step)}")
            self.live.show(PREVIEW_SERIES, step, file)

    def _judge(self, step: int, *, is_measured: bool) -> None:
        """Check the adapter's effect where it is time to."""
        guarded, last = self.settings.guarded_step, self.settings.training.loop.max_train_steps
        if not guarded or (step not in (guarded, last) and not (is_measured and self.reason_to_stop)):
            return
        change = relative_change(self.training.transformer)
        line = check_effect(change, step, self.settings.preview.believed, "train.")  # before anything is drawn with it
        if step != guarded:
            return
        drawn = self._draw(step)
        _say(f"{line}; a picture differs from the base's by {drawn[1]:.3f} of full scale" if drawn else line)

    def _draw(self, step: int) -> tuple[Image, float] | None:
        """Draw with the adapter and compare with the base; None where memory does not suffice, which must not end training."""
        height, width = self.views.shapes()[0]
        factor = int(json.loads((self.views.folder / INDEX).read_text(encoding="utf-8"))["pixels_per_latent"])
        text, size = self.captions.read([str(self.views.entries[0]["caption"])]), (width * factor, height * factor)
        try:
            with self.training.memory.phase("preview"):
                empty = self.captions.read([""]) if draws_twice(self.run.model) else None
                return draw_preview(self.training.transformer, self.run.model, text, empty, size, self.settings.preview)
        except OutOfMemoryError as error:
            _say(f"step {step}: no picture is drawn: {error}")
            return None


def _say(line: str) -> None:
    print(f"train: {line}", flush=True)
