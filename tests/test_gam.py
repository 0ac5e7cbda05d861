"""The adaptive weight where shares of the gradient are known; the same in one process, in two, and under DDP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.distillation.distiller import Distiller
from training.distillation.gam import AdaptiveWeight, gradient_share
from training.distillation.terms import parse_terms
from training.models.outputs import DetectorOutput, Prediction, TeacherOutput, Widths

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("gam_run.py")


class Toy(nn.Module):
    """Three parameters in an "encoder", two elsewhere. Gradients of the losses are constants.

    The detector's loss has the gradient 0.5 on each encoder parameter and 4 on each other one; the distilled loss has
    2 on each encoder parameter, none elsewhere. So the encoder's share at a weight w is (1.5 + 6 w) / (9.5 + 6 w).
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rest = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * self.encoder.sum() + 4 * self.rest.sum() + weight.float() * 2 * self.encoder.sum()


def share_at(weight: float) -> float:
    return (1.5 + 6 * weight) / (9.5 + 6 * weight)


def steps(adaptive: AdaptiveWeight, count: int) -> Toy:
    toy = Toy()
    for _ in range(count):
        toy.zero_grad()
        toy(adaptive.weight).backward()
        adaptive.observe(gradient_share([toy.encoder], toy.parameters()))
    return toy


@pytest.mark.parametrize("weight", [0.01, 0.3, 5.0, 400.0])
@pytest.mark.parametrize(("rho", "delta"), [(0.4, 0.02), (0.6, 0.05), (0.2, 0.01)])
def test_the_share_comes_to_its_band(weight: float, rho: float, delta: float) -> None:
    adaptive = AdaptiveWeight(weight, rho=rho, delta=delta, every=4)
    steps(adaptive, 4 * 40)
    assert rho - delta <= share_at(float(adaptive.weight)) <= rho + delta
    assert float(adaptive.last_share) == pytest.approx(share_at(float(adaptive.weight)), abs=1e-6)


def test_one_update_is_the_papers_formula() -> None:
    adaptive = AdaptiveWeight(1.0, rho=0.3, delta=0.01, every=5)
    steps(adaptive, 4)
    assert float(adaptive.weight) == 1.0
    steps(adaptive, 1)
    p = share_at(1.0)
    assert float(adaptive.weight) == pytest.approx(0.3 * (1 - p) / (p * (1 - 0.3)), rel=1e-6)


@pytest.mark.parametrize(("weight", "expected"), [(1e-5, 1e-4), (1e6, 1e5)])
def test_an_update_is_limited(weight: float, expected: float) -> None:
    adaptive = AdaptiveWeight(weight, rho=0.8, delta=0.01, every=1)
    steps(adaptive, 1)
    assert float(adaptive.weight) == pytest.approx(expected, rel=1e-6)


def test_a_target_out_of_reach_does_not_lose_the_weight() -> None:
    """Without any weight the encoder has 0.158 of the gradient; the weight falls to a floor, from which it can rise."""
    adaptive = AdaptiveWeight(1.0, rho=0.05, delta=0.01, every=1)
    steps(adaptive, 50)
    assert float(adaptive.weight) == pytest.approx(1e-6)


def test_inside_of_the_band_nothing_changes() -> None:
    adaptive = AdaptiveWeight(1.0, rho=share_at(1.0) + 0.01, delta=0.02, every=2)
    steps(adaptive, 20)
    assert float(adaptive.weight) == 1.0


def test_loss_scales_and_clipping_do_not_matter() -> None:
    toy = Toy()
    (toy(torch.tensor(1.0)) * 1024).backward()
    scaled = gradient_share([toy.encoder], toy.parameters())
    nn.utils.clip_grad_norm_(toy.parameters(), 0.1)
    clipped = gradient_share([toy.encoder], toy.parameters())
    assert float(scaled) == pytest.approx(share_at(1.0), rel=1e-6)
    assert float(clipped) == pytest.approx(share_at(1.0), rel=1e-6)


def test_parameters_without_a_gradient_count_as_zero() -> None:
    toy = Toy()
    toy.rest.sum().backward()
    assert float(gradient_share([toy.encoder], toy.parameters())) == 0
    assert float(gradient_share([toy.encoder], [])) == 0


def test_nothing_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """No value is brought to the host, whatever the device: neither by item() nor by a truth value."""
    adaptive = AdaptiveWeight(1.0, rho=0.3, delta=0.01, every=1)

    def refuse(*_: object) -> None:
        raise AssertionError("waited for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, refuse)
    steps(adaptive, 3)


def test_the_distiller_uses_the_adapted_weight() -> None:
    widths = Widths(features=(4,), semantic=4)
    distiller = Distiller(
        parse_terms(["dsi:weight=2,rho=0.3,every=1"]), student=widths, teachers={"t": Widths(semantic=4)}, epochs=1
    )
    output = DetectorOutput(
        final=Prediction(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)), features=[torch.randn(1, 4, 2, 2)]
    )
    teacher = {"t": TeacherOutput(patches=torch.randn(1, 4, 2, 2))}
    before = float(distiller(output, teacher, epoch=0)["distil/dsi"].detach())
    distiller.adaptive["dsi"].weight.mul_(3)  # type: ignore[operator, union-attr]
    assert float(distiller(output, teacher, epoch=0)["distil/dsi"].detach()) == pytest.approx(3 * before, rel=1e-6)
    assert distiller.report()["gam/dsi/weight"] == 6


def test_one_process_two_and_ddp_agree(tmp_path: Path) -> None:
    """Other gradients in each process; the weights of both ranks, with and without DDP, are those of one process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'python'}:{ROOT}"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for prefix in ([], launcher):
        done = subprocess.run(
            [sys.executable, *prefix, str(SCRIPT), str(tmp_path)],
            capture_output=True, text=True, env=environment, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    alone = load_file(tmp_path / "plain-1-0.safetensors")["weights"]
    assert len(set(alone.tolist())) > 3
    for name in ("plain-2-0", "plain-2-1", "ddp-2-0", "ddp-2-1"):
        torch.testing.assert_close(load_file(tmp_path / f"{name}.safetensors")["weights"], alone, rtol=1e-6, atol=0)
    assert torch.equal(*(load_file(tmp_path / f"plain-2-{rank}.safetensors")["weights"] for rank in (0, 1)))
