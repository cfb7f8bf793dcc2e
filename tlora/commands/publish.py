"""`tlora publish`: an adapter with card, grid, licences and signature on the Hugging Face hub; without `--yes` none is sent."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from tlora.commands.card import add_evaluation_options, fill_folder
from tlora.errors import SettingsError
from tlora.trust.licences import Licences, licences_here
from tlora.trust.settings import trust_here

ENDPOINT, TOKEN = "HF_ENDPOINT", "HF_TOKEN"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("adapter", type=Path, help="adapter folder or .safetensors file")
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="on the hub; made if it is not there")
    parser.add_argument("--public", action="store_true", help="a repository that is made is seen by all; otherwise it is private")
    parser.add_argument("--yes", action="store_true", help="send it; without, only say what would go")
    add_evaluation_options(parser)


def run(options: argparse.Namespace) -> None:
    """Say what would go, or send it."""
    from tlora.metadata.adapter import find_weights, read_metadata

    file = find_weights(options.adapter)
    _require_name(options.repo)
    licences = licences_here(read_metadata(file).base)
    if not licences.adapter:
        raise SettingsError(
            f"{file}: nobody said under which licence it is: set licence.adapter or licence.base in your settings"
        )
    _require_signed(file)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill_folder(folder, file, options.metrics, options.grid)
        _add_signature(folder, file)
        if options.yes:
            print(_send(folder, options.repo, public=options.public))
        else:
            _say(folder, options.repo, licences, public=options.public)


def _require_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SettingsError(f"--repo {repo!r}: not a name of the hub: {str(error).splitlines()[0]}") from error
    if repo.count("/") != 1:
        raise SettingsError(f"--repo {repo!r}: must be OWNER/NAME, such as ann/brick")


def _require_signed(file: Path) -> None:
    if key := trust_here().verifies_with:
        from tlora.trust.signing import verify_adapter

        verify_adapter(file.parent, key)


def _add_signature(folder: Path, file: Path) -> None:
    """Put the adapter's signature, if it has one, under the name by which it is looked for there."""
    from tlora.trust.signing import ADAPTER_SIGNATURE, signature_of

    signature = signature_of(file)
    if signature.is_file():
        shutil.copyfile(signature, folder / ADAPTER_SIGNATURE)


def _say(folder: Path, repo: str, licences: Licences, *, public: bool) -> None:
    print(f"would go to {repo} ({'public' if public else 'private'}, where it is made):")
    for file in sorted(folder.iterdir()):
        print(f"  {file.name}  {file.stat().st_size:,} bytes")
    print(f"licences: {licences}")
    print("nothing was sent: --yes sends it")


def _send(folder: Path, repo: str, *, public: bool) -> str:
    """Send a folder and return the address of what it has become.

    Raises:
        SettingsError: In one line, if there is no token, or the hub is not reached or refuses.
    """
    from httpx2 import HTTPError  # what the hub's client raises where nobody answers
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        raise SettingsError(f"no token: export {TOKEN} with a write token of yours (https://huggingface.co/settings/tokens)")
    hub = HfApi(endpoint=os.environ.get(ENDPOINT) or None)
    files = [CommitOperationAdd(file.name, file) for file in sorted(folder.iterdir())]
    try:
        hub.create_repo(repo, private=not public, exist_ok=True)
        return str(hub.create_commit(repo, files, commit_message="Publish a T-LoRA adapter").commit_url)
    except HfHubHTTPError as error:
        why = "the token may not write there" if error.response.status_code in (401, 403) else str(error).strip().splitlines()[-1]
        raise SettingsError(f"{hub.endpoint} refused {repo} ({error.response.status_code}): {why}") from error
    except ValueError as error:  # the hub reads the front matter before it takes anything
        raise SettingsError(f"{hub.endpoint} does not take the card: {' '.join(str(error).split())}") from error
    except (HTTPError, ConnectionError, RuntimeError) as error:  # the last one of an upload that broke off
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"{hub.endpoint} was not reached, or broke off: {reason}: run it again") from error
