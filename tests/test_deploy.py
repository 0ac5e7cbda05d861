"""The deployed form against the model it comes from, and what it must and must not contain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_models import nearest, shaken, tiny_config
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.models.deformable_attention import Sampling
from training.models.deploy import deploy
from training.models.deploy.operators import SpeltLayerNorm, SpeltRMSNorm
from training.models.deploy.sampling import DiscreteSampling
from training.models.detector import Detector, DetectorConfig, build
from training.models.edge_decoder import EdgeDecoderConfig
from training.models.layers import RMSNorm
from training.models.zoo import MODELS, detector_config

# One small model per form of backbone, encoder and decoder that the zoo has, at an input that has room for its queries.
FAMILIES = ("atto", "deimv2-n", "dfine-s", "rtdetrv2-r18", "rtdetrv2-r18-dsp", "edge-r18")

# A name for each network of the zoo: names that share one differ in how they are trained.
NETWORKS = tuple({replace(detector_config(name), name=""): name for name in reversed(MODELS)}.values())[::-1]


def small_config(name: str, size: tuple[int, int] = (96, 64)) -> DetectorConfig:
    """A published configuration with few classes and queries; the maps are not square."""
    config = detector_config(name, num_classes=5)
    return replace(config, input_size=size, decoder=replace(config.decoder, num_queries=7))


def forms(config: DetectorConfig) -> tuple[Sampling | None, ...]:
    """The export forms of a model."""
    if isinstance(config.decoder, EdgeDecoderConfig):
        return (None,)
    return ("discrete",) if config.decoder.sampling == "discrete" else ("gather", "grid_sample")


def rows(output: Any) -> Tensor:
    """Rows of logits and box, (B, Q, C + 4), of a deployed form or a prediction."""
    return torch.cat(output if isinstance(output, tuple) else (output.logits, output.boxes), dim=-1)


def difference(model: Detector, deployed: nn.Module, images: Tensor) -> float:
    """The largest difference of a row from the nearest row of the deployed form."""
    with torch.no_grad():
        return float(nearest(rows(model.eval()(images).final), rows(deployed(images))).max())


@pytest.mark.parametrize(
    ("name", "sampling"), [(name, form) for name in FAMILIES for form in forms(detector_config(name))]
)
def test_deployed_form_equals_the_model(name: str, sampling: Sampling | None) -> None:
    model = build(small_config(name))
    shaken(model)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    deployed = deploy(model, sampling=sampling)
    assert difference(model, deployed, torch.rand(2, 3, 96, 64)) < 1e-3
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not [m for m in deployed.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, RMSNorm))]
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(("rtdetrv2-", "rtdetrv4-", "deim-"))])
def test_every_size_deploys(name: str) -> None:
    """With its published depth, less the layers that only training uses. What is left out has networks listed here."""
    model = build(small_config(name, size=(64, 64)))
    deployed = deploy(model)
    # Wrong folding would show: every published branch runs.
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted, got = model.eval()(images).final, deployed(images)
    assert [tuple(tensor.shape) for tensor in got] == [(1, 7, 5), (1, 7, 4)]
    assert nearest(wanted.boxes, got[1]).median() < 1e-3
    layers = getattr(model.config.decoder, "eval_layers", None) or model.config.decoder.num_layers
    assert len(deployed.decoder.layers) == layers
    assert sum(p.numel() for p in deployed.parameters()) <= 1.2 * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("sampling", ["gather", "grid_sample"])
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_negative_scales_and_points_outside(sampling: Sampling, size: tuple[int, int]) -> None:
    model = build(tiny_config())
    shaken(model)
    with torch.no_grad():
        # Negative scales take the other branch of the folding, large offsets sample outside the maps.
        model.backbone.stem.stem1.lab.scale.fill_(-0.8)  # type: ignore[union-attr, operator]
        model.backbone.stages[1].blocks[0].layers[0].lab.scale.fill_(-1.2)  # type: ignore[union-attr, index, operator]
        for layer in model.decoder.layers:
            layer.cross_attn.sampling_offsets.bias.mul_(6)  # type: ignore[union-attr, operator]
    deployed = deploy(model, sampling=sampling, input_size=size)
    assert difference(model, deployed, torch.rand(2, 3, *size)) < 1e-4


def test_discrete_reads_the_cell_that_rtdetrv2_reads() -> None:
    """Without offsets every point is the box's centre; the cell is the one at floor(centre * size + 1/2)."""
    model = build(small_config("rtdetrv2-r18-dsp"))
    attention = model.decoder.layers[0].cross_attn
    shapes = [(4, 6), (2, 3), (2, 2)]
    reader = DiscreteSampling(attention, 12, shapes, layer=1, layers=3)
    with torch.no_grad():
        reader.project.weight.zero_()
        reader.project.bias.zero_()
        reader.output_proj = nn.Identity()
    cells = torch.randn(2, 34, 256)
    table = torch.stack([torch.zeros_like(cells), cells, torch.zeros_like(cells)], dim=2).reshape(2, 34 * 3 * 8, 32)
    boxes = torch.cat([torch.rand(2, 12, 2), torch.full((2, 12, 2), 0.2)], dim=-1)
    got = reader(torch.zeros(2, 12, 256), boxes, [table])
    for image in range(2):
        for query in range(12):
            x, y = boxes[image, query, :2].tolist()
            read = torch.zeros(256)
            for start, (height, width) in zip((0, 24, 30), shapes, strict=True):
                row, column = min(int(y * height + 0.5), height - 1), min(int(x * width + 0.5), width - 1)
                read += cells[image, start + row * width + column] / 3
            torch.testing.assert_close(got[image, query], read)


def test_sampling_is_what_the_model_was_trained_with() -> None:
    bilinear, discrete, edge = (build(small_config(n)) for n in ("atto", "rtdetrv2-r18-dsp", "edge-r18"))
    with pytest.raises(InvalidInputError, match="expected 'gather' or 'grid_sample', as atto was trained, got 'disc"):
        deploy(bilinear, sampling="discrete")
    with pytest.raises(InvalidInputError, match="expected 'discrete', as rtdetrv2-r18-dsp was trained, got 'gather'"):
        deploy(discrete, sampling="gather")
    with pytest.raises(InvalidInputError, match="edge-r18 has no deformable attention"):
        deploy(edge, sampling="gather")


def test_gather_needs_two_cells() -> None:
    model = build(small_config("atto", size=(32, 96)))
    with pytest.raises(InvalidInputError, match="2x2 cells"):
        deploy(model)
    deploy(model, sampling="grid_sample")


@pytest.mark.parametrize("name", ["atto", "dfine-s", "rtdetrv2-r18"])
def test_unusable_anchors_stay_out_of_the_deployed_form(name: str) -> None:
    """Cells next to the border of a large map have infinite anchors; the deployed form holds finite numbers only.

    Their scores are made the best ones, so that all queries come from them.
    """
    model = build(small_config(name, size=(64, 1664)))
    shaken(model)
    assert not bool(model.decoder.valid_mask.all())
    deployed = deploy(model)
    assert all(tensor.isfinite().all() for tensor in deployed.state_dict().values())
    images = torch.rand(1, 3, 64, 1664)
    assert difference(model, deployed, images) < 1e-3
    selection = deployed.decoder.selection
    with torch.no_grad():
        cells, _ = deployed.decoder.memory(deployed.encoder(deployed.backbone(images)).maps)
        selection.masked_score = 1e3
        content, box_logits = selection(cells)
    assert torch.equal(content, selection.masked.expand_as(content))
    assert float(box_logits.max()) > 1e3


def test_spelt_norms_equal_the_layers() -> None:
    layer, rms, x = nn.LayerNorm(16), RMSNorm(16), torch.randn(3, 5, 16) * 4 + 2
    with torch.no_grad():
        for parameter in (*layer.parameters(), *rms.parameters()):
            parameter.add_(torch.randn(16))
    torch.testing.assert_close(SpeltLayerNorm(layer)(x), layer(x))
    torch.testing.assert_close(SpeltRMSNorm(rms)(x), rms(x))
