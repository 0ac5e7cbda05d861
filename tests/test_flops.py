"""Parameters and FLOPs against the published figures, each counted as its publishers count."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from training.cli import main
from training.models.complexity import Complexity, complexity
from training.models.detector import build
from training.models.zoo import MODELS, detector_config

# Millions of parameters and GFLOPs as in the README of each repository; by size, since heirs keep their networks.
RT_DETR = {"r18": (20, 60), "r34": (31, 92), "r50m": (36, 100), "r50": (42, 136), "r101": (76, 259)}
D_FINE = {"n": (4, 7), "s": (10, 25), "m": (19, 57), "l": (31, 91), "x": (62, 202)}
DEIM_V2 = {"atto": (0.5, 0.8), "femto": (1.0, 1.7), "pico": (1.5, 5.2), "deimv2-n": (3.6, 6.8)}
EDGE = {"edge-r18": 15_948_564, "edge-r50": 28_869_908}


@cache
def counted(name: str) -> Complexity:
    return complexity(detector_config(name))


def test_every_model_has_a_published_figure() -> None:
    sizes = {"rtdetr": RT_DETR, "rtdetrv2": RT_DETR, "dfine": D_FINE, "deim": D_FINE, "rtdetrv4": D_FINE}
    for name in set(MODELS) - {*DEIM_V2, *EDGE}:
        family, size, *_ = name.split("-")
        assert size in sizes[family]


# Of the families that take over a network, one each.
@pytest.mark.parametrize("name", [*(f"rtdetr-{size}" for size in RT_DETR), "rtdetrv2-r18", "rtdetrv2-r18-dsp"])
def test_rt_detr_as_published(name: str) -> None:
    """Counted before branches are folded; parameters cut to whole millions, those of unused layers included."""
    parameters, gflops = RT_DETR[name.split("-")[1]]
    figures = counted(name)
    assert figures.parameters // 10**6 == parameters
    total = (figures.flops + figures.branch_flops) / 1e9
    # Norms, activations and sampling are missing from ours.
    assert gflops * 0.98 - 0.5 < total < gflops + 0.5


@pytest.mark.parametrize("name", [*(f"dfine-{size}" for size in D_FINE), "deim-n", "rtdetrv4-s"])
def test_d_fine_as_published(name: str) -> None:
    """Counted on the deployed network, layers only."""
    parameters, gflops = D_FINE[name.split("-")[1]]
    figures = counted(name)
    assert round(figures.deployed_parameters / 1e6) == parameters
    assert round(figures.layer_flops / 1e9) == gflops


@pytest.mark.parametrize("name", DEIM_V2)
def test_deimv2_as_published(name: str) -> None:
    """Counted as D-FINE, but so small that norms and activations, which ours leave out, show in the digits given."""
    parameters, gflops = DEIM_V2[name]
    figures = counted(name)
    assert round(figures.deployed_parameters / 1e6, 1) == parameters
    assert gflops * 0.98 - 0.05 < figures.layer_flops / 1e9 < gflops + 0.05


@pytest.mark.parametrize("name", EDGE)
def test_edge_as_published(name: str) -> None:
    assert counted(name).parameters == EDGE[name]


def test_what_is_counted() -> None:
    config = detector_config("atto", num_classes=3)
    model = build(config)
    figures = complexity(config)
    assert figures.parameters == sum(p.numel() for p in model.parameters())
    assert figures.flops == figures.layer_flops + figures.attention_flops
    # Self-attention among the queries: two products per layer.
    decoder = config.decoder
    assert figures.attention_flops == decoder.num_layers * 4 * decoder.num_queries**2 * decoder.hidden_dim
    # The 1x1 branches: two in each of the two layers of either block, on maps of stride 16 and 32.
    inner = model.encoder.fpn_block.cv2[1].conv.in_channels
    cells = sum((config.input_size[0] // stride) ** 2 for stride in (16, 32))
    assert figures.branch_flops == 4 * cells * (2 * inner**2)


def test_counting_makes_no_weights_and_leaves_nothing_behind() -> None:
    config = detector_config("rtdetr-r18", input_size=(160, 160))
    complexity(config)
    output = build(config).eval()(torch.rand(1, 3, 160, 160))
    assert type(output.final.boxes.detach()) is torch.Tensor


def test_flops_grow_with_the_input() -> None:
    small = complexity(detector_config("pico", input_size=(320, 320)))
    large = complexity(detector_config("pico", input_size=(640, 640)))
    assert 3.5 < large.layer_flops / small.layer_flops < 4
    assert large.deployed_parameters == small.deployed_parameters


def test_the_command_lists_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "atto", "deimv2-n"]) == 0
    heading, atto, n = capsys.readouterr().out.splitlines()
    assert heading.split() == ["model", "input", "parameters", "deployed", "GFLOPs"]
    assert atto.split() == ["atto", "320x320", "0.51", "M", "0.49", "M", "0.76"]
    assert n.split()[:2] == ["deimv2-n", "640x640"]
    assert main(["models", "atto", "otto"]) == 2
    assert "expected one of" in capsys.readouterr().err
