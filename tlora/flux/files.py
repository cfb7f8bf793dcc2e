"""Where a base model's files are, whether it can be had, and what identifies its bytes: known before any weight is loaded."""

import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path

from tlora.errors import ModelError
from tlora.flux.families import FAMILIES, Family, why_refused
from tlora.flux.spec import FluxShape, ModelSpec, hub_base
from tlora.runtime.disk import require_free_space

HUB_SECONDS = 5.0  # to wait for an answer
_INDEX = "model_index.json"
_UNKNOWN = "@main"  # ends a revision whose commit is not known


def read_shape(spec: ModelSpec) -> FluxShape:
    """Return the sizes of a base model; of one on the hub that is not here yet, what is known of it.

    Raises:
        ModelError: If a folder's configuration cannot be read.
    """
    transformer, vae = (local_file(spec, f"{part}/config.json") for part in ("transformer", "vae"))
    if not spec.is_folder and not transformer.exists():
        return hub_base(spec.path).shape
    family = read_family(spec)
    try:
        sizes = json.loads(transformer.read_text(encoding="utf-8"))
        blocks = json.loads(vae.read_text(encoding="utf-8"))["block_out_channels"]
        return FluxShape(
            double_blocks=sizes["num_layers"],
            single_blocks=sizes["num_single_layers"],
            width=sizes["num_attention_heads"] * sizes["attention_head_dim"],
            head_width=sizes["attention_head_dim"],
            text_width=sizes["joint_attention_dim"],
            pooled_width=sizes["pooled_projection_dim"] if family.text == "clip and t5" else 0,
            channels=sizes["in_channels"],
            guidance=sizes["guidance_embeds"],
            pixels_per_latent=2 ** (len(blocks) - 1),
            family=family,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{spec.path}: its transformer and VAE configuration cannot be read: {error}") from error


def read_family(spec: ModelSpec, *, fetch: bool = False) -> Family:
    """Return whose network a base model is: its own files decide.

    Args:
        spec: The base model.
        fetch: Whether, of one on the hub that is not here, the file that says so is downloaded; else its name decides.

    Raises:
        ModelError: If it is a model that is refused, with the reason, or is no known one.
    """
    index = _fetched_index(spec) if fetch else local_file(spec, _INDEX)
    pipeline, network = (_class_in(file) for file in (index, local_file(spec, "transformer/config.json")))
    for name in (pipeline, network) if pipeline or network else (spec.name,):
        if why := why_refused(name):
            raise ModelError(f"{spec.path}: {why}")
    if not pipeline and not network:
        return hub_base(spec.path).shape.family
    by_pipeline = next((family for family in FAMILIES if pipeline in family.pipelines), None)
    if family := by_pipeline or next((family for family in FAMILIES if network == family.transformer), None):
        return family
    known = " and ".join(family.pipelines[0] for family in FAMILIES)
    raise ModelError(f"{spec.path}: {pipeline or network} is no base that an adapter can be trained on; {known} are")


def require_parts(spec: ModelSpec) -> None:
    """Check that transformer, VAE and text encoders, as far as they are on this machine, are of one family.

    Raises:
        ModelError: Naming the part that is not.
    """
    family = read_family(spec)
    for part, wanted in (("transformer", family.transformer), ("vae", family.vae)):
        _require_said(spec, f"{part}/config.json", "_class_name", wanted, family)
    for part, kind in family.text_encoders:
        _require_said(spec, f"{part}/config.json", "model_type", kind, family)


def is_distilled(spec: ModelSpec) -> bool:
    """Whether a base was distilled to draw in a few steps without guidance, as its files say."""
    return bool(_read_json(local_file(spec, _INDEX)).get("is_distilled", False))


def _require_said(spec: ModelSpec, name: str, key: str, wanted: str, family: Family) -> None:
    said = _read_json(local_file(spec, name)).get(key)
    if said is not None and said != wanted:
        raise ModelError(f"{spec.path}/{name}: {key} is {said}, and {family.name} needs {wanted}: parts of two models are mixed")


def _read_json(file: Path) -> dict[str, object]:
    """Return a configuration; an empty one where it is missing or cannot be read, which whoever loads it says."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return given if isinstance(given, dict) else {}


def _class_in(file: Path) -> str:
    return str(_read_json(file).get("_class_name", ""))


def _fetched_index(spec: ModelSpec) -> Path:
    if spec.is_folder or local_file(spec, _INDEX).exists():
        return local_file(spec, _INDEX)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(spec.path, _INDEX, revision=spec.revision or None))
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{spec.path}: cannot be downloaded: {str(error).strip().splitlines()[0]}") from error


def require_base(spec: ModelSpec, *, encodes: bool = True) -> None:
    """Check that the base model can be loaded, before anything is.

    Args:
        spec: The base model.
        encodes: Whether its text encoders will be loaded too, and so have to be downloaded where it is not here.

    Raises:
        ModelError: If the folder is missing or holds no pipeline, or one of a model that is refused, or parts of two; if a hub
            model is not on this machine and there is no token for it or no room to download it; if the library that would
            quantise it is not installed.
    """
    if spec.quantisation == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("quantisation nf4 needs the package bitsandbytes: pip install 'flux-tlora[quantised]', or use int8")
    if spec.is_folder:
        if not (Path(spec.path) / _INDEX).exists():
            _refuse_modular(spec)
            raise ModelError(f"{spec.path}: no base model there ({_INDEX} is missing)", "base")
        require_parts(spec)
    elif local_file(spec, _INDEX).exists():
        require_parts(spec)
    else:
        read_family(spec)
        _require_token(spec)
        _require_room(spec, encodes=encodes)


def hub_access(spec: ModelSpec) -> str:
    """Ask the hub whether a base model that is not here can be downloaded with the token; return the answer in words.

    Raises:
        ModelError: If the hub says no: a wrong token, a licence that was not accepted, a name that it does not know.
    """
    if spec.is_folder or local_file(spec, _INDEX).exists():
        return "is here"
    from httpx2 import HTTPError  # what the hub's client raises where nobody answers
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        get_hf_file_metadata(hf_hub_url(spec.path, _INDEX, revision=spec.revision or None), timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 404):
            raise ModelError(
                f"{spec.path}: the hub refuses it with this token (HTTP {status}): accept its licence at"
                f" https://huggingface.co/{spec.path}, and check the token and the name"
            ) from error
        return f"is not here, and the hub could not be asked for it (HTTP {status})"
    except (HTTPError, OSError):
        return "is not here, and the hub was not reached: token and access were not asked"
    return "is not here; the hub gives it to this token"


def base_revision(spec: ModelSpec, *parts: str) -> str:
    """Return what identifies the base's weights: a hash of a folder's files, or the commit on the hub.

    Where no commit is asked for, it is that of the copy on this machine; before there is one, the name and `@main`.

    Args:
        spec: The base model.
        parts: Subfolders that matter, such as `vae`; all of them by default.
    """
    if not spec.is_folder:
        index = local_file(spec, _INDEX)
        return index.parent.name if index.exists() else spec.revision or f"{spec.path}{_UNKNOWN}"
    digest = hashlib.sha256()
    for folder in sorted(parts) or [""]:
        for file in sorted(p for p in (Path(spec.path) / folder).rglob("*") if p.is_file() and p.name != "README.md"):
            digest.update(file.relative_to(spec.path).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def is_same_base(base: str, revision: str, other_base: str, other_revision: str) -> bool:
    """Whether two bases, by path and recorded revision, are one; where a revision names no commit, the paths decide.

    Example:
        >>> is_same_base("a/flux", "3de6", "a/flux", "a/flux@3de6")  # as adapters of early versions have it
        True
    """
    known = [each for each in (revision, other_revision) if each and not each.endswith(_UNKNOWN)]
    commits = [each.rpartition("@")[2] for each in known]
    return commits[0] == commits[1] if len(commits) == 2 else base == other_base


def local_file(spec: ModelSpec, name: str) -> Path:
    """Return where a file of the base model is on this machine, or would be: in the folder, or in the hub's cache."""
    if spec.is_folder:
        return Path(spec.path) / name
    from huggingface_hub import try_to_load_from_cache  # only where a model of the hub is meant: half a second

    found = try_to_load_from_cache(spec.path, name, revision=spec.revision or None)
    return Path(found) if isinstance(found, str) else hub_folder() / spec.path / name


def picture_multiple(spec: ModelSpec) -> int | None:
    """Return of how many pixels the sides of pictures must be multiples: twice the VAE's factor; None if it is not here."""
    try:
        config = json.loads(local_file(spec, "vae/config.json").read_text(encoding="utf-8"))
        return int(2 ** len(config["block_out_channels"]))  # each level but the first halves, and latents are packed two by two
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hub_folder() -> Path:
    """Return where the hub client keeps models, below `HF_HOME`."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _refuse_modular(spec: ModelSpec) -> None:
    """Refuse what says in another file what it is, as FLUX.3 does."""
    if why := why_refused(_class_in(Path(spec.path) / "modular_model_index.json")):
        raise ModelError(f"{spec.path}: {why}")


def _require_token(spec: ModelSpec) -> None:
    from huggingface_hub import get_token

    if hub_base(spec.path).is_gated and get_token() is None:
        raise ModelError(
            f"{spec.path}: no such folder, and as a model on the hub it is not here and no token is set: accept its licence at"
            f" https://huggingface.co/{spec.path} if it is gated, create a read token at"
            " https://huggingface.co/settings/tokens, and export HF_TOKEN=..."
        )


def _require_room(spec: ModelSpec, *, encodes: bool) -> None:
    known = hub_base(spec.path)
    remedy = f"free some, or set HF_HOME to a disk with room for {spec.path}"
    require_free_space(hub_folder(), known.download if encodes else known.drawing_download, remedy)
