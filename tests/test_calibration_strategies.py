"""What chooses calibration images: strata, their balance, k-centre, and the encoder's view of an image."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from cell_world import COLOURS, SIDE, make_images, make_model
from onnx.reference import ReferenceEvaluator
from tiny_onnx import logits_model

from calibration.embedding import EncoderEmbedding, coarsest_map
from calibration.graph import Graph
from calibration.inputs import network_input
from calibration.sets.balance import balance
from calibration.sets.k_centre import k_centre
from calibration.sets.strata import appearance, objects, sharpness
from edgedet import InvalidInputError, ModelError, read_image
from edgedet.bundle import InputSpec, LogitsBoxes, load_model_json, write_bundle
from edgedet.coco_eval import load_annotations


def brute_force(points: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    table = np.linalg.norm(points[:, None].astype(float) - points[None].astype(float), axis=2)
    chosen, distances = [0], [0.0]
    while len(chosen) < count:
        best = max(
            (point for point in range(len(points)) if point not in chosen),
            key=lambda point: (min(table[point, centre] for centre in chosen), -point),
        )
        distances.append(min(table[best, centre] for centre in chosen))
        chosen.append(best)
    return chosen, distances


@pytest.mark.parametrize(("number", "channels", "count"), [(40, 5, 12), (40, 1, 40), (1, 3, 1), (6, 64, 4)])
def test_k_centre_is_the_plain_one(number: int, channels: int, count: int) -> None:
    points = np.random.default_rng(number).normal(size=(number, channels)).astype(np.float32)
    chosen, distances = k_centre(points, count)
    expected, far = brute_force(points, count)
    assert chosen == expected
    np.testing.assert_allclose(distances, far, rtol=1e-5)
    assert distances[1:] == sorted(distances[1:], reverse=True)


def test_k_centre_of_equal_points_takes_them_in_order() -> None:
    points = np.array([[0, 0], [0, 0], [3, 4], [3, 4], [0, 0]], np.float32)
    assert k_centre(points, 5) == ([0, 2, 1, 3, 4], [0.0, 5.0, 0.0, 0.0, 0.0])


def test_k_centre_is_within_twice_the_best() -> None:
    for seed in range(5):
        points = np.random.default_rng(seed).normal(size=(12, 2)).astype(np.float32)
        table = np.linalg.norm(points[:, None] - points[None], axis=2)
        radius = table[k_centre(points, 3)[0]].min(axis=0).max()
        best = min(table[list(centres)].min(axis=0).max() for centres in itertools.combinations(range(12), 3))
        assert radius <= 2 * best + 1e-6


def plain_balance(families: list[list[tuple[str, ...]]], count: int) -> list[int]:
    """The definition, in fractions."""
    sizes = [len({name for strata in family for name in strata}) for family in families]
    had: dict[tuple[int, str], int] = {}
    chosen: list[int] = []

    def gain(candidate: int) -> Fraction:
        return sum(
            (
                Fraction(1, sizes[number] * (had.get((number, name), 0) + 1))
                for number, family in enumerate(families)
                for name in family[candidate]
            ),
            Fraction(0),
        )

    for _ in range(count):
        best = max((at for at in range(len(families[0])) if at not in chosen), key=lambda at: (gain(at), -at))
        chosen.append(best)
        for number, family in enumerate(families):
            for name in family[best]:
                had[number, name] = had.get((number, name), 0) + 1
    return chosen


def skewed(rng: np.random.Generator, number: int) -> list[list[tuple[str, ...]]]:
    looks = [(str(rng.choice(["a", "b", "c"], p=[0.9, 0.07, 0.03])),) for _ in range(number)]
    share = np.arange(1, 9.0) ** -2
    kinds = [
        tuple(sorted({f"kind{value}" for value in rng.choice(8, size=rng.integers(1, 4), p=share / share.sum())}))
        for _ in range(number)
    ]
    return [looks, kinds]


@pytest.mark.parametrize("seed", range(4))
def test_balance_is_the_plain_one_and_beats_chance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    families = skewed(rng, 150)
    chosen = [pick.candidate for pick in balance(families, 40)]
    assert chosen == plain_balance(families, 40)
    assert len(set(chosen)) == 40

    def rarest(picked: list[int]) -> list[int]:
        return sorted(
            sum(name in family[at] for at in picked)
            for family in families
            for name in {name for strata in family for name in strata}
        )[:3]

    assert rarest(chosen) > max(rarest(list(rng.permutation(150)[:40])) for _ in range(20))


def test_balance_fills_strata_evenly_until_they_are_empty() -> None:
    family = [("a",)] * 20 + [("b",)] * 3 + [("c",)] * 8
    chosen = [family[pick.candidate][0] for pick in balance([family], 15)]
    assert [chosen.count(name) for name in "abc"] == [6, 3, 6]
    assert [pick.candidate for pick in balance([[("a",)] * 4], 3)] == [0, 1, 2]


def test_the_reason_is_the_stratum_with_the_fewest_images() -> None:
    family = [("common", "rare"), ("common",), ("common", "other"), ("common", "other")]
    assert [pick.reasons for pick in balance([family], 4)] == [("rare",), ("other",), ("other",), ("common",)]


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(0).normal(120, 20, (50, 60)).astype(np.float32)
    expected = cv2.Laplacian(grey.astype(float), cv2.CV_64F)[1:-1, 1:-1].var()
    assert sharpness(grey) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("level", "noise", "expected"),
    [
        (20, 0, "dark, blurred"),
        (79, 0, "dark, blurred"),
        (81, 0, "mid-tone, blurred"),
        (149, 0, "mid-tone, blurred"),
        (151, 0, "bright, blurred"),
        (115, 8, "mid-tone, soft"),
        (115, 40, "mid-tone, sharp"),
    ],
)
def test_appearance_in_words(level: float, noise: float, expected: str) -> None:
    pixels = np.random.default_rng(0).normal(level, 1, (256, 256, 1)) * (noise > 0) + level * (noise == 0)
    pixels = pixels + np.random.default_rng(1).normal(0, 1, (256, 256, 1)) * noise
    assert appearance(np.repeat(pixels.clip(0, 255), 3, axis=2).astype(np.uint8)) == expected


def test_appearance_does_not_depend_on_the_size_of_the_image() -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat(np.repeat(rng.integers(60, 200, (32, 32, 1), np.uint8), 32, axis=0), 32, axis=1)
    large = np.repeat(scene, 3, axis=2)
    assert appearance(large) == appearance(large[::2, ::2].copy()) == "mid-tone, soft"
    assert appearance(np.full((1, 1, 3), 255, np.uint8)) == "bright, blurred"


def test_objects_by_class_and_size() -> None:
    def entry(image: int, category: int, area: float, **more: object) -> dict[str, object]:
        return {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "area": area, **more}

    document = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            entry(1, 1, 1023),
            entry(1, 1, 1024),
            entry(1, 2, 9216),
            entry(1, 2, 9999),
            entry(2, 1, 9215.5),
            entry(2, 2, 50, iscrowd=1),
        ],
    }
    assert objects(load_annotations(document)) == {
        "1.jpg": ("large cat", "medium dog", "small dog"),
        "2.jpg": ("medium dog",),
        "3.jpg": ("no object",),
    }
    document["annotations"].append(entry(3, 1, float("nan")))
    with pytest.raises(InvalidInputError, match=r"annotations\[6\] has area nan"):
        objects(load_annotations(document))


def make_bundle(folder: Path, model: Path, *, classes: list[str] | None = None, side: int = SIDE) -> Path:
    return write_bundle(
        folder / "bundle",
        model,
        name="cells",
        input=InputSpec(width=side, height=side, mean=(0.4, 0.4, 0.4), std=(0.5, 0.5, 0.5)),
        output=LogitsBoxes(top_k=2),
        classes=classes or list(COLOURS),
    )


def change_ports(path: Path, *, batch: int = 0, free_size: bool = False) -> Path:
    """The same model for a fixed batch, or for any size of image."""
    model = onnx.load(path)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if batch:
            dims[0].dim_value = batch
        if free_size:
            dims[2].dim_param, dims[3].dim_param = "H", "W"
    if free_size:
        for value in model.graph.output:
            value.type.tensor_type.shape.dim[1].dim_param = "Q"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("ports", [{}, {"batch": 2}, {"free_size": True}])
@pytest.mark.parametrize("number", [1, 7])
def test_points_are_means_of_the_coarsest_map(tmp_path: Path, number: int, ports: dict[str, int]) -> None:
    images = make_images(tmp_path / "images", number, seed=1)
    model = make_model(tmp_path / "model.onnx", "pooled")
    reference = onnx.load(model)
    bundle = make_bundle(tmp_path, change_ports(model, **ports))
    embedding = EncoderEmbedding(bundle, threads=1)
    assert embedding.tensor == "c2"  # 4 x 4 places; those before it are 8 x 8
    pixels = [read_image(path) for path in sorted(images.glob("*.png"))]
    prepared = [embedding.prepare(image) for image in pixels]
    points = np.concatenate(list(embedding.points(iter(prepared))))

    reference.graph.output.append(onnx.helper.make_tensor_value_info("c2", onnx.TensorProto.FLOAT, None))
    spec = load_model_json(bundle)
    feeds = [network_input(image, spec)[None] for image in pixels]
    maps = [ReferenceEvaluator(reference).run(["c2"], {"images": feed})[0][0] for feed in feeds]
    np.testing.assert_allclose(points, np.stack(maps).mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)


def test_the_last_of_the_coarsest_maps_counts_and_single_places_do_not(tmp_path: Path) -> None:
    model = onnx.load(make_model(tmp_path / "model.onnx"))
    assert coarsest_map(Graph(model)) == "c2"  # c0, c1 and c2 have 4 x 4 places
    first = next(at for at, node in enumerate(model.graph.node) if node.output[0] == "c1")
    squeeze = [
        onnx.helper.make_node("GlobalAveragePool", ["r0"], ["squeezed"]),
        onnx.helper.make_node("Conv", ["squeezed", "w1"], ["excited"]),
    ]
    for node in reversed(squeeze):
        model.graph.node.insert(first, node)
    assert coarsest_map(Graph(model)) == "c2"


def test_a_model_without_maps_is_told_what_to_do_instead(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, logits_model(tmp_path / "model.onnx"), classes=["a", "b", "c"], side=32)
    with pytest.raises(ModelError, match=r"expected a convolution with a map of known size, got none; .*stratified"):
        EncoderEmbedding(bundle)


def test_a_broken_model_has_no_points(tmp_path: Path) -> None:
    model = onnx.load(make_model(tmp_path / "model.onnx"))
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "w0")
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(3e38), "w0"))
    onnx.save(model, tmp_path / "model.onnx")
    embedding = EncoderEmbedding(make_bundle(tmp_path, tmp_path / "model.onnx"), threads=1)
    image = embedding.prepare(np.full((SIDE, SIDE, 3), 255, np.uint8))
    with pytest.raises(ModelError, match="expected finite values"):
        list(embedding.points(iter([image])))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("atto", (1, 64)), ("femto", (1, 96))])
def test_published_models_have_an_encoder(shared: Path, tmp_path: Path, name: str, shape: tuple[int, int]) -> None:
    from edgedet.labels import COCO80
    from edgedet.onnx_import import import_model

    file = shared / "models" / f"deimv2_hgnetv2_{name}_coco.onnx"
    embedding = EncoderEmbedding(import_model(file, tmp_path / "bundle", labels=COCO80), threads=1)
    image = embedding.prepare(np.full((300, 400, 3), 99, np.uint8))
    (points,) = embedding.points(iter([image]))
    assert points.shape == shape
