"""config.json of a Hugging Face folder and the configurations of the detectors here: compared, and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from edgedet import InvalidInputError, ModelError
from training.models.decoder import DecoderConfig
from training.models.detector import DetectorConfig
from training.models.dfine import DFINEVariant
from training.models.hgnetv2 import HGNetV2Config
from training.models.hybrid_encoder import HybridEncoderConfig
from training.models.resnet import ResNetConfig
from training.models.rtdetr import RTDETRVariant
from training.models.zoo import detector_config
from training.weights.huggingface import FAMILIES, Family

# The models of each `model_type`. DEIM and RT-DETRv4 are no D-FINE there: its heads always have ReLU. Its DEIMv2 is
# none of those here: it projects the encoder's output to select queries, and makes positions anew at every layer.
_MODELS: Mapping[str | None, tuple[str, ...]] = {
    "rt_detr": tuple(name for name in get_args(RTDETRVariant) if name.startswith("rtdetr-")),
    "rt_detr_v2": tuple(name for name in get_args(RTDETRVariant) if name.startswith("rtdetrv2-")),
    "d_fine": tuple(name for name in get_args(DFINEVariant) if name.startswith("dfine-")),
}
_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# What every model here has, whatever its size. Fields that training alone reads are not compared.
_FIXED: Mapping[str, Any] = {
    "activation_function": "silu",
    "batch_norm_eps": 1e-5,
    "decoder_offset_scale": 0.5,
    "encoder_activation_function": "gelu",
    "layer_norm_eps": 1e-5,
    "layer_scale": 1,
    "learn_initial_query": False,
    "lqe_hidden_dim": 64,
    "lqe_layers": 2,
    "normalize_before": False,
    "positional_encoding_temperature": 10000,
    "top_prob_values": 4,
    "with_box_refine": True,
}


def written_configuration(ours: DetectorConfig) -> tuple[Family, dict[str, Any]] | None:
    """The family whose networks compute what a detector here computes, and the arguments of its configuration.

    None where Hugging Face has no such network. Its RT-DETR has no layers that only training uses.
    """
    family = next((name for name in FAMILIES if ours.name in _MODELS.get(name, ())), None)
    encoder, decoder = ours.encoder, ours.decoder
    if family is None or not isinstance(decoder, DecoderConfig) or not isinstance(encoder, HybridEncoderConfig):
        return None
    direct = decoder.refinement == "direct"
    if direct and decoder.deployed_layers != decoder.num_layers:
        return None
    fields = {
        **_fields(ours),
        "backbone_config": {**_backbone_fields(ours), **_backbone_shape(ours.backbone)},
        "decoder_in_channels": [decoder.map_channels] * len(decoder.strides),
        "decoder_n_points": decoder.points[0] if direct else decoder.points,
        "freeze_backbone_batch_norms": False,
        "num_labels": decoder.num_classes,
    }
    if encoder.fusion != "csp":
        fields["depth_mult"] = encoder.blocks / 3
    return family, {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def check_configuration(ours: DetectorConfig, config: Mapping[str, Any], folder: Path) -> None:
    """Raises ModelError naming the fields of config.json that say otherwise than the detector's configuration."""
    _refuse_port(config, folder)
    family = config.get("model_type")
    if ours.name not in _MODELS.get(family, ()):
        known = ", ".join(_MODELS.get(family, ()))
        raise ModelError(f"{folder}: expected weights of {ours.name}, got {family}; choose one of {known} (--model)")
    found = list(_differences(ours, config))
    if found:
        raise ModelError(
            f"{folder}: expected the configuration of {ours.name} in config.json, got {'; '.join(found[:4])}"
            f"{f' and {len(found) - 4} more fields' if len(found) > 4 else ''}; "
            "choose the model it is of (--model), if it is one of those known here"
        )


def matching_model(config: Mapping[str, Any], family: Family, folder: Path) -> str:
    """The name of the model whose configuration a config.json agrees with.

    Raises InvalidInputError naming the fields of the nearest one that have no counterpart.
    """
    _refuse_port(config, folder)
    differing = {name: list(_differences(detector_config(name), config)) for name in _MODELS[family]}
    nearest = min(differing, key=lambda name: len(differing[name]))
    if differing[nearest]:
        raise InvalidInputError(
            f"{folder}: expected the configuration of a known model in config.json, got one nearest to {nearest} but "
            f"with {'; '.join(differing[nearest][:4])}; only the published sizes are known here"
        )
    return nearest


def _refuse_port(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("model_type") == "deimv2":
        raise InvalidInputError(
            f"{folder}: expected a network that computes what its paper's code computes, got Hugging Face's DEIMv2, "
            "which projects the encoder's output before it selects queries; load the weights its authors publish "
            "(safetensors), or take this folder's backbone alone"
        )


def _differences(ours: DetectorConfig, config: Mapping[str, Any]) -> Iterator[str]:
    backbone = config.get("backbone_config")
    pairs = [(name, value, config) for name, value in _fields(ours).items()]
    if isinstance(backbone, Mapping):
        pairs += [(name, value, backbone) for name, value in _backbone_fields(ours).items()]
    for name, value, stated in pairs:
        if name not in stated:
            continue
        got = stated[name]
        if _plain(got) != _plain(value):
            where = "" if stated is config else "backbone_config."
            yield f"{where}{name} = {got} where {ours.name} has {_plain(value)}"


def _fields(ours: DetectorConfig) -> dict[str, Any]:
    """What config.json must say of encoder and decoder, as far as it says it."""
    encoder, decoder = ours.encoder, ours.decoder
    if not isinstance(decoder, DecoderConfig):
        return {"model_type": None}
    fields = {
        **_FIXED,
        "d_model": decoder.hidden_dim,
        "decoder_activation_function": decoder.activation,
        "decoder_attention_heads": decoder.heads,
        "decoder_ffn_dim": decoder.feedforward_dim,
        "decoder_layers": decoder.num_layers,
        "decoder_method": "discrete" if decoder.sampling == "discrete" else "default",
        "decoder_n_points": decoder.points,
        "encoder_hidden_dim": encoder.hidden_dim,
        "encoder_in_channels": encoder.in_channels,
        "feat_strides": decoder.strides,
        "num_feature_levels": len(decoder.strides),
        "num_queries": decoder.num_queries,
    }
    if decoder.refinement == "distribution":
        fields |= {"max_num_bins": decoder.reg_max, "reg_scale": decoder.reg_scale, "up": decoder.up}
        fields["eval_idx"] = -1 if decoder.eval_layers is None else decoder.eval_layers - 1
    if isinstance(encoder, HybridEncoderConfig):
        fields |= {
            "encode_proj_layers": (len(encoder.in_channels) - 1,),
            "encoder_attention_heads": encoder.heads,
            "encoder_ffn_dim": encoder.feedforward_dim,
            "encoder_layers": encoder.layers,
            "hidden_expansion": encoder.expansion,
        }
    return fields


def _backbone_fields(ours: DetectorConfig) -> dict[str, Any]:
    backbone = ours.backbone
    if isinstance(backbone, ResNetConfig):
        widths = (64, 128, 256, 512) if backbone.depth < 50 else (256, 512, 1024, 2048)
        return {
            "model_type": "rt_detr_resnet",
            "depths": _DEPTHS[backbone.depth],
            "downsample_in_bottleneck": False,
            "downsample_in_first_stage": False,
            "embedding_size": 64,
            "hidden_act": "relu",
            "hidden_sizes": widths,
            "layer_type": "basic" if backbone.depth < 50 else "bottleneck",
        }
    assert isinstance(backbone, HGNetV2Config)
    stages = backbone.stages
    return {
        "model_type": "hgnet_v2",
        "hidden_act": "relu",
        "stage_downsample": [stage.downsample for stage in stages],
        "stage_in_channels": [stage.in_channels for stage in stages],
        "stage_kernel_size": [stage.kernel for stage in stages],
        "stage_light_block": [stage.light for stage in stages],
        "stage_mid_channels": [stage.mid_channels for stage in stages],
        "stage_num_blocks": [stage.blocks for stage in stages],
        "stage_numb_of_layers": [stage.layers for stage in stages],
        "stage_out_channels": [stage.out_channels for stage in stages],
        "stem_channels": backbone.stem,
        "use_learnable_affine_block": backbone.use_lab,
    }


def _backbone_shape(backbone: ResNetConfig | HGNetV2Config) -> dict[str, Any]:
    """What is written of a backbone beyond what is compared."""
    shape: dict[str, Any] = {"out_indices": [stage + 1 for stage in backbone.return_stages]}
    if isinstance(backbone, HGNetV2Config):
        count = len(backbone.stages)
        shape |= {
            "depths": [1] * count,
            "hidden_sizes": [stage.out_channels for stage in backbone.stages],
            "stage_downsample_strides": [2] * count,
        }
    return shape


def _plain(value: Any) -> Any:
    """Lists for tuples, and one number for a list of equal ones, as some fields are written either way."""
    if isinstance(value, list | tuple):
        return list(value) if len(set(map(str, value))) > 1 else _plain(value[0]) if value else []
    return value
