"""What keeping the base's output costs: a training step of the pocket FLUX with and without it, in turns.

Everything is as in `benchmarks.comparison`; what differs is the share of the samples whose output under the class word is held
to the base's.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial

from accelerate import Accelerator

from benchmarks.comparison.arms import RANK
from benchmarks.comparison.concepts import all_concepts
from benchmarks.comparison.measures import CAPTION, CLASS_CAPTION
from benchmarks.comparison.trial import BASE, BATCH, LEARNING_RATE, TARGETS, Bench
from benchmarks.measure import machine, ratio, take_turns
from pocket.pictures import to_tensor
from tlora.flux.cached import LatentItem
from tlora.flux.model import encode_posterior, load_transformer
from tlora.flux.noise import NoiseSettings
from tlora.inject import inject_tlora_into_transformer
from tlora.metadata.config import TLoRAConfig
from tlora.training.loop import StepReport, Training
from tlora.training.optimizer import OptimizerSettings
from tlora.training.settings import LoopSettings, PreserveSettings, TrainingSettings

OFF = "off"
CONTENDERS = {OFF: PreserveSettings(), **{f"share {share:g}": PreserveSettings(1.0, share) for share in (0.25, 0.5, 1.0)}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preservation", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="one step of each, to see it run")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--cpu-time", action="store_true", help="by the CPU time of this process, for a busy machine")
    options = parser.parse_args(arguments)
    rounds = 1 if options.smoke else options.rounds
    bench = Bench.load()
    steps = {name: training_steps(bench, preservation, rounds + 1) for name, preservation in CONTENDERS.items()}
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds = take_turns({name: partial(next, own) for name, own in steps.items()}, rounds, clock=clock)
    print(f"{machine()}; batch {BATCH}, {'CPU' if options.cpu_time else 'wall'} time\n")
    print("| preserved | ms a step | times off |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.1f} | {ratio(seconds, name, OFF):.2f} |")


def training_steps(bench: Bench, preservation: PreserveSettings, steps: int) -> Iterator[StepReport]:
    """Return the steps of a training on one picture, each taken when it is asked for."""
    concept = all_concepts()[0]
    mean, std = encode_posterior(bench.painter.vae, to_tensor(concept.picture("wall", 0)[None]))
    adapter = TLoRAConfig(rank=RANK, alpha=RANK)
    transformer = load_transformer(BASE)
    inject_tlora_into_transformer(transformer, TARGETS, adapter)
    loop = LoopSettings(steps, train_batch_size=BATCH, gradient_checkpointing=False)
    settings = TrainingSettings(adapter, NoiseSettings(), OptimizerSettings(LEARNING_RATE), loop, preservation)
    training = Training(transformer, settings, Accelerator(cpu=True))
    view, of_class = LatentItem(concept.name, CAPTION, mean[0], std[0]), {CAPTION: CLASS_CAPTION}
    return training.steps([view], [(mean.shape[-2], mean.shape[-1])], lambda captions: bench.read(list(captions)), of_class)


if __name__ == "__main__":
    main()
