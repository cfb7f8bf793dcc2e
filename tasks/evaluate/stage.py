"""Stage: draw the fixed prompts at fixed seeds with the bare base and with every checkpoint, measure, and recommend one.

The pipeline is loaded once and embeddings come from the cache; checkpoints are loaded into the same layers one after another.
They race: one that is left behind is not drawn to the end. Killed and run again, it goes on with the pictures it has.
What cannot be measured (a damaged checkpoint, an evaluator that does not load) costs its own numbers alone: everything else
is drawn, measured and written, and the stage then fails with the reason, so that DVC takes nothing of it for finished.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tasks.evaluate.checkpoints import attempt, find_checkpoints
from tasks.evaluate.drawing import PictureDrawer, Rows
from tasks.evaluate.fast_look import write_fast_look
from tasks.evaluate.field import Field
from tasks.evaluate.identity import fingerprint_fields
from tasks.evaluate.kept import KeptPictures
from tasks.evaluate.measurement import CaptionedLatents, Measurer
from tasks.evaluate.outputs import OTHERS_GRID, lost_of, write_grids, write_numbers, write_others
from tasks.evaluate.page import EvaluationFiles, render_evaluation
from tasks.evaluate.recommended import write_recommended
from tasks.evaluate.scoring import Encoders, References, measure_references
from tasks.evaluate.settings import EvaluateSettings
from tasks.evaluate.stopwatch import Stopwatch
from tasks.evaluate.team import Team
from tasks.results.album import CHECKPOINTS, DISTILLED, SCALES, write_album
from tasks.running.cli import named_section
from tasks.running.state_folder import remembered_seconds, state_folder
from tlora.errors import EvaluationError
from tlora.evaluation.efficientnet import NAME, SHA256
from tlora.evaluation.evaluator import load_dinov2, load_efficientnet, load_evaluator
from tlora.evaluation.memorisation import choose_views
from tlora.flux.cached import LatentCache, PromptCache
from tlora.flux.files import base_revision, require_base
from tlora.flux.model import image_tokens_of, load_scheduler, load_transformer, load_vae
from tlora.flux.spec import ModelSpec
from tlora.metadata.adapter import BASE, WEIGHTS_FILE, read_metadata
from tlora.metadata.concept import Concept, read_concept
from tlora.metadata.digests import digest_of
from tlora.pictures.decode import decode_picture
from tlora.pictures.manifest import read_manifest
from tlora.runtime.atomic_file import write_text
from tlora.sampling import Painter, draws_twice


def evaluate(
    settings: EvaluateSettings,
    model: ModelSpec,
    *,
    adapters: Path,
    prompts: Path,
    captions: Path,
    latents: Path,
    held_out_latents: Path,
    data: Path,
    manifest: Path,
    held_out: Path,
    concept: Path,
    metrics: Path,
    grids: Path,
    pictures: Path,
    recommended: Path,
    report: Path,
) -> None:
    """Draw, measure, and recommend a checkpoint.

    Args:
        settings: Section `evaluate`.
        model: Section `model`.
        adapters: Folder of checkpoints.
        prompts: Cached embeddings of the evaluation prompts and of the held-out captions.
        captions: Cached embeddings of the training captions.
        latents: Cached views of the training pictures.
        held_out_latents: Cached views of the held-out pictures.
        data: Folder of the pictures.
        manifest: Training pictures.
        held_out: Held-out pictures.
        concept: concept.yaml, for the prompts.
        metrics: Output file, JSON: what decides, at a glance.
        grids: Output folder of labelled picture grids.
        pictures: Output folder of single pictures.
        recommended: Output folder of the recommended checkpoint, empty but for the reason where there is none.
        report: Output folder: report.html, scores and curves.

    Raises:
        EvaluationError: Once everything else is written, if something could not be measured.
    """
    require_base(model)
    with named_section("evaluate"):
        image_tokens_of(model, settings.sample.width, settings.sample.height)
        if look := settings.fast_look(model):
            look.require(model)
    team, described, watch = Team.join(model), read_concept(concept), Stopwatch()
    wanted = described.prompts
    checkpoints, failures = find_checkpoints(adapters, model)
    most = settings.losses.loss_pictures
    trained = CaptionedLatents(choose_views(LatentCache(latents), most), PromptCache(captions))
    unseen = CaptionedLatents(choose_views(LatentCache(held_out_latents), most), PromptCache(prompts))
    embeddings = unseen.captions.read([*wanted, *described.other_prompts])
    caches = [captions, prompts, latents, held_out_latents]
    kept = KeptPictures(state_folder("evaluate"), fingerprint_fields(settings.shaping, model, team.device, embeddings, caches))
    with watch("true pictures"):
        encoders = _load_encoders(settings, failures)
        truth = [[decode_picture(data / item.picture) for item in read_manifest(file).items] for file in (manifest, held_out)]
        references = measure_references(encoders, truth[0], truth[1], wanted, (settings.sample.width, settings.sample.height))
    with team.alone_on_device("evaluate"):
        if (there := kept.open()) and team.is_first:
            _say(f"going on with {there} pictures that are drawn already ({kept.folder})")
        with watch("loading"):
            placed = team.placed(model)
            empty = unseen.captions.read([""]) if draws_twice(model) else None
            painter = Painter(load_transformer(placed).eval(), load_vae(placed), load_scheduler(placed), empty_prompt=empty)
        drawer = PictureDrawer(painter, embeddings, settings.sample, settings.batch, kept)
        measurer = Measurer(drawer, encoders, references, trained, unseen, settings.losses, watch, kept, team)
        field = Field(measurer, checkpoints, settings.extent(described), settings.selection, settings.racing)
        found = field.run(failures)
        looked: dict[str, Rows] = {}
        if look:
            del painter, drawer, measurer, field  # so that the base makes room
            shown = {name: checkpoints[name] for name in found.drawn if name != BASE}
            with watch("fast look"):
                drawn = partial(look.draw, shown, embeddings, settings.extent(described).first_seed, team, kept)
                looked = attempt(failures, "preview_model", drawn) or {}
    if not team.is_first:
        return
    setup = {**_setup(settings, described, embeddings[0].shape[1]), "held_out": read_manifest(held_out).digest}
    told = {
        "failures": failures,
        "rule": dataclasses.asdict(settings.selection),
        "setup": setup,
        "material": _material(references),
    }
    told |= {"fast_look": look.told(settings.first_seed)} if look and looked else {}
    files = EvaluationFiles(report / "evaluate.json", pictures, manifest, held_out, data, grids / OTHERS_GRID)
    last = read_metadata([*checkpoints.values()][-1] / WEIGHTS_FILE)
    groups = {CHECKPOINTS: found.drawn, SCALES: found.at_scales}
    write_grids(grids, found.drawn, found.at_scales, wanted, lost_of(found.summary))
    write_others(grids, found.others, described.other_prompts)
    if look and looked:
        _say(f"a fast look, which decides nothing: {write_fast_look(grids, looked, wanted, look.model)}")
        groups[DISTILLED] = looked
    write_album(pictures, groups, wanted, settings.all_seeds)
    write_numbers(found.measured, found.summary | told, metrics, report)
    write_recommended(recommended, checkpoints, found.summary)
    write_text(report / "report.html", render_evaluation(files, last))
    _say(f"{found.summary['reason']}; see {report / 'report.html'}")
    if opinion := found.summary.get("second_opinion"):
        _say(opinion["said"])
    _say_time(watch, found.summary["race"])
    if failures:
        raise EvaluationError(f"incomplete, all else is in {metrics} and {report}: {'; '.join(failures.values())}")
    kept.close()


def _load_encoders(settings: EvaluateSettings, failures: dict[str, str]) -> Encoders:
    clip = attempt(failures, "evaluator", lambda: load_evaluator(settings.evaluator, settings.evaluator_revision))
    dinov2 = second = None
    if settings.dinov2:
        dinov2 = attempt(failures, "dinov2", lambda: load_dinov2(settings.dinov2, settings.dinov2_revision))
    if settings.second_opinion:
        second = attempt(failures, "second_opinion", load_efficientnet)
    return Encoders(clip, dinov2, second)


def _setup(settings: EvaluateSettings, concept: Concept, text_length: int) -> dict[str, Any]:
    """Return how the pictures were drawn and measured: what must be equal before two evaluations are compared."""
    return {
        "drawing": {**dataclasses.asdict(settings.sample), "max_sequence_length": text_length},
        "prompts": list(concept.prompts),
        "prompts_digest": digest_of(list(concept.prompts)),
        "other_prompts": list(concept.other_prompts),
        "seeds": list(settings.all_seeds),
        "full_frame_prompts": settings.full_frame_prompts,
        "evaluator": _identify(settings.evaluator, settings.evaluator_revision),
        "dinov2": _identify(settings.dinov2, settings.dinov2_revision),
        **({"second_opinion": f"{NAME}, {SHA256[:12]}"} if settings.second_opinion else {}),
        "losses": dataclasses.asdict(settings.losses),
    }


def _identify(path: str, revision: str) -> str:
    """Return name and revision of an evaluator, or the hash of a folder's files; empty for none."""
    if not path:
        return ""
    folder = Path(path).is_dir()
    return f"{path}@{revision or (base_revision(ModelSpec(path))[:12] if folder else 'main')}"


def _material(references: References) -> dict[str, float]:
    """Return what the texture of the true pictures is, for whoever reads the errors of the drawn ones."""
    texture = references.texture
    return {**dataclasses.asdict(texture.lattice), "seam_ratio": texture.seam_ratio}


def _say_time(watch: Stopwatch, race: Mapping[str, Any]) -> None:
    """Say where the time went, and which share of the pipeline's it was: of each stage's last run, without Python's start."""
    own = watch.total()
    whole = own + sum(seconds for stage, seconds in remembered_seconds().items() if stage != "evaluate")
    fewer = f" (of {race['of']} that a full evaluation draws)" if race["pictures"] < race["of"] else ""
    _say(f"{race['pictures']} pictures{fewer} in {own:.0f} s ({watch}), {own / whole:.0%} of the pipeline's {whole:.0f} s")


def _say(line: str) -> None:
    print(f"evaluate: {line}", flush=True)
