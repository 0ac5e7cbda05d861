"""How strongly images are augmented, and which augmentation and input size an epoch gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgedet import InvalidInputError

_STRIDE = 32  # what every size must be a multiple of
_PROBABILITIES = (
    "flip", "vertical_flip", "photometric", "channel_shuffle", "crop", "zoom_out", "mosaic", "mixup", "copy_blend",
)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of each augmentation, all in [0, 1], and a few ranges.

    flip, vertical_flip: mirror left-right, top-bottom. photometric: brightness, contrast, saturation and hue, each in
    half of these cases. channel_shuffle: another order of red, green and blue.
    zoom_out: the image on a canvas of up to `zoom_limit` times its sides; crop: SSD's crop with a least IoU, of that
    canvas. mosaic: four images in one, as in DEIM, instead of both.
    mixup, copy_blend: see `mixing`; copy_blend is tried where mixup was not drawn.
    fill: grey level outside of images, 0 to 255. min_box: boxes with a side below this many network pixels are dropped.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    photometric: float = 0.5
    channel_shuffle: float = 0.0
    crop: float = 0.0
    zoom_out: float = 0.0
    zoom_limit: float = 2.5
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_blend: float = 0.0
    fill: int = 114
    min_box: float = 1.0

    def __post_init__(self) -> None:
        """Raises InvalidInputError for a value outside its range."""
        for name in _PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInputError(f"{name}: expected a probability in [0, 1], got {getattr(self, name)}")
        if not self.zoom_limit >= 1.0:
            raise InvalidInputError(f"zoom_limit: expected a factor of 1 or more, got {self.zoom_limit}")
        if not 0 <= self.fill <= 255:
            raise InvalidInputError(f"fill: expected a grey level in [0, 255], got {self.fill}")
        if not self.min_box >= 0.0:
            raise InvalidInputError(f"min_box: expected pixels, 0 or more, got {self.min_box}")

    def gentle(self) -> Augmentation:
        """Only what keeps images natural: the flips. For the first and last epochs of a run."""
        return Augmentation(flip=self.flip, vertical_flip=self.vertical_flip, photometric=0.0, min_box=self.min_box)


@dataclass(frozen=True)
class Policy:
    """The augmentation of a run, by epoch, counted from 0.

    Epochs in [start, stop) get `augmentation`, of which mosaic, mixup and copy-blend end at `mix_stop`; the others get
    flips only. None: no end. sizes: sides of the square input to draw from in epochs before `stop`; empty for one size.
    """

    augmentation: Augmentation
    start: int = 0
    mix_stop: int | None = None
    stop: int | None = None
    sizes: tuple[int, ...] = ()

    def augmentation_at(self, epoch: int) -> Augmentation:
        """The settings of an epoch."""
        if epoch < self.start or (self.stop is not None and epoch >= self.stop):
            return self.augmentation.gentle()
        if self.mix_stop is not None and epoch >= self.mix_stop:
            return replace(self.augmentation, mosaic=0.0, mixup=0.0, copy_blend=0.0)
        return self.augmentation

    def sizes_at(self, epoch: int) -> tuple[int, ...]:
        """The sizes that steps of an epoch are drawn from; empty for the network's own."""
        return self.sizes if self.stop is None or epoch < self.stop else ()


def multi_scale_sizes(size: int, repeat: int) -> tuple[int, ...]:
    """The multi-scale sizes of RT-DETR (Zhao et al., 2023): multiples of 32 from 0.75 to 1.25 times `size`.

    repeat: how often `size` itself is in the list, so that it is drawn more often than others; 0 gives no sizes.
    """
    if repeat == 0:
        return ()
    smallest, largest = (int(size * factor / _STRIDE) * _STRIDE for factor in (0.75, 1.25))
    steps = range(0, size - smallest, _STRIDE)
    return (*(smallest + step for step in steps), *[size] * repeat, *(largest - step for step in steps))
