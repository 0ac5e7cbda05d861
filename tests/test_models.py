"""The detectors against Hugging Face's implementation, and against their own simpler spellings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from huggingface_models import family_of, huggingface_model
from torch import Tensor, nn

from training.boxes import box_cxcywh_to_xyxy, weighting_function
from training.models.anchors import make_anchors
from training.models.decoder import DecoderConfig, build_decoder
from training.models.deformable_attention import DeformableAttention
from training.models.deimv2 import deimv2_config
from training.models.detector import DetectorConfig, build
from training.models.distribution import distance_to_box, integral
from training.models.edge_decoder import CrossAttention, EdgeDecoder, EdgeDecoderConfig
from training.models.layers import ConvNorm
from training.models.outputs import Prediction
from training.models.zoo import MODELS, detector_config
from training.weights.huggingface import map_names


def tiny_config(*, classes: int = 5, size: tuple[int, int] = (64, 96), queries: int = 12) -> DetectorConfig:
    config = deimv2_config("atto", num_classes=classes)
    return replace(config, input_size=size, decoder=replace(config.decoder, num_queries=queries))


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics away from their symmetric or zero start, so that every path matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


def targets(batch: int, classes: int) -> list[dict[str, Tensor]]:
    made = []
    for index in range(batch):
        count = index + 1
        made.append(
            {
                "labels": torch.randint(0, classes, (count,)),
                "boxes": torch.cat([torch.rand(count, 2) * 0.4 + 0.3, torch.rand(count, 2) * 0.3 + 0.05], dim=1),
            }
        )
    return made


def nearest(wanted: Tensor, got: Tensor) -> Tensor:
    """How far each wanted row is from the nearest row that came out: queries may come in another order."""
    return torch.cdist(wanted, got, p=float("inf")).amin(-1)


def parity_config(name: str) -> DetectorConfig:
    """A published model in its full size, but for the image, the classes and the queries."""
    config = detector_config(name, num_classes=7)
    return replace(config, input_size=(96, 128), decoder=replace(config.decoder, num_queries=40))


def distance(mine: Prediction, logits: Tensor, boxes: Tensor) -> float:
    """How far any of their rows of logits and box is from the nearest of ours: queries may come in another order."""
    wanted, got = torch.cat([logits, boxes], dim=-1), torch.cat([mine.logits, mine.boxes], dim=-1)
    assert wanted.std(dim=1).mean() > 0.01, "queries that are all alike prove nothing"
    return float(nearest(wanted, got).max())


def their_layers(output: Any) -> list[tuple[Tensor, Tensor]]:
    """Logits and boxes of every layer that they ran; before D-FINE's first ones come its plain boxes."""
    return list(zip(output.intermediate_logits.unbind(1), output.intermediate_reference_points.unbind(1), strict=True))


def train_but_for_norms(model: nn.Module) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(("edge-", "rtdetrv4-"))])
def test_agrees_with_hugging_face(name: str) -> None:
    """Deployed and in training, all predictions; without targets there are no denoising queries."""
    config = parity_config(name)
    decoder = config.decoder
    assert isinstance(decoder, DecoderConfig)
    theirs = huggingface_model(config)
    ours = build(config).eval()
    missing, unexpected = ours.load_state_dict(map_names(theirs.state_dict(), family_of(config)), strict=False)
    assert not unexpected
    assert all(key.endswith(("anchors", "valid_mask", "num_points_scale")) for key in missing)

    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        mine, reference = ours(images), theirs(images)
        deployed = decoder.eval_layers or 0  # their RT-DETR runs every layer, whatever is deployed
        assert distance(mine.final, *their_layers(reference)[deployed - 1]) < 1e-4
        train_but_for_norms(ours)
        train_but_for_norms(theirs)
        mine, reference = ours(images), theirs(images)
    layers = [*([mine.pre] if mine.pre else []), *mine.auxiliary, mine.final]
    for got, (logits, boxes) in zip(layers, their_layers(reference), strict=True):
        assert distance(got, logits, boxes) < 1e-4
    assert mine.encoder is not None
    assert distance(mine.encoder, reference.enc_topk_logits, reference.enc_topk_bboxes) < 1e-4


def test_training_output_is_complete() -> None:
    config = tiny_config()
    model = build(config).train()
    output = model(torch.rand(3, 3, 64, 96), targets(3, 5))
    meta, queries = output.denoising_meta, config.decoder.num_queries
    assert meta is not None
    assert len(output.auxiliary) == config.decoder.num_layers - 1
    assert len(output.denoising) == config.decoder.num_layers
    for prediction in [output.final, *output.auxiliary]:
        assert prediction.logits.shape == (3, queries, 5)
        assert prediction.boxes.shape == (3, queries, 4)
        assert prediction.corners is not None
        assert prediction.corners.shape == (3, queries, 4 * 33)
        assert prediction.reference is not None
        assert not prediction.reference.requires_grad
    for prediction in output.denoising:
        assert prediction.logits.shape == (3, meta.queries, 5)
    assert output.encoder is not None
    assert output.pre is not None
    assert output.denoising_pre is not None
    assert output.encoder.logits.shape == output.pre.logits.shape == (3, queries, 5)
    assert [tuple(f.shape[-2:]) for f in output.features] == [(4, 6), (2, 3)]
    everything = [output.final, *output.auxiliary, output.encoder, output.pre, *output.denoising, output.denoising_pre]
    loss = sum(p.logits.square().mean() + p.boxes.square().mean() for p in everything)
    assert isinstance(loss, Tensor)
    loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


def tiny_decoder(**changes: Any) -> DecoderConfig:
    """RT-DETR's decoder, small; `changes` to it."""
    config = detector_config("rtdetrv2-r18", num_classes=5).decoder
    assert isinstance(config, DecoderConfig)
    return replace(config, hidden_dim=32, in_channels=24, feedforward_dim=48, num_queries=12, **changes)


def tiny_maps(batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, 24, 64 // stride, 96 // stride, requires_grad=True) for stride in (8, 16, 32)]


def test_direct_boxes_teach_their_layer_and_the_one_before() -> None:
    """Three layers: the last boxes move the box heads of layers 1 and 2, and not that of layer 0."""
    decoder = shaken(build_decoder(tiny_decoder(), (64, 96))).train()
    boxes = decoder(tiny_maps()).final.boxes
    heads = [head.layers[-1].bias for head in decoder.dec_bbox_head]
    first, second, third = torch.autograd.grad(boxes.sum(), heads, allow_unused=True)
    assert first is None
    assert second.abs().sum() > 0
    assert third.abs().sum() > 0


@pytest.mark.parametrize("refinement", ["direct", "distribution"])
def test_training_goes_beyond_the_deployed_layers(refinement: Any) -> None:
    decoder = shaken(build_decoder(tiny_decoder(refinement=refinement, num_layers=4, eval_layers=2), (64, 96))).eval()
    maps = tiny_maps()
    deployed = decoder(maps)
    train_but_for_norms(decoder)
    training = decoder(maps)
    assert len(deployed.queries) == 2
    assert len(training.queries) == 4
    assert len(training.auxiliary) == 3
    torch.testing.assert_close(deployed.final.logits, training.auxiliary[1].logits)
    torch.testing.assert_close(deployed.final.boxes, training.auxiliary[1].boxes)
    assert (training.pre is None) == (refinement == "direct")
    assert (training.final.corners is None) == (refinement == "direct")


@pytest.mark.parametrize("autocast", [False, True])
def test_query_selection_teaches_as_if_every_cell_were_followed(autocast: bool) -> None:
    """Scores of all cells are made without gradients; chosen cells' are not, under autocast's cached weights either."""
    decoder = shaken(build_decoder(tiny_decoder(denoising=0), (64, 96)))
    train_but_for_norms(decoder)
    maps = tiny_maps()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        chosen = decoder(maps).encoder
        projected = [layer(m) for layer, m in zip(decoder.input_proj, maps, strict=True)]
        memory = torch.cat([m.flatten(2).transpose(1, 2) for m in projected], dim=1)
        content = decoder.enc_output(memory * decoder.valid_mask)
        logits, boxes = decoder.enc_score_head(content), (decoder.enc_bbox_head(content) + decoder.anchors).sigmoid()
        index = logits.amax(-1).topk(12, dim=-1).indices
        image = torch.arange(2)[:, None]
        weights = [*decoder.enc_output.parameters(), *decoder.enc_score_head.parameters(), maps[0]]
        losses = [(chosen.logits.float().square().sum() + chosen.boxes.sum())]
        losses.append(logits[image, index].float().square().sum() + boxes[image, index].sum())
    mine, plain = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses)
    for got, wanted in zip(mine, plain, strict=True):
        assert wanted.abs().sum() > 0
        torch.testing.assert_close(got, wanted, atol=0.02 if autocast else 1e-5, rtol=0.05 if autocast else 1e-4)


def test_anchors_made_in_evaluation_serve_training() -> None:
    decoder = shaken(build_decoder(tiny_decoder(), (64, 64)))
    with torch.inference_mode():
        decoder.eval()(tiny_maps())
    made = decoder.anchors_for([(8, 12), (4, 6), (2, 3)], torch.device("cpu"))
    train_but_for_norms(decoder)
    decoder(tiny_maps()).final.boxes.sum().backward()
    again = decoder.anchors_for([(8, 12), (4, 6), (2, 3)], torch.device("cpu"))
    assert made[0] is again[0], "multi-scale training changes the size at every step"
    torch.testing.assert_close(made[0], make_anchors([(8, 12), (4, 6), (2, 3)])[0])


def test_discrete_sampling_reads_one_cell() -> None:
    """RT-DETRv2's definition spelt out, on a map that is wider than high and for locations outside of it."""
    layer = DeformableAttention(8, 2, (3,), sampling="discrete").double()
    shaken(layer)
    query, value = torch.randn(1, 5, 8, dtype=torch.float64), torch.randn(1, 24, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.sampling_offsets.weight.normal_()
    boxes = torch.cat([torch.rand(1, 5, 2) * 1.4 - 0.2, torch.rand(1, 5, 2)], dim=-1).double()
    got = layer(query, boxes, layer.values(value, [(4, 6)]))[0]
    offsets = layer.sampling_offsets(query)[0].view(5, 2, 3, 2)
    weights = layer.attention_weights(query)[0].view(5, 2, 3).softmax(-1)
    for q in range(5):
        for head in range(2):
            total = torch.zeros(4, dtype=torch.float64)
            for p in range(3):
                x, y = (boxes[0, q, :2] + offsets[q, head, p] * boxes[0, q, 2:] * 0.5 / 3).tolist()
                column, row = min(max(int(x * 6 + 0.5), 0), 5), min(max(int(y * 4 + 0.5), 0), 3)
                total = total + weights[q, head, p] * value[0, row * 6 + column].view(2, 4)[head]
            torch.testing.assert_close(got[q].view(2, 4)[head], total)


def test_edge_attention_is_recorded_on_request() -> None:
    config = EdgeDecoderConfig(num_classes=5, hidden_dim=32, feedforward_dim=48, num_queries=7, heads=4)
    decoder = shaken(EdgeDecoder(config)).train()
    maps = [torch.randn(2, 32, 4, 6), torch.randn(2, 32, 2, 3)]
    fused = decoder(maps)
    decoder.record_attention = True
    recorded = decoder(maps)
    assert fused.attention == []
    assert [tuple(a.shape) for a in recorded.attention] == [(2, 4, 7, 30)] * 3
    for attention in recorded.attention:
        assert attention.requires_grad
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 4, 7))
    torch.testing.assert_close(fused.final.logits, recorded.final.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused.final.boxes, recorded.final.boxes)
    assert len(fused.queries) == 3
    torch.testing.assert_close(decoder.class_head(fused.queries[-1]), fused.final.logits)
    assert fused.auxiliary == []
    assert fused.encoder is None


def test_edge_cross_attention_is_pytorchs() -> None:
    ours, theirs = CrossAttention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    shaken(ours)
    theirs.load_state_dict(ours.state_dict())
    x, memory, record = torch.randn(2, 7, 32), torch.randn(2, 30, 32), []
    wanted, attention = theirs(x, memory, memory, average_attn_weights=False)
    torch.testing.assert_close(ours(x, memory), wanted)
    torch.testing.assert_close(ours(x, memory, record), wanted)
    torch.testing.assert_close(record[0], attention)


def test_denoising_queries_do_not_change_the_others() -> None:
    model = shaken(build(tiny_config())).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain, noisy = model(images), model(images, targets(2, 5))
    assert plain.denoising_meta is None
    assert noisy.denoising_meta is not None
    torch.testing.assert_close(plain.final.logits, noisy.final.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.final.boxes, noisy.final.boxes, atol=1e-5, rtol=1e-5)


def test_training_without_objects() -> None:
    model = build(tiny_config()).train()
    empty = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
    output = model(torch.rand(2, 3, 64, 96), empty)
    assert output.denoising_meta is None
    assert output.denoising == []
    assert output.final.logits.isfinite().all()


def test_eval_output_equals_the_training_path() -> None:
    model = shaken(build(tiny_config())).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        training = model(images).final
        model.eval()
        evaluated = model(images)
    torch.testing.assert_close(training.logits, evaluated.final.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(training.boxes, evaluated.final.boxes, atol=1e-6, rtol=1e-5)
    assert evaluated.auxiliary == []
    assert evaluated.encoder is None


def test_any_size_divisible_by_the_stride() -> None:
    config = tiny_config()
    small = shaken(build(config)).eval()
    large = build(replace(config, input_size=(96, 128))).eval()
    anchors = ("decoder.anchors", "decoder.valid_mask")
    large.load_state_dict({k: v for k, v in small.state_dict().items() if k not in anchors}, strict=False)
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(small(images).final.boxes, large(images).final.boxes, atol=1e-6, rtol=1e-5)


def test_batch_elements_do_not_mix() -> None:
    model = shaken(build(tiny_config())).eval()
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        together = model(images).final
        alone = torch.cat([model(image[None]).final.logits for image in images])
    torch.testing.assert_close(together.logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.3, 0.2, -0.7])
@pytest.mark.parametrize("training", [True, False])
def test_affine_block_equals_its_definition(scale: float, training: bool) -> None:
    """The fast spelling of norm, ReLU, scale and shift, with its gradients and statistics, against the plain one."""
    layer = ConvNorm(4, 6, 3, activation="relu", affine=True).double()
    assert layer.lab is not None
    with torch.no_grad():
        layer.lab.scale.fill_(scale)
        layer.lab.bias.fill_(-0.4)
        layer.norm.weight.uniform_(0.5, 1.5)
        layer.norm.bias.uniform_(-0.5, 0.5)
    layer.train(training)
    plain = nn.Sequential(layer.conv, nn.BatchNorm2d(6).double()).train(training)
    plain[1].load_state_dict(layer.norm.state_dict())
    x = torch.randn(3, 4, 5, 7, dtype=torch.float64)
    weights = torch.randn(3, 6, 5, 7, dtype=torch.float64)
    named = {"w": layer.conv.weight, "scale": layer.lab.scale, "shift": layer.lab.bias}
    got = layer(x)
    got_grads = torch.autograd.grad((got * weights).sum(), [*named.values(), layer.norm.weight, layer.norm.bias])
    wanted = scale_and_shift = layer.lab.scale * plain(x).relu() + layer.lab.bias
    grads = torch.autograd.grad((scale_and_shift * weights).sum(), [*named.values(), plain[1].weight, plain[1].bias])
    torch.testing.assert_close(got, wanted)
    for mine, theirs in zip(got_grads, grads, strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(layer.norm.running_var, plain[1].running_var)
    assert layer.norm.num_batches_tracked == plain[1].num_batches_tracked


def test_deformable_attention_against_loops() -> None:
    """One query, one head and one point at a time, with bilinear interpolation spelt out."""
    heads, points, dim, shapes = 2, (3, 1), 8, [(4, 6), (2, 3)]
    layer = DeformableAttention(dim, heads, points).double()
    shaken(layer)
    query = torch.randn(1, 5, dim, dtype=torch.float64)
    # Some boxes reach far outside the map.
    boxes = torch.cat([torch.rand(1, 5, 2) * 1.4 - 0.2, torch.rand(1, 5, 2)], dim=-1).double()
    value = torch.randn(1, sum(h * w for h, w in shapes), dim, dtype=torch.float64)
    got = layer(query, boxes, layer.values(value, shapes))[0]
    offsets = layer.sampling_offsets(query)[0].view(5, heads, 4, 2)
    weights = layer.attention_weights(query)[0].view(5, heads, 4).softmax(-1)
    level_of, starts = [0, 0, 0, 1], [0, 24]
    for q in range(5):
        for head in range(heads):
            total = torch.zeros(dim // heads, dtype=torch.float64)
            for p in range(4):
                height, width = shapes[level_of[p]]
                unit = boxes[0, q, 2:] * 0.5 / points[level_of[p]]
                x, y = (boxes[0, q, :2] + offsets[q, head, p] * unit).tolist()
                x, y = x * width - 0.5, y * height - 0.5
                for column in range(width):
                    for row in range(height):
                        share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                        cell = value[0, starts[level_of[p]] + row * width + column].view(heads, -1)[head]
                        total = total + weights[q, head, p] * share * cell
            torch.testing.assert_close(got[q].view(heads, -1)[head], total)


def test_distances_and_boxes() -> None:
    bins = weighting_function(32, 0.5, 4.0)
    assert torch.equal(bins, -bins.flip(0))
    assert bins[-1] == 4.0
    assert (bins.diff() > 0).all()
    certain = torch.full((1, 4, 33), -50.0)
    for edge, index in enumerate((3, 16, 20, 32)):
        certain[0, edge, index] = 50.0
    distance = integral(certain.flatten(1), bins)
    torch.testing.assert_close(distance, bins[[3, 16, 20, 32]][None])
    reference = torch.tensor([[0.5, 0.4, 0.2, 0.1]])
    moved = box_cxcywh_to_xyxy(distance_to_box(reference, distance, 4.0))
    outward = torch.tensor([[-0.2, -0.1, 0.2, 0.1]]) / 4
    edges = box_cxcywh_to_xyxy(reference) + distance * outward
    torch.testing.assert_close(moved, edges)


def test_anchors() -> None:
    anchors, valid = make_anchors([(2, 128), (1, 1)])
    centres = anchors.sigmoid()[0]
    torch.testing.assert_close(centres[5], torch.tensor([5.5 / 128, 0.25, 0.05, 0.05]))
    torch.testing.assert_close(centres[-1], torch.tensor([0.5, 0.5, 0.1, 0.1]))
    assert not valid[0, 0, 0], "half a cell of 1/128 is nearer than 0.01 to the border"
    assert valid[0, 5, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (100, 64)}, "multiples of 32"),
        ({"input_size": (32, 32)}, "fewer than 12 queries"),
    ],
)
def test_config_is_checked(change: dict[str, tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_config(), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes"):
        tiny_config(classes=0)
    with pytest.raises(ValueError, match="variant"):
        deimv2_config("giant")  # type: ignore[arg-type]
