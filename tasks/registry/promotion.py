"""Who is champion: the gate between challenger and champion, the move of the aliases, and the trail that it leaves.

Aliases have no history, so every move is also a line of decisions.jsonl, a tag of the registered model, by time, and tags of
the version that moved. Aliases move in an order in which a crash leaves a champion in place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.registry.decisions import Decision, Event, now, record
from tasks.registry.names import CHALLENGER, CHAMPION, PREVIOUS
from tasks.registry.trust import objection_to_signature
from tasks.registry.verdict import Check, PromoteSettings, PromotionError, Verdict
from tasks.registry.versions import ADAPTER_DIGEST, BRANCH, find_alias, scores_of, set_version_tags
from tasks.registry.votes import read_round
from tasks.results.evaluation import comparison_tags, read_evaluation
from tasks.tracking.runs import evaluation_points, log_points
from tasks.tracking.store import Store
from tlora.flux.files import is_same_base
from tlora.metadata.adapter import BASE, WEIGHTS_FILE
from tlora.trust.licences import LicenceSettings, licences_of
from tlora.trust.settings import TrustSettings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MEASURE = "prefect deployment run measure/champion"
CLOSE = "python -m flows.votes --close NAME"
EVENT = "promotion.event"  # tag of a version: what was decided of it last
LATER = ("lost_prompts", "drift")  # versions registered before these were measured have none
NOT_ASKED, DEFAULT = TrustSettings(), PromoteSettings()
_MEASURED_BY = "evaluation."  # tags that start so must be equal before two versions' scores are compared


def judge(
    store: Store,
    model: str,
    settings: PromoteSettings,
    version: str = "",
    *,
    again: bool = False,
    trust: TrustSettings = NOT_ASKED,
) -> Verdict:
    """Hold a version against the champion of the same base.

    Args:
        store: Where.
        model: Name of the registered model.
        settings: Section `promote`.
        version: Its number, by default the challenger's.
        again: Whether one that was champion before, or that nothing is left to be compared with, may be champion all the same.
        trust: Section `trust`: whose signature is asked for.

    Raises:
        PromotionError: If there is no such version.
    """
    challenger, champion = _candidate(store, model, version), find_alias(store, model, CHAMPION)
    mine = challenger.tags
    number, other = str(challenger.version), str(champion.version) if champion else ""
    if other == number:
        return Verdict(model, number, other, objection=f"version {number} is champion already")
    if objection := objection_to_origin(store, challenger, settings, trust):
        return Verdict(model, number, other, objection=objection)
    if mine.get("recommended") != "true":
        return Verdict(model, number, other, objection=f"the evaluation recommends no checkpoint of version {number}'s run")
    if not again and (decided := stood_down(challenger, other, has_champion=champion is not None)):
        remedy = f'make promote VERSION={number} AGAIN=1 WHY="..."'
        return Verdict(model, number, other, objection=f"version {number} {decided}", remedy=remedy)
    if champion is None or not is_same_base(*_base(champion), *_base(challenger)):
        return Verdict(model, number, "")  # nothing is compared across bases; what the evaluation asks is met
    if different := _measured_differently(mine, champion.tags):
        named = ", ".join(different)
        objection = f"champion and challenger were measured with different {named}: measure the champion anew, then promote"
        return Verdict(model, number, other, objection=objection, remedy=_measure_like(mine))
    checks = _compare(scores_of(store, challenger), scores_of(store, champion), settings)
    failed = [f"{check.metric} is {check.shown}, {check.needed} needed" for check in checks if not check.passed]
    held = read_round(store, challenger, champion) if settings.votes else None
    voted = held.objection(settings) if held else ""
    remedy = CLOSE if held and voted and not held.closed_by and not failed else ""
    return Verdict(model, number, other, checks, "; ".join(failed + [voted] * bool(voted)), remedy)


def objection_to_origin(store: Store, version: "ModelVersion", settings: PromoteSettings, trust: TrustSettings) -> str:
    """Return why a version may not be champion, whatever its scores: a licence, or its signature; empty if nothing objects."""
    if settings.licence == "commercial":
        told = LicenceSettings(*(version.tags.get(f"licence.{part}", "") for part in ("base", "data", "adapter")))
        if objection := licences_of(version.tags.get("base", ""), told).objection_to_commercial_use():
            return f"version {version.version}: {objection}, and promote.licence is commercial"
    return objection_to_signature(store, version, trust)


def stood_down(version: "ModelVersion", champion: str, *, has_champion: bool = True) -> str:
    """Return what speaks against making a version champion unasked, whatever its scores: what was decided of it before.

    Args:
        version: Which.
        champion: Number of the champion; empty if there is none.
        has_champion: Whether it can be compared with one: a refusal is of the comparison then, which may be made again.
    """
    event, why = version.tags.get(EVENT, ""), version.tags.get("promotion.why", "no reason given")
    if event == "rolled back" or (event == "refused" and not has_champion):
        return f"was {event} ({why})"
    if event in ("promoted", "restored") and str(version.version) != champion:
        return f"was champion before{f', until version {champion} took its place' if champion else ''}"
    return ""


def promote_version(store: Store, verdict: Verdict, *, by: str, run: str, why: str) -> None:
    """Make the judged version champion and the champion `previous`, and leave the trail.

    Args:
        store: Where.
        verdict: Of the gate.
        by: Who or what decided.
        run: The Prefect run in which it was decided.
        why: The reason, in a sentence.
    """
    if verdict.champion:
        store.client.set_registered_model_alias(verdict.model, PREVIOUS, verdict.champion)
    store.client.set_registered_model_alias(verdict.model, CHAMPION, verdict.challenger)
    metrics = ", ".join(f"{check.metric} {check.challenger:.3f}" for check in verdict.checks if check.challenger is not None)
    leave_trail(store, verdict.model, verdict.challenger, "promoted", {"by": by, "run": run, "why": why, "metrics": metrics})


def note_refusal(store: Store, verdict: Verdict, *, by: str, run: str, why: str) -> None:
    """Leave word of a refusal on the version that was refused."""
    leave_trail(store, verdict.model, verdict.challenger, "refused", {"by": by, "run": run, "why": why})


def roll_back(
    store: Store,
    model: str,
    *,
    by: str,
    run: str,
    why: str,
    settings: PromoteSettings = DEFAULT,
    trust: TrustSettings = NOT_ASKED,
) -> tuple[str, str]:
    """Make the version called `previous` champion again; return its number and that of the one it replaces.

    The alias `previous` goes, so that rolling back twice does not bring back what was rolled back.

    Raises:
        PromotionError: If there is none, or it is not signed as section `trust` asks, or not licensed as `promote.licence` does.
    """
    previous, champion = find_alias(store, model, PREVIOUS), find_alias(store, model, CHAMPION)
    if previous is None:
        raise PromotionError(f"{model}: no version is called {PREVIOUS}: there is nothing to roll back to")
    if objection := objection_to_origin(store, previous, settings, trust):
        raise PromotionError(f"{model}: the champion stays, nothing is rolled back to: {objection}")
    number, replaced = str(previous.version), str(champion.version) if champion else ""
    store.client.delete_registered_model_alias(model, PREVIOUS)  # first: an account that may move aliases may not delete one
    store.client.set_registered_model_alias(model, CHAMPION, number)
    if replaced:
        leave_trail(store, model, replaced, "rolled back", {"by": by, "run": run, "why": why})
    leave_trail(store, model, number, "restored", {"by": by, "run": run, "why": why})
    return number, replaced


def leave_trail(store: Store, model: str, number: str, event: Event, told: Mapping[str, str]) -> None:
    """Write down what was decided of a version: for git in decisions.jsonl, and in the registry.

    Args:
        store: Where.
        model: Name of the registered model.
        number: Of the version.
        event: What happened.
        told: Who decided, in which run, why, by which metrics.
    """
    version = store.client.get_model_version(model, number)
    given = {name: text for name, text in told.items() if text}
    decision = Decision(now(), event, model, number, version.tags.get(ADAPTER_DIGEST, ""), given)
    record(decision)
    show_decision(store, decision, version)


def show_decision(store: Store, decision: Decision, version: "ModelVersion | None") -> None:
    """Write a decision into the registry: tags of the version, where there still is one, and a line of the model's history."""
    told = {"event": decision.event, "at": decision.at, **decision.told}
    stays = decision.event == "refused" and version is not None and version.tags.get(EVENT, "refused") != "refused"
    if version is not None and not stays:  # that it was champion, or was rolled back, is what counts later
        set_version_tags(store, version, {f"promotion.{name}": text for name, text in told.items()})
    number = str(version.version) if version is not None else decision.version
    line = f"version {number} {decision.event}" + "".join(f"; {name}: {text}" for name, text in decision.told.items())
    store.client.set_registered_model_tag(decision.model, f"history.{decision.at}", line)


def had_champion(store: Store, model: str) -> bool:
    """Whether any version was ever champion, as far as the registry remembers."""
    tags = store.client.get_registered_model(model).tags
    return any(name.startswith("history.") and " promoted" in line for name, line in tags.items())


def fetch_adapter(store: Store, version: "ModelVersion", folder: Path) -> Path:
    """Copy the adapter that a version holds below a folder and return where it lies.

    Raises:
        PromotionError: If it holds none.
    """
    import mlflow

    uri = store.client.get_model_version_download_uri(version.name, version.version)
    fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/artifacts", dst_path=str(folder)))
    found = sorted(fetched.rglob(WEIGHTS_FILE))
    if not found:
        raise PromotionError(f"{version.name}, version {version.version}: holds no {WEIGHTS_FILE}")
    return found[0].parent


def record_measurement(store: Store, version: "ModelVersion", metrics: Path) -> None:
    """Add what evaluate measured of a version's adapter, which was alone, to its run, and say how it was measured.

    Raises:
        CheckpointError: If the file is not what evaluate writes.
    """
    evaluation = read_evaluation(metrics)
    (scores,) = [scores for name, scores in evaluation.checkpoints.items() if name != BASE]
    log_points(store, str(version.run_id), evaluation_points(scores))
    set_version_tags(store, version, comparison_tags(evaluation.setup))


def _candidate(store: Store, model: str, version: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    if not version:
        challenger = find_alias(store, model, CHALLENGER)
        if challenger is None:
            raise PromotionError(f"{model}: no version is called {CHALLENGER}: run the pipeline first")
        return challenger
    try:
        return store.client.get_model_version(model, version)
    except MlflowException as error:
        raise PromotionError(f"{model}: there is no version {version!r}") from error


def _measure_like(tags: Mapping[str, str]) -> str:
    """Return the command that measures the champion as a version of these tags was measured."""
    branch = tags.get(BRANCH, "")
    return f"{MEASURE} -p revision={branch}" if branch else MEASURE


def _base(version: "ModelVersion") -> tuple[str, str]:
    return version.tags.get("base", ""), version.tags.get("base_revision", "")


def _measured_differently(mine: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return what of the evaluation differs: prompts, seeds, evaluator and the like."""
    names = sorted(name for name in {*mine, *other} if name.startswith(_MEASURED_BY))
    return [name.removeprefix(_MEASURED_BY) for name in names if mine.get(name) != other.get(name)]


def _compare(mine: Mapping[str, float], other: Mapping[str, float], settings: PromoteSettings) -> tuple[Check, ...]:
    """Let MLflow validate metric by metric: none worse than the champion's less its margin, none above its limit."""
    checks = []
    for metric, margin in settings.margins.items():
        least = other[metric] - margin if metric in other else float("-inf")
        passed = metric in mine and _is_valid(metric, mine[metric], least, greater_is_better=True)
        checks.append(Check(metric, mine.get(metric), other.get(metric), f"at least {least:.3f}", passed))
    for metric, limit in settings.limits.items():
        if metric in LATER and metric not in mine:
            continue
        passed = metric in mine and _is_valid(metric, mine[metric], limit, greater_is_better=False)
        checks.append(Check(metric, mine.get(metric), other.get(metric), f"at most {limit:.3f}", passed))
    return tuple(checks)


def _is_valid(metric: str, value: float, threshold: float, *, greater_is_better: bool) -> bool:
    import mlflow
    from mlflow.models import MetricThreshold
    from mlflow.models.evaluation import EvaluationResult
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    needed = {metric: MetricThreshold(threshold=threshold, greater_is_better=greater_is_better)}
    try:
        mlflow.validate_evaluation_results(needed, EvaluationResult(metrics={metric: value}, artifacts={}))
    except ModelValidationFailedException:
        return False
    return True
