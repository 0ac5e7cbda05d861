"""The detectors against Hugging Face's implementation, against their own simpler spellings, and against bad weights."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.boxes import box_cxcywh_to_xyxy, weighting_function
from training.models.anchors import make_anchors
from training.models.deformable_attention import DeformableAttention
from training.models.deimv2 import Variant, deimv2_config
from training.models.detector import Detector, DetectorConfig, build
from training.models.distribution import distance_to_box, integral
from training.models.layers import ConvNorm



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


# The published code's names inside Hugging Face's model, as rules from ours.
HUGGING_FACE = [
    (r"^backbone\.stem\.(.*?)\.conv\.", r"model.conv_encoder.model.embedder.\1.convolution."),
    (r"^backbone\.stem\.(.*?)\.norm\.", r"model.conv_encoder.model.embedder.\1.normalization."),
    (r"^backbone\.stem\.", r"model.conv_encoder.model.embedder."),
    (r"^backbone\.stages\.(.*)\.conv\.", r"model.conv_encoder.model.encoder.stages.\1.convolution."),
    (r"^backbone\.stages\.(.*)\.norm\.", r"model.conv_encoder.model.encoder.stages.\1.normalization."),
    (r"^backbone\.stages\.", r"model.conv_encoder.model.encoder.stages."),
    (r"^encoder\.down_sample(\d)\.mix\.", r"model.encoder.down_conv\1."),
    (r"^encoder\.bi_fusion\.", "model.encoder.bi_fusion_conv."),
    (r"^encoder\.(fpn|pan)_block\.cv1\.", r"model.encoder.\1_block.conv1."),
    (r"^encoder\.(fpn|pan)_block\.cv4\.", r"model.encoder.\1_block.conv2."),
    (r"^encoder\.(fpn|pan)_block\.cv2\.0\.", r"model.encoder.\1_block.csp_rep1."),
    (r"^encoder\.(fpn|pan)_block\.cv2\.1\.", r"model.encoder.\1_block.csp_rep1.conv2."),
    (r"^encoder\.(fpn|pan)_block\.cv3\.0\.", r"model.encoder.\1_block.csp_rep2."),
    (r"^encoder\.(fpn|pan)_block\.cv3\.1\.", r"model.encoder.\1_block.csp_rep2.conv2."),
    (r"^encoder\.input_proj\.", "model.encoder.input_proj."),
    (r"^decoder\.(enc_\w+|denoising_class_embed)\.", r"model.\1."),
    (r"^decoder\.dec_score_head\.", "model.decoder.class_embed."),
    (r"^decoder\.dec_bbox_head\.", "model.decoder.bbox_embed."),
    (r"^decoder\.(layers\.\d)\.self_attn\.out_proj\.", r"model.decoder.\1.self_attn.o_proj."),
    (r"^decoder\.(layers\.\d)\.norm1\.scale", r"model.decoder.\1.self_attn_layer_norm.weight"),
    (r"^decoder\.(layers\.\d)\.norm2\.scale", r"model.decoder.\1.encoder_attn_layer_norm.weight"),
    (r"^decoder\.(layers\.\d)\.norm3\.scale", r"model.decoder.\1.final_layer_norm.weight"),
    (r"^decoder\.(layers\.\d)\.cross_attn\.", r"model.decoder.\1.encoder_attn."),
    (r"^decoder\.(layers\.\d)\.swish_ffn\.w3\.", r"model.decoder.\1.mlp.down_proj."),
    (r"^decoder\.", "model.decoder."),
]


def hugging_face_state(model: Detector) -> dict[str, Tensor]:
    state = {}
    for name, tensor in model.state_dict().items():
        if name in ("decoder.anchors", "decoder.valid_mask"):
            continue
        if match := re.match(r"decoder\.(layers\.\d)\.self_attn\.in_proj_(\w+)$", name):
            for part, chunk in zip("qkv", tensor.chunk(3), strict=True):
                state[f"model.decoder.{match[1]}.self_attn.{part}_proj.{match[2]}"] = chunk
        elif match := re.match(r"decoder\.(layers\.\d)\.swish_ffn\.w12\.(\w+)$", name):
            for part, chunk in zip(("gate", "up"), tensor.chunk(2), strict=True):
                state[f"model.decoder.{match[1]}.mlp.{part}_proj.{match[2]}"] = chunk
        else:
            renamed = next(re.sub(a, b, name) for a, b in HUGGING_FACE if re.search(a, name))
            state[renamed] = tensor
            if "class_embed" in renamed or "bbox_embed" in renamed:
                state[renamed.removeprefix("model.decoder.")] = tensor
    return state


def hugging_face_model(config: DetectorConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the oracle is Hugging Face's Deimv2")
    if not hasattr(transformers, "Deimv2ForObjectDetection"):
        pytest.skip("this transformers has no Deimv2")
    stages, decoder = config.backbone.stages, config.decoder
    backbone = transformers.HGNetV2Config(
        stem_channels=list(config.backbone.stem),
        stage_in_channels=[s.in_channels for s in stages],
        stage_mid_channels=[s.mid_channels for s in stages],
        stage_out_channels=[s.out_channels for s in stages],
        stage_num_blocks=[s.blocks for s in stages],
        stage_downsample=[s.downsample for s in stages],
        stage_light_block=[s.light for s in stages],
        stage_kernel_size=[s.kernel for s in stages],
        stage_numb_of_layers=[s.layers for s in stages],
        stage_downsample_strides=[2] * len(stages),
        use_learnable_affine_block=True,
        depths=[1] * len(stages),
        hidden_sizes=[s.out_channels for s in stages],
        out_indices=[len(stages)],
    )
    made = transformers.Deimv2ForObjectDetection(
        transformers.Deimv2Config(
            backbone_config=backbone,
            freeze_backbone_batch_norms=False,
            encoder_type="lite",
            encoder_hidden_dim=config.encoder.hidden_dim,
            encoder_in_channels=list(config.encoder.in_channels),
            hidden_expansion=config.encoder.expansion,
            depth_mult=0.5,
            feat_strides=list(decoder.strides),
            d_model=decoder.hidden_dim,
            decoder_in_channels=[decoder.hidden_dim] * 2,
            num_queries=decoder.num_queries,
            decoder_ffn_dim=decoder.feedforward_dim,
            num_feature_levels=2,
            decoder_n_points=list(decoder.points),
            decoder_layers=decoder.num_layers,
            decoder_activation_function="silu",
            use_gateway=False,
            share_bbox_head=True,
            num_labels=decoder.num_classes,
        )
    )
    assert isinstance(made, nn.Module)
    # Where that port departs from the published code: a projection in front of the query selection, the position of a
    # query following its box from layer to layer, and ReLU in the heads.
    made.model.enc_output = nn.Identity()
    made.model.decoder.query_pos_head = _Once(made.model.decoder.query_pos_head)
    for module in made.modules():
        if type(module).__name__ == "Deimv2MLP":
            module.act = nn.SiLU()
    return made.eval()


class _Once(nn.Module):
    """Answers every call as it answered the first."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers.layers
        self.inner = [layers]
        self.answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.answer is None:
            self.answer = self.inner[0](x)
        return self.answer


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("variant", ["atto", "femto", "pico"])
def test_agrees_with_hugging_face(variant: Variant) -> None:
    config = deimv2_config(variant, num_classes=7, input_size=(320, 256))
    ours = shaken(build(config)).eval()
    theirs = hugging_face_model(config)
    missing, unexpected = theirs.load_state_dict(hugging_face_state(ours), strict=False)
    assert not unexpected
    assert not missing
    images = torch.rand(2, 3, 320, 256)
    with torch.no_grad():
        mine, reference = ours(images).final, theirs(images)
    wanted = torch.cat([reference.logits, reference.pred_boxes], dim=-1)
    got = torch.cat([mine.logits, mine.boxes], dim=-1)
    assert nearest(wanted, got).max() < 1e-4


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
