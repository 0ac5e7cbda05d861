"""Encoders against Hugging Face's, and the edge encoder against a plain spelling of what the study describes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_backbones import randomise
from torch import Tensor, nn
from transformers import DFineConfig, RTDetrConfig
from transformers.models.d_fine.modeling_d_fine import DFineHybridEncoder
from transformers.models.rt_detr.modeling_rt_detr import RTDetrHybridEncoder

from training.models.edge_encoder import EdgeEncoder, EdgeEncoderConfig
from training.models.hybrid_encoder import HybridEncoder, HybridEncoderConfig
from training.models.position import sincos_position
from training.weights.huggingface import Family, map_names


def maps(channels: tuple[int, ...], finest: tuple[int, int] = (16, 24)) -> list[Tensor]:
    """Oblong maps, each half as large as the one before."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, c, finest[0] >> i, finest[1] >> i, generator=generator, dtype=torch.float64)
        for i, c in enumerate(channels)
    ]


def give(theirs: nn.Module, ours: HybridEncoder, family: Family) -> None:
    """Loads our encoder's state, but for the input projections, which Hugging Face keeps elsewhere."""
    wanted = {f"model.encoder.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state = {f"encoder.{n}": t for n, t in ours.state_dict().items() if not n.startswith("input_proj.")}
    assert sorted(map_names(wanted, family)) == sorted(state)
    loaded = {}
    for name in theirs.state_dict():
        if (part := next((p for p in "qkv" if f".{p}_proj." in name), None)) is not None:
            merged = name.replace(f"{part}_proj.", "in_proj_").replace("aifi.", "encoder.encoder.")
            loaded[name] = state[merged].chunk(3)["qkv".index(part)]
        else:
            loaded[name] = state[next(iter(map_names({f"model.encoder.{name}": torch.empty(0)}, family)))]
    theirs.double().load_state_dict(loaded)


@pytest.mark.parametrize(("levels", "expansion", "layers"), [(3, 1.0, 1), (3, 0.5, 2), (2, 0.34, 1)])
@pytest.mark.parametrize("family", ["rt_detr", "d_fine"])
def test_hybrid_encoder_equals_hugging_face(family: Family, levels: int, expansion: float, layers: int) -> None:
    channels = (24, 40, 56)[-levels:]
    ours = HybridEncoder(
        HybridEncoderConfig(
            in_channels=channels,
            hidden_dim=32,
            feedforward_dim=48,
            heads=4,
            layers=layers,
            fusion="csp" if family == "rt_detr" else "elan",
            expansion=expansion,
            blocks=3 if family == "rt_detr" else 2,
        )
    )
    randomise(ours.double())
    options = {
        "encoder_in_channels": channels,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "encoder_layers": layers,
        "encode_proj_layers": [levels - 1],
        "feat_strides": [8, 16, 32][-levels:],
        "hidden_expansion": expansion,
    }
    theirs = (
        RTDetrHybridEncoder(RTDetrConfig(**options))
        if family == "rt_detr"
        else DFineHybridEncoder(DFineConfig(**options, depth_mult=0.67))
    )
    give(theirs, ours, family)
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        x, y = maps(channels), maps(channels)
        projected = [projection(m) for projection, m in zip(ours.input_proj, y, strict=True)]
        output = ours([m.contiguous(memory_format=torch.channels_last).requires_grad_() for m in x])
        wanted = theirs(inputs_embeds=projected).last_hidden_state
        for a, b in zip(output.maps, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # theirs has positions in float32
        for tensor in (*output.maps, output.aifi):
            assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_aifi_is_what_the_coarsest_map_becomes_before_fusion() -> None:
    ours = HybridEncoder(HybridEncoderConfig(in_channels=(8, 12), hidden_dim=16, heads=4, fusion="elan-sum", blocks=1))
    randomise(ours.double())
    ours.eval()
    fine, coarse = maps((8, 12))
    output = ours([fine, coarse])
    assert output.aifi is not None
    torch.testing.assert_close(output.aifi, ours.encoder[0](ours.input_proj[1](coarse)))
    changed = ours([fine + 1, coarse])
    torch.testing.assert_close(changed.aifi, output.aifi)
    assert not torch.allclose(changed.maps[1], output.maps[1])


def test_added_maps_are_half_as_wide_as_concatenated_ones() -> None:
    def width(fusion: str) -> tuple[int, ...]:
        config = HybridEncoderConfig(in_channels=(8, 12), hidden_dim=16, heads=4, fusion=fusion)  # type: ignore[arg-type]
        return tuple(HybridEncoder(config).fpn_blocks[0].cv1.conv.weight.shape)

    assert width("elan") == (32, 32, 1, 1)
    assert width("elan-sum") == (32, 16, 1, 1)


def test_positions_are_rows_then_columns() -> None:
    position = sincos_position(3, 5, 8, device=torch.device("cpu"), dtype=torch.float64).view(3, 5, 8)
    row, column = torch.arange(3.0).double()[:, None], torch.arange(5.0).double()[None]
    for index, wave in enumerate((torch.sin, torch.cos)):
        for k, frequency in enumerate((1.0, 0.01)):
            torch.testing.assert_close(position[..., 2 * index + k], wave(row * frequency).expand(3, 5))
            torch.testing.assert_close(position[..., 4 + 2 * index + k], wave(column * frequency).expand(3, 5))
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_position(3, 5, 6, device=torch.device("cpu"), dtype=torch.float32)


def test_edge_encoder_is_a_transformer_on_the_coarse_map_fused_into_the_fine_one() -> None:
    encoder = EdgeEncoder(EdgeEncoderConfig(in_channels=(12, 20), hidden_dim=16, feedforward_dim=24, heads=4, blocks=2))
    randomise(encoder.double())
    encoder.eval()
    fine, coarse = maps((12, 20))
    output = encoder([fine, coarse])

    def position(x: Tensor) -> Tensor:
        where = sincos_position(*x.shape[2:], 16, device=x.device, dtype=x.dtype)
        return where.t().reshape(1, 16, *x.shape[2:])

    layer = encoder.encoder_layers[0]
    attention = nn.MultiheadAttention(16, 4, batch_first=True).double()
    attention.load_state_dict(layer.self_attn.state_dict())
    x = encoder.input_proj[1](coarse)
    x = (x + position(x)).flatten(2).transpose(1, 2)
    normed = layer.norm1(x)
    x = x + attention(normed, normed, normed)[0]
    x = x + layer.linear2(F.silu(layer.linear1(layer.norm2(x))))
    aifi = encoder.encoder_norm(x).transpose(1, 2).reshape(2, 16, *coarse.shape[2:])
    csp = encoder.fusion_c4
    joint = torch.cat([encoder.input_proj[0](fine), aifi.repeat_interleave(2, 2).repeat_interleave(2, 3)], dim=1)
    branch = csp.cv1(joint)
    for block in csp.bottlenecks:
        branch = branch + block.cv2(block.cv1(branch))
    fused = csp.cv3(torch.cat([branch, csp.cv2(joint)], dim=1))

    assert output.aifi is not None
    torch.testing.assert_close(output.aifi, aifi)
    torch.testing.assert_close(output.maps[0], fused + position(fused))
    torch.testing.assert_close(output.maps[1], aifi + position(aifi))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": (8,), "fusion": "csp"}, "at least two maps"),
        ({"in_channels": (8, 8), "fusion": "csp", "hidden_dim": 30}, "multiple of 4 and of heads"),
        ({"in_channels": (8, 8), "fusion": "csp", "hidden_dim": 64, "heads": 6}, "multiple of 4 and of heads"),
    ],
)
def test_configurations_that_make_no_encoder_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridEncoderConfig(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple of 4 and of heads"):
        EdgeEncoderConfig(in_channels=(8, 8), hidden_dim=30)
