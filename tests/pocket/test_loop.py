"""The training loop continues to the same bits, whichever optimizers it holds."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pocket.loop import Draw, Learner, Recipe, inner_matrices, train


class Network(nn.Module):
    """A layer that takes in, one inside, and one that gives out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedder, self.inner, self.proj_out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the three layers."""
        return self.proj_out(self.inner(self.embedder(x)).tanh())


def run(folder: Path, *, muon: bool, stops: tuple[int, ...]) -> dict[str, Tensor]:
    """Train to step 6, stopping in between, and return the whole state."""
    folder.mkdir()
    for stop in (*stops, 6):
        network = Network()
        learner = Learner([network], Recipe("n", 1, 6, 1e-2, 0.01, 0.9, warmup=2, muon=muon))

        def loss_at(step: int, draw: Draw, network: Network = network, learner: Learner = learner, stop: int = stop) -> Tensor:
            if step == stop:
                learner.save(folder / "n.safetensors")
                raise InterruptedError
            return network(torch.randn(4, 3, generator=draw.torch)).square().mean()

        try:
            train(learner, loss_at, folder)
        except InterruptedError:
            continue
    return load_file(folder / "n.safetensors")


@pytest.mark.parametrize("muon", [False, True])
def test_stopped_twice_it_ends_in_the_same_bits(tmp_path: Path, muon: bool):
    unbroken, stopped = run(tmp_path / "a", muon=muon, stops=()), run(tmp_path / "b", muon=muon, stops=(2, 5))
    assert unbroken.keys() == stopped.keys()
    assert ("momentum_buffer.2" in unbroken) == muon
    assert all(torch.equal(unbroken[name], stopped[name]) for name in unbroken)


def test_muon_gets_the_inner_matrices_alone():
    network = Network()
    assert [id(weight) for weight in inner_matrices([network])] == [id(network.inner.weight)]
