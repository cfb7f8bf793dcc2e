"""What Ortho-LoRA's start costs against a full SVD, and how near it comes to it.

The time of one layer: principal vectors of a weight, and factors of a random matrix. Beside it the principal angles to
the true vectors, for spectra that fall (as those of trained weights do) and for one that hardly does (a Gaussian
matrix), and tests of the drawn factors against the distribution that they claim.
"""

import argparse
import math
import statistics
from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor

from benchmarks.measure import machine, ratio, take_turns
from tlora.singular_vectors import Triplets, full_triplets, principal_triplets, random_triplets

SVD = "full SVD"
WANTED = 50  # times faster
SLOPES = (1.0, 0.5, 0.3)  # the j-th singular value is j^-slope
SMALL = (48, 32)  # of the matrices that the distribution is tested on: many true SVDs are needed


def main(arguments: Sequence[str] | None = None) -> None:
    """Print times, angles and tests of distribution."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ortho_init", description=main.__doc__)
    parser.add_argument("--smoke", action="store_true", help="a small matrix, one round")
    parser.add_argument("--side", type=int, default=3072)
    parser.add_argument("--rank", type=int, default=64)
    options = parser.parse_args(arguments)
    side, rank, rounds, draws = (256, 8, 1, 50) if options.smoke else (options.side, options.rank, 7, 2000)
    print(f"{machine()}; {side} x {side}, rank {rank}, float32\n")
    gaussian = torch.randn(side, side, generator=_source())
    _print_times(gaussian, rank, rounds)
    _print_angles(gaussian, (rank // 4, rank))
    _print_distribution(draws)


def _print_times(matrix: Tensor, rank: int, rounds: int) -> None:
    side = len(matrix)
    contenders = {
        SVD: lambda: full_triplets(matrix, slice(0, rank)),
        "principal of a weight": lambda: principal_triplets(matrix, rank, _source()),
        "last of a random matrix": lambda: random_triplets(side, side, slice(side - rank, side), _source()),
    }
    seconds = take_turns(contenders, rounds)
    print("| a layer | ms | times faster |\n| --- | --- | --- |")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.0f} | {1 / ratio(seconds, name, SVD):.0f} |")
    print(f"\nWanted: {WANTED} times faster. Last and middle of a weight cost the full SVD.\n")


def _print_angles(gaussian: Tensor, ranks: Sequence[int]) -> None:
    print("| spectrum | rank | energy held | median angle | 9 of 10 below | worst | first half in the space |\n|" + " --- |" * 7)
    side = len(gaussian)
    u, v = (torch.linalg.qr(torch.randn(side, side, generator=_source(seed))).Q for seed in (1, 2))
    values = torch.arange(1, side + 1).float()
    known = [(f"j^-{slope:g}", (u * values**-slope) @ v.T, (v.T, u, values**-slope)) for slope in SLOPES]
    for name, matrix, (vh, left, falling) in [*known, ("Gaussian", gaussian, full_triplets(gaussian, slice(0, side)))]:
        for rank in ranks:
            _print_row(f"{name} | {rank}", matrix, (vh[:rank], left[:, :rank], falling[:rank]))


def _print_row(name: str, matrix: Tensor, true: Triplets) -> None:
    rank = len(true[2])
    vh, _, values = principal_triplets(matrix, rank, _source())
    angles = _degrees(true[0], vh)
    energy = float(values.square().sum() / true[2].square().sum())
    tenths = angles.quantile(torch.tensor([0.5, 0.9, 1.0], dtype=angles.dtype)).tolist()
    shown = " | ".join(f"{angle:.2f}°" for angle in [*tenths, float(_degrees(true[0][: rank // 2], vh).max())])
    print(f"| {name} | {energy:.2%} | {shown} |", flush=True)


def _degrees(true: Tensor, found: Tensor) -> Tensor:
    """Return the principal angles of the true rows to the space of the found ones; by the sine, which is exact for small ones."""
    true, found = true.double(), found.double()
    sines = torch.linalg.svdvals(true - (true @ found.T) @ found).clamp(max=1)
    return sines.asin() * (180 / math.pi)


def _print_distribution(draws: int) -> None:
    outside, inside = SMALL
    true = torch.linalg.svdvals(torch.randn(draws, outside, inside, generator=_source(3)))
    generator = _source(4)
    drawn = [random_triplets(outside, inside, slice(0, inside), generator) for _ in range(draws)]
    values = torch.stack([triplets[2] for triplets in drawn])
    print(f"\n| {draws} drawn matrices of {outside} x {inside} | Kolmogorov-Smirnov p |\n| --- | --- |")
    for name, place in (("largest value", 0), ("middle value", inside // 2), ("last value", inside - 1)):
        print(f"| {name} against true SVDs | {stats.ks_2samp(values[:, place].numpy(), true[:, place].numpy()).pvalue:.2f} |")
    for name, side, entries in (
        ("right", inside, torch.stack([triplets[0][0, 0] for triplets in drawn])),
        ("left", outside, torch.stack([triplets[1][0, 0] for triplets in drawn])),
    ):
        half = (side - 1) / 2  # a coordinate x of a uniform direction has (x + 1) / 2 ~ Beta(half, half)
        tested = stats.kstest(entries.numpy(), stats.beta(half, half, loc=-1, scale=2).cdf)
        print(f"| a coordinate of the {name} vectors against Haar's | {tested.pvalue:.2f} |")


def _source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
