"""What Ortho-LoRA starts from: some singular triplets of a weight or of a random matrix, without a full SVD where there is a way.

An SVD is O(n^3), seconds for each layer of FLUX.1. A random matrix is drawn by its factors, which is exact in distribution. The
principal vectors of a weight come from a block Krylov space, which is approximate. The last and the middle ones of a weight
have no such way: they cost a full SVD, and `TLoRAConfig.starting_line` says so.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tlora.errors import InjectionError
from tlora.flux.quantise import plain_weight
from tlora.metadata.config import SigType, TLoRAConfig

Triplets = tuple[Tensor, Tensor, Tensor]
BLOCK = 32  # columns that one product with the matrix takes: fewer read it too often, more converge later
EXTRA = 32  # columns of the space beyond twice the rank
SMALL = 256  # below it a full SVD costs milliseconds
LEAST = 4  # blocks: of a small rank too little converges in fewer


def principal_triplets(matrix: Float[Tensor, "out in"], rank: int, generator: torch.Generator | None) -> Triplets:
    """Return vh (rank, in), u (out, rank) and values (rank,) of the largest singular values, in falling order.

    They are the triplets of the matrix as projected on a space of 2 rank + 32 columns, at least 128: u and vh are
    orthonormal to rounding, values never exceed the true ones, and u.T @ matrix @ vh.T is their diagonal. How near they
    come to the true ones depends on the spectrum. At 3072 x 3072, with values that fall as j^-0.5, all 16 of rank 16 are
    within 0.3 degrees; those of rank 64 hold 99.7 % of the energy of the true ones, and the first half of the directions
    is within 0.7 degrees. In a Gaussian matrix, whose values hardly fall, they hold 89 %, and single directions are far
    off: nothing sets the 64th apart from the 65th. `benchmarks/ortho_init.py` measures it.

    Args:
        matrix: In float32; a small one is decomposed exactly.
        rank: Triplets wanted, at most the smaller side.
        generator: Source of the start, on the CPU.

    Source:
        Musco and Musco, Randomized Block Krylov Methods (arXiv:1504.05477), algorithm 2.
    """
    blocks = max(LEAST, math.ceil((2 * rank + EXTRA) / BLOCK))
    if 2 * blocks * BLOCK > min(matrix.shape):
        return full_triplets(matrix, slice(0, rank))
    outside, inside = matrix.shape
    seen = torch.empty(inside, BLOCK).normal_(generator=generator).to(matrix.device)
    space, images = matrix.new_empty(outside, blocks * BLOCK), matrix.new_empty(inside, blocks * BLOCK)
    for first in range(0, blocks * BLOCK, BLOCK):
        block = matrix @ seen
        for _ in range(3 if first else 1):  # twice leaves what rounding brings in where the matrix has nothing new to give
            block = torch.linalg.qr(block - space[:, :first] @ (space[:, :first].T @ block)).Q
        seen = (block.T @ matrix).T
        space[:, first : first + BLOCK], images[:, first : first + BLOCK] = block, seen
    basis, corner = torch.linalg.qr(images)  # of a matrix so narrow this and a small SVD take a third of its SVD
    u, values, vh = torch.linalg.svd(corner.T)
    return vh[:rank] @ basis.T, space @ u[:, :rank], _copy(values[:rank])


def full_triplets(matrix: Float[Tensor, "out in"], chosen: slice) -> Triplets:
    """Return the chosen vh, u and values by a full SVD."""
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    return _copy(vh[chosen]), _copy(u[:, chosen]), _copy(values[chosen])


def exact_triplets(matrix: Float[Tensor, "out in"], rank: int, sig_type: SigType) -> Triplets:
    """Return the triplets that `sig_type` names to rounding, as somebody else's full SVD of the same matrix found them.

    What is learnt beside initial factors that are not in its file is nothing but the difference from them, so here a direction
    that is a third of a degree off is an error of the size of what was learnt. Of a large matrix the principal ones come from
    ARPACK's restarted Lanczos; the others cost a full SVD.
    """
    shorter = min(matrix.shape)
    if sig_type != "principal" or 4 * rank > shorter or shorter < SMALL:
        return full_triplets(matrix, chosen_vectors(shorter, rank, sig_type))
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(shorter)
    u, values, vh = svds(matrix.double().numpy(), k=rank, v0=start, solver="arpack")  # in rising order
    q, p, strengths = (torch.from_numpy(found.copy()).float() for found in (vh[::-1], u[:, ::-1], values[::-1]))
    return q, p, strengths


def chosen_vectors(shorter: int, rank: int, sig_type: SigType) -> slice:
    """Return which of the singular vectors, in falling order, `sig_type` names."""
    first = {"principal": 0, "middle": (shorter - rank) // 2, "last": shorter - rank}[sig_type]
    return slice(first, first + rank)


def random_triplets(outside: int, inside: int, chosen: slice, generator: torch.Generator | None) -> Triplets:
    """Draw the chosen vh, u and values of a matrix of independent standard normal entries, without the matrix.

    In distribution this is exact. The vectors are Haar-distributed and independent of the values, so that any of them
    are as good as any others; the values are those of the bidiagonal matrix of chi variables to which Householder
    reflections bring such a matrix.

    Source:
        Edelman, Eigenvalues and condition numbers of random matrices (1988); Mezzadri, How to generate random
        matrices from the classical compact groups (arXiv:math-ph/0609050), for the signs.
    """
    rank = chosen.stop - chosen.start
    vh = _haar(inside, rank, generator).T.contiguous()
    u = _haar(outside, rank, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    values = _gaussian_values(max(outside, inside), min(outside, inside), chosen, np.random.default_rng(seed))
    return vh, u, torch.from_numpy(values).float()


def _haar(size: int, columns: int, generator: torch.Generator | None) -> Tensor:
    q, r = torch.linalg.qr(torch.empty(size, columns).normal_(generator=generator))
    return q * r.diagonal().sign()  # without it they would lean to what the QR routine likes


def _gaussian_values(longer: int, shorter: int, chosen: slice, source: np.random.Generator) -> np.ndarray:
    """Return singular values, in falling order, of a random bidiagonal matrix; O(shorter) for each."""
    from scipy.linalg import eigvalsh_tridiagonal  # a fifth of a second that no other way of starting needs

    diagonal = source.chisquare(np.arange(longer, longer - shorter, -1))
    above = source.chisquare(np.arange(shorter - 1, 0, -1))
    squares = diagonal + np.concatenate([[0.0], above])
    first, last = shorter - chosen.stop, shorter - chosen.start - 1  # in rising order
    found = eigvalsh_tridiagonal(squares, np.sqrt(diagonal[:-1] * above), select="i", select_range=(first, last))
    return np.sqrt(np.maximum(found[::-1], 0.0))


def _copy(view: Tensor) -> Tensor:
    """Let go of the decomposition: a view, contiguous or not, keeps the whole of it in memory."""
    return view.clone(memory_format=torch.contiguous_format)


def singular_factors(
    base: nn.Module, cfg: TLoRAConfig, shape: tuple[int, int], generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q (rank, in), p (out, rank) and the singular values (rank,) that the config asks for."""
    chosen = chosen_vectors(min(shape), cfg.rank, cfg.sig_type)
    if cfg.svd_source == "random":
        q, p, strengths = random_triplets(*shape, chosen, generator)
        return q, p, strengths / cfg.rank
    weight = plain_weight(base)
    if weight is None:
        raise InjectionError("svd_source 'weight' needs a base that can be restored to plain weights: use svd_source 'random'")
    return principal_triplets(weight, cfg.rank, generator) if cfg.sig_type == "principal" else full_triplets(weight, chosen)
