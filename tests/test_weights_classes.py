"""Where new classes start from: by name, by what the pretrained detector sees in their objects, or from the mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_data import make_dataset

from edgedet.bundle import InputSpec
from training.data.dataset import Categories, CocoDataset
from training.data.formats import load_split
from training.models.deimv2 import deimv2_config
from training.models.detector import Detector, build
from training.models.outputs import DetectorOutput, Prediction
from training.weights import class_transfer
from training.weights.class_transfer import ClassSource, choose_sources
from training.weights.load import load_pretrained
from training.weights.own import save_weights

SPEC = InputSpec(width=160, height=160, filter="antialias")
KNOWN = ("person", "traffic light", "Wolves", "blue")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    return load_split(make_dataset(tmp_path_factory.mktemp("data")), "train")


class Colours(nn.Module):
    """Sees the two squares of every image where they are: label 2 in red pixels, label 1 a little, label 0 in blue."""

    def __init__(self) -> None:
        super().__init__()
        self.config = deimv2_config("atto", num_classes=len(KNOWN), input_size=(160, 160))

    def forward(self, images: Tensor) -> DetectorOutput:
        boxes, logits = [], []
        for image in images:
            red, blue = image[0] > 0.6, image[2] > 0.6
            boxes.append(torch.stack([around(red), around(blue), torch.tensor([0.5, 0.5, 1.0, 1.0])]))
            scores = torch.tensor([[0.05, 0.3, 0.6, 0.0], [0.4, 0.1, 0.5, 0.0], [0.9, 0.9, 0.9, 0.9]])
            logits.append(torch.logit(scores.clamp(1e-6, 1 - 1e-6)))
        return DetectorOutput(Prediction(torch.stack(logits), torch.stack(boxes)))


def around(mask: Tensor) -> Tensor:
    """cxcywh in [0, 1] of the pixels that are set."""
    rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
    low, high = torch.stack([columns.min(), rows.min()]), torch.stack([columns.max(), rows.max()]) + 1
    return torch.cat([(low + high) / 2, high - low]) / torch.tensor([160.0])


def choose(dataset: CocoDataset, *names: str, known: tuple[str, ...] | None = KNOWN) -> list[tuple[str, float]]:
    renamed = replace(dataset, categories=Categories(names=names, ids=dataset.categories.ids))
    sources = choose_sources(Colours(), known, renamed, SPEC)  # type: ignore[arg-type]
    return [(source.known, round(source.score, 3)) for source in sources]


def test_a_class_starts_from_what_is_seen_in_its_objects(dataset: CocoDataset) -> None:
    """Both squares look most like wolves, but only one can have them, and the sum decides which."""
    assert choose(dataset, "crimson", "navy") == [("Wolves", 0.6), ("person", 0.4)]
    assert choose(dataset, "crimson", "navy", known=None) == [("class 2", 0.6), ("class 0", 0.4)]


def test_classes_by_the_same_name_keep_their_heads(dataset: CocoDataset) -> None:
    assert choose(dataset, "Traffic_Lights", "blues") == [("traffic light", 1.0), ("blue", 1.0)]
    assert choose(dataset, "crimson", "wolves") == [("traffic light", pytest.approx(0.3)), ("Wolves", 1.0)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("bus", "buses", True),
        ("shoe", "shoes", True),
        ("glasses", "glass", True),
        ("berry", "Berries", True),
        ("wine glass", "Wine-Glass", True),
        ("box", "BOXES", True),
        ("car", "cart", False),
        ("cat", "cattle", False),
    ],
)
def test_names_agree_but_for_the_plural(one: str, other: str, same: bool) -> None:
    assert class_transfer._agree(one, other) == same


def test_nothing_seen_means_the_mean(dataset: CocoDataset) -> None:
    nowhere = replace(
        dataset, samples=tuple(replace(s, boxes=s.boxes[:0], labels=s.labels[:0]) for s in dataset.samples)
    )
    assert choose(nowhere, "crimson", "navy") == [("the mean class", 0.0)] * 2


def test_heads_and_embeddings_are_copied(tmp_path: Path, dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    known = build(deimv2_config("atto", num_classes=len(KNOWN), input_size=(160, 160)))
    with torch.no_grad():
        for name, parameter in known.named_parameters():
            if "score_head" in name:
                parameter.uniform_(-1, 1)
    save_weights(tmp_path / "known.safetensors", known, {"classes": list(KNOWN)})

    def stand_in(model: Detector, names: object, *_: object) -> tuple[ClassSource, ...]:
        assert names == KNOWN
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), known.parameters(), strict=True))
        return (ClassSource("red", 2, "Wolves", 0.6), ClassSource("blue", None, "the mean class", 0.0))

    monkeypatch.setattr("training.weights.load.choose_sources", stand_in)
    model = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
    before = model.decoder.denoising_class_embed.weight.clone()
    report = load_pretrained(model, tmp_path / "known.safetensors", dataset=dataset, spec=SPEC)
    assert "classes start from: red from Wolves (0.60), blue from the mean class" in str(report)
    for ours, theirs in zip(
        [model.decoder.enc_score_head, *model.decoder.dec_score_head],
        [known.decoder.enc_score_head, *known.decoder.dec_score_head],
        strict=True,
    ):
        torch.testing.assert_close(ours.weight, torch.stack([theirs.weight[2], theirs.weight.mean(0)]))
        torch.testing.assert_close(ours.bias, torch.stack([theirs.bias[2], theirs.bias.mean(0)]))
    embedding = model.decoder.denoising_class_embed.weight
    assert torch.equal(embedding[0], known.decoder.denoising_class_embed.weight[2])
    assert torch.equal(embedding[1:], before[1:])


def test_the_choice_repeats(tmp_path: Path, dataset: CocoDataset) -> None:
    """Two loads of the same file for the same data give the same model, whatever the random state."""
    save_weights(tmp_path / "known.safetensors", build(deimv2_config("atto", input_size=(160, 160))), {})
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
        report = load_pretrained(model, tmp_path / "known.safetensors", dataset=dataset, spec=SPEC)
        assert len(report.classes) == 2
        heads.append(model.decoder.enc_score_head.weight.clone())
    assert torch.equal(*heads)


def test_the_same_classes_are_loaded_as_they_are(tmp_path: Path, dataset: CocoDataset) -> None:
    known = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
    save_weights(tmp_path / "known.safetensors", known, {"classes": ["red", "blue"]})
    model = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
    report = load_pretrained(model, tmp_path / "known.safetensors", dataset=dataset, spec=SPEC)
    assert report.classes == ()
    assert torch.equal(model.decoder.enc_score_head.weight, known.decoder.enc_score_head.weight)


def test_as_many_classes_in_another_order(tmp_path: Path, dataset: CocoDataset) -> None:
    known = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
    save_weights(tmp_path / "known.safetensors", known, {"classes": ["Blue", "Red"]})
    model = build(deimv2_config("atto", num_classes=2, input_size=(160, 160)))
    load_pretrained(model, tmp_path / "known.safetensors", dataset=dataset, spec=SPEC)
    assert torch.equal(model.decoder.enc_score_head.weight, known.decoder.enc_score_head.weight.flip(0))


def test_without_data_every_class_starts_from_the_mean(tmp_path: Path) -> None:
    known = build(deimv2_config("atto", input_size=(160, 160)))
    with torch.no_grad():
        known.decoder.enc_score_head.weight.normal_()
    save_weights(tmp_path / "known.safetensors", known, {})
    model = build(deimv2_config("atto", num_classes=3, input_size=(192, 192)))
    report = load_pretrained(model, tmp_path / "known.safetensors")
    assert report.fresh_anchors
    mean = known.decoder.enc_score_head.weight.mean(0)
    torch.testing.assert_close(model.decoder.enc_score_head.weight, mean.expand(3, -1))
