"""One process of tests/test_gam.py: `gam_run.py FOLDER`, alone or under torchrun. Writes the weight of every step."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from training.distillation.gam import AdaptiveWeight, gradient_share
from training.distributed import Processes
from training.files import write_tensors


class Network(nn.Module):
    """Two layers, the first of which is watched."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.encoder(x).tanh()
        return inner, self.head(inner)


def weights(model: nn.Module, network: Network, processes: Processes) -> Tensor:
    """The adaptive weight after each of 12 steps on this process's part of the batches."""
    adaptive = AdaptiveWeight(1.0, rho=0.5, delta=0.02, every=2)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(12):
        x = torch.randn(8, 6, generator=generator)
        wanted = torch.randn(8, 5, generator=generator)
        rows = slice(8 * processes.rank // processes.world, 8 * (processes.rank + 1) // processes.world)
        network.zero_grad()
        inner, out = model(x[rows])
        (out.square().mean() + adaptive.weight.float() * (inner - wanted[rows]).square().mean()).backward()
        if model is network:
            processes.average_gradients(list(network.parameters()))
        adaptive.observe(gradient_share(list(network.encoder.parameters()), network.parameters()))
        found.append(adaptive.weight.clone())
    return torch.stack(found)


def main() -> None:
    folder, processes = Path(sys.argv[1]), Processes.of_launch()
    torch.set_num_threads(1)
    with processes.joined(torch.device("cpu")):
        kinds = {"plain": lambda network: network}
        if processes.world > 1:
            kinds["ddp"] = nn.parallel.DistributedDataParallel
        for name, wrap in kinds.items():
            network = Network()
            found = weights(wrap(network), network, processes)
            write_tensors(folder / f"{name}-{processes.world}-{processes.rank}.safetensors", {"weights": found})


if __name__ == "__main__":
    main()
