"""A trained detector as a plain function of images: the same numbers with fewer and simpler operations.

Batch norms and the affine blocks become convolution weights and a clip, parallel branches one convolution, linear
layers in a row one, positions of fixed tokens a bias, and the decoder keeps only what the output of the last layer in
use needs. Every shape but the batch is fixed, so that an exporter writes a graph without shape arithmetic.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from edgedet import InvalidInputError
from training.models.deformable_attention import Sampling
from training.models.deploy.decoder import deployed_decoder
from training.models.deploy.edge import DeployedEdgeDecoder
from training.models.deploy.encoder import deployed_encoder
from training.models.deploy.folding import fold_norms
from training.models.deploy.operators import spell_norms
from training.models.detector import Detector
from training.models.edge_decoder import EdgeDecoder, EdgeDecoderConfig


class Deployed(nn.Module):
    """What is exported. In eval mode, for one input size, any batch."""

    def __init__(self, model: Detector, *, sampling: Sampling, input_size: tuple[int, int]) -> None:
        super().__init__()
        model = copy.deepcopy(model).float().cpu().eval()
        fold_norms(model)
        spell_norms(model)
        self.backbone = model.backbone
        config, decoder = model.config, model.decoder
        shapes = [(input_size[0] // stride, input_size[1] // stride) for stride in config.decoder.strides]
        self.encoder = deployed_encoder(model.encoder, config.encoder.hidden_dim, shapes)
        self.decoder: nn.Module
        if isinstance(decoder, EdgeDecoder):
            self.decoder = DeployedEdgeDecoder(decoder, shapes)
        else:
            self.decoder = deployed_decoder(decoder, sampling, shapes)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to logits (B, Q, C) and boxes (B, Q, 4) cxcywh in [0, 1] of the input."""
        return self.decoder(self.encoder(self.backbone(images)).maps)  # type: ignore[no-any-return]


def deploy(model: Detector, *, sampling: Sampling | None = None, input_size: tuple[int, int] | None = None) -> Deployed:
    """The deployed form of a model, on the CPU in float32; the model stays as it is.

    sampling: how deformable attention reads its maps; if not given, `gather`, or `discrete` for a model trained so.
    input_size: (height, width), the model's own if not given.

    Raises InvalidInputError for a sampling that the model was not trained for, or maps that are too small for it.
    """
    return Deployed(model, sampling=_sampling_of(model, sampling), input_size=input_size or model.config.input_size)


def _sampling_of(model: Detector, wanted: Sampling | None) -> Sampling:
    """The form asked for, if it fits the model; the one that fits best if none is asked for."""
    name, config = model.config.name, model.config.decoder
    fitting: tuple[Sampling, ...] = ("gather", "grid_sample")
    if isinstance(config, EdgeDecoderConfig):
        if wanted is not None:
            raise InvalidInputError(f"sampling: {name} has no deformable attention, got {wanted!r}; leave it out")
    elif config.sampling == "discrete":
        fitting = ("discrete",)
    if wanted is not None and wanted not in fitting:
        raise InvalidInputError(
            f"sampling: expected {' or '.join(map(repr, fitting))}, as {name} was trained, got {wanted!r}; leave it "
            "out to have what fits"
        )
    return wanted or fitting[0]
