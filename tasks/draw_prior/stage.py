"""Stage: draw the base's own pictures of other things, once, or take a folder's, and encode them as what is trained on.

Where none are asked for it leaves an empty index, always the same, in the time that Python takes to start: nothing that comes
after it runs for it, and nothing heavy is imported.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tasks.running.cli import named_section
from tlora.errors import SettingsError
from tlora.flux.prior_folder import PRIOR_LATENTS
from tlora.flux.spec import ModelSpec
from tlora.metadata.concept import read_concept
from tlora.runtime.atomic_file import write_json
from tlora.runtime.ranges import MOST_PICTURES, MOST_STEPS, require_seed, require_strength, require_whole


@dataclass(frozen=True)
class DrawPriorSettings:
    """How many pictures, and how they are drawn, or where they are taken from.

    Args:
        pictures: Of each size that is trained on, the prompts in turn; 0 draws none. With a folder: how many of its pictures are
            taken at most, the first by name; 0 takes all.
        folder: Of pictures with captions, which then are the prior pictures, and none is drawn; empty for none.
        num_inference_steps: Denoising steps.
        guidance_scale: As for `SampleSettings`.
        first_seed: Of the first picture; each has the next one.
    """

    pictures: int = 0
    folder: str = ""
    num_inference_steps: int = 25
    guidance_scale: float = 3.5
    first_seed: int = 2000

    def __post_init__(self) -> None:
        require_whole("pictures", self.pictures, least=0, most=MOST_PICTURES)
        require_whole("num_inference_steps", self.num_inference_steps, most=MOST_STEPS)
        require_strength("guidance_scale", self.guidance_scale, least=0.0)
        require_seed("first_seed", self.first_seed)

    @property
    def makes_any(self) -> bool:
        """Whether there will be prior pictures."""
        return bool(self.pictures or self.folder)


def draw_prior(
    settings: DrawPriorSettings, model: ModelSpec, *, prompts: Path, latents: Path, data: Path, concept: Path, prior: Path
) -> None:
    """Draw pictures of concept.yaml's `other_prompts` with the bare base, or take those of a folder, and encode them.

    Args:
        settings: Section `draw_prior`.
        model: Section `model`.
        prompts: Cached embeddings of the evaluation prompts, other_prompts among them.
        latents: Cached views of the training pictures, for their sizes.
        data: What data.dvc versions; a folder of prior pictures lies below it.
        concept: concept.yaml, for the prompts and the trigger word.
        prior: Output folder: pictures, latents, embeddings of their captions, and a grid of a few.
    """
    if prior.exists():
        shutil.rmtree(prior)
    if not settings.makes_any:
        write_json(prior / PRIOR_LATENTS / "index.json", {"items": []})
        print("draw_prior: none are asked for (draw_prior.pictures is 0)", flush=True)
        return
    described = read_concept(concept)
    if settings.folder:
        from tasks.draw_prior.folder import list_prior_pictures  # pillow, which a stage that does nothing does without

        with named_section("draw_prior"):
            found = list_prior_pictures(Path(settings.folder), described.trigger, data, settings.pictures)
        from tasks.draw_prior.encoding import FolderEncoder  # torch and diffusers, likewise

        FolderEncoder(model, prompts, latents).fill(prior, settings.folder, found)
        return
    texts = described.other_prompts
    if not texts:
        with named_section("draw_prior"):
            raise SettingsError(f"pictures is {settings.pictures}, and other_prompts of {concept} is empty: name what to draw")
    from tasks.draw_prior.drawing import PriorDrawer  # likewise

    drawer = PriorDrawer(model, settings.num_inference_steps, settings.guidance_scale, prompts, latents)
    drawer.fill(prior, texts, range(settings.first_seed, settings.first_seed + settings.pictures))
