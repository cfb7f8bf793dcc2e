"""Stage: decode every picture, find what would ruin an adapter, and write down what is trained on and what is held out.

Whatever is wrong is a finding: all of them are printed and reported before the first error stops the pipeline. Nothing here
imports torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from tasks.running.cli import named_section
from tasks.running.state_folder import replaced_folder, state_folder
from tasks.validate.checks import (
    ValidateSettings,
    check_captions,
    check_copies,
    check_folder,
    check_lengths,
    check_pictures,
    check_prompts,
)
from tasks.validate.findings import (
    Finding,
    count_severity,
    findings_to_json,
    findings_to_markdown,
    findings_to_text,
    sort_findings,
    summarise,
)
from tasks.validate.fixes import FixFolders, apply_fixes
from tasks.validate.inspection import Inspected, Inspection, inspect_pictures, looks_file
from tasks.validate.look_store import LookStore, forget_others
from tasks.validate.report import DataReport, render_report
from tlora.errors import ModelError, PictureError
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import Concept, read_concept
from tlora.pictures.colour import Refused
from tlora.pictures.files import list_pictures
from tlora.pictures.manifest import PictureItem, Split, build_manifest, manifest_to_json, split_items
from tlora.pictures.tokens import CaptionTokenizer, TextSettings, load_tokenizers
from tlora.pictures.views import ViewSettings, require_resolution
from tlora.runtime.atomic_file import write_json, write_text
from tlora.runtime.progress import show_progress


@dataclass(frozen=True)
class _Examination:
    inspections: list[Inspection]
    split: Split
    held_out: set[str]
    findings: list[Finding]


def validate(
    settings: ValidateSettings,
    model: ModelSpec,
    cache_latents: ViewSettings,
    cache_prompts: TextSettings,
    *,
    data: Path,
    concept: Path,
    manifest: Path,
    report: Path,
    fix: bool = False,
) -> None:
    """Check the pictures and captions, and write the manifests of what is trained on and what is held out.

    Args:
        settings: Section `validate`.
        model: Section `model`, for its tokenizers.
        cache_latents: Section `cache_latents`, for the size that training sees.
        cache_prompts: Section `cache_prompts`, for the length that captions are cut at.
        data: Folder of pictures and captions; nothing is written there, except to fix.
        concept: concept.yaml.
        manifest: Output folder: train.json and held_out.json, only if there is no error.
        report: Output folder: findings.json, findings.md and report.html.
        fix: First put right what needs no judgement, by hand only: DVC's stage never does.

    Raises:
        PictureError: If there are errors.
    """
    for name in ("train.json", "held_out.json"):
        (manifest / name).unlink(missing_ok=True)  # of an earlier run by hand; DVC removes them itself
    described = read_concept(concept)
    with named_section("cache_latents"):
        multiple = require_resolution(cache_latents, model)
    looks = looks_file(state_folder("cache", "validate"), cache_latents.resolution)
    forget_others(looks)
    examine = partial(_examine, settings, model, cache_latents, cache_prompts, data, described, looks)
    seen = examine()
    if fix and _fix(seen, data, described):
        seen = examine()
    about = DataReport(described, seen.inspections, seen.held_out, cache_latents, multiple)
    _write_reports(report, seen.findings, about, looks)
    _say(seen.findings, seen.split, report)
    _refuse_errors(seen.findings, report)
    write_json(manifest / "train.json", manifest_to_json(seen.split.train))
    write_json(manifest / "held_out.json", manifest_to_json(seen.split.held_out))


def _examine(
    settings: ValidateSettings,
    model: ModelSpec,
    views: ViewSettings,
    text: TextSettings,
    data: Path,
    concept: Concept,
    looks: Path,
) -> _Examination:
    """Look at all pictures, those known already only in memory, and collect all findings."""
    with ThreadPoolExecutor(1) as aside:
        paths = list_pictures(data)
        looking = inspect_pictures(paths, views.resolution, looks, settings.engine)
        first = next(looking)  # the processes are there, so what is imported from here on is in none of them
        tokenizers = aside.submit(load_tokenizers, model, text.max_sequence_length, state_folder("cache", "tokenizers"))
        inspections = _collect(chain([first], looking), len(paths))
    split, findings = _split(inspections, concept)
    held_out = {item.picture for item in split.held_out.items}
    findings += [
        *check_folder(data),
        *check_pictures(inspections, settings, views.resolution),
        *check_copies(inspections, held_out, settings.near_copy_bits),
        *check_captions(inspections, concept, held_out),
        *check_prompts(concept),
        *_check_lengths(split, concept, tokenizers),
    ]
    return _Examination(inspections, split, held_out, sort_findings(findings))


def _fix(seen: _Examination, data: Path, concept: Concept) -> bool:
    """Fix what is safe, say what was done, and return whether anything was."""
    kept = replaced_folder()
    done = apply_fixes(seen.findings, seen.inspections, FixFolders(data, kept, concept))
    for line in done:
        print(f"fixed    {line}")
    if done:
        print(f"validate: the originals are kept in {kept}; put what was fixed under DVC with 'dvc add {data.parent}'")
    else:
        kept.rmdir()
        print("validate: nothing to fix without a person's judgement")
    return bool(done)


def _collect(looking: Iterable[Inspected], total: int) -> list[Inspection]:
    inspections, known = [], 0
    for seen in show_progress(looking, total, "validate"):
        inspections.append(seen.inspection)
        known += seen.thumbnail is None and bool(seen.inspection.sha256)
    if known:
        print(f"validate: {known} of {total} pictures are known from an earlier run")
    return inspections


def _split(inspections: Sequence[Inspection], concept: Concept) -> tuple[Split, list[Finding]]:
    items = [
        PictureItem(seen.picture, seen.sha256, seen.look.width, seen.look.height, seen.caption or "", seen.mask_sha256)
        for seen in inspections
        if not seen.look.refused
    ]
    try:
        train, held_out = split_items(items, concept.held_out)
    except Refused as refused:
        finding = Finding("error", "split", "concept.yaml", refused.reason, refused.remedy)
        return Split(build_manifest(items), build_manifest([])), [finding]
    return Split(build_manifest(train), build_manifest(held_out)), []


def _check_lengths(split: Split, concept: Concept, tokenizers: "Future[tuple[CaptionTokenizer, ...]]") -> Iterator[Finding]:
    try:
        yield from check_lengths([*split.train.items, *split.held_out.items], concept, tokenizers.result())
    except ModelError as error:
        yield Finding("warning", "tokens_uncounted", "params.yaml", str(error), "captions that are too long are not noticed")


def _write_reports(folder: Path, findings: Sequence[Finding], report: DataReport, looks: Path) -> None:
    write_json(folder / "findings.json", findings_to_json(findings))
    write_text(folder / "findings.md", findings_to_markdown(findings))
    with LookStore(looks) as store:
        write_text(folder / "report.html", render_report(report, findings, store.thumbnail))


def _say(findings: Sequence[Finding], split: Split, report: Path) -> None:
    if findings:
        print(findings_to_text(findings))
    train, held_out = len(split.train.items), len(split.held_out.items)
    print(
        f"validate: {train + held_out} pictures, {train} to train on and {held_out} held out: {summarise(findings)};"
        f" see {report / 'report.html'}",
        flush=True,
    )


def _refuse_errors(findings: Sequence[Finding], report: Path) -> None:
    errors = count_severity(findings, "error")
    if errors:
        first = findings[0]
        rest = f" (and {errors - 1} more errors, all in {report / 'findings.md'})" if errors > 1 else ""
        raise PictureError(f"{first.file}: {first.reason}: {first.remedy}{rest}")
