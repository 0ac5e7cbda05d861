"""Each distillation loss against a spelling in NumPy; where it is zero; whom its gradients reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from edgedet import InvalidInputError
from training.distillation.distiller import Distiller
from training.distillation.pairing import pair_queries
from training.distillation.schedule import schedule_factor
from training.distillation.terms import METHODS, Common, Term, parse_terms, write_term
from training.models.outputs import DetectorOutput, Prediction, TeacherOutput, Widths

BATCH, CLASSES, BINS = 2, 5, 9
STUDENT = Widths(classes=CLASSES, features=(6, 6), semantic=6, queries=8, bins=BINS, attention=True)
TEACHER = Widths(classes=CLASSES, features=(7, 7, 7), semantic=10, queries=12, bins=BINS, attention=True)


def prediction(generator: torch.Generator, queries: int) -> Prediction:
    def draw(*shape: int) -> Tensor:
        return torch.randn(BATCH, queries, *shape, generator=generator)

    boxes, reference = (torch.rand(BATCH, queries, 4, generator=generator) * 0.3 + 0.2 for _ in range(2))
    return Prediction(draw(CLASSES) * 2, boxes, draw(4 * BINS), reference)


def student_output(*, queries: int = 6, seed: int = 0, widths: Widths = STUDENT) -> DetectorOutput:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(8, 12), (4, 6)]
    assert widths.queries is not None
    return DetectorOutput(
        final=prediction(generator, queries),
        auxiliary=[prediction(generator, queries)],
        features=[
            torch.randn(BATCH, width, *size, generator=generator)
            for width, size in zip(widths.features, sizes, strict=True)
        ],
        queries=[torch.randn(BATCH, queries, widths.queries, generator=generator) for _ in range(2)],
        attention=[torch.randn(BATCH, 2, queries, 24, generator=generator).softmax(-1) for _ in range(2)],
    )


def teacher_output(*, queries: int = 9, seed: int = 1) -> TeacherOutput:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(16, 24), (8, 12), (4, 6)]
    return TeacherOutput(
        prediction=prediction(generator, queries),
        features=[torch.randn(BATCH, 7, *size, generator=generator) for size in sizes],
        queries=torch.randn(BATCH, queries, 12, generator=generator),
        attention=[torch.randn(BATCH, 3, queries, 24, generator=generator).softmax(-1) for _ in range(3)],
        patches=torch.randn(BATCH, 10, 4, 6, generator=generator),
    )


def as_teacher(student: DetectorOutput) -> TeacherOutput:
    """A teacher that says what the student says."""
    return TeacherOutput(
        prediction=student.final,
        features=student.features,
        queries=student.queries[-1],
        attention=student.attention,
        patches=student.features[-1],
    )


def value_of(loss: Tensor) -> float:
    return float(loss.detach())


def module(text: str, *, student: Widths = STUDENT, teacher: Widths = TEACHER) -> nn.Module:
    (term,) = parse_terms([text])
    torch.manual_seed(3)
    return METHODS[term.method].module(term.options, student, teacher)


def array(tensor: Tensor | None) -> NDArray[np.float64]:
    assert tensor is not None
    return tensor.detach().double().numpy()


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def hungarian(student: Prediction, teacher: Prediction) -> list[tuple[list[int], list[int]]]:
    """Per image: the student's and the teacher's queries of each pair, by scipy on costs summed up one by one."""
    pairs = []
    for image in range(BATCH):
        own, other = array(student.logits)[image], array(teacher.logits)[image]
        count = min(len(own), len(other))
        best = sorted(range(len(other)), key=lambda query: -other[query].max())[:count]
        cost = np.array(
            [
                [
                    np.abs(sigmoid(other[t]) - sigmoid(own[s])).sum()
                    + 5 * np.abs(array(teacher.boxes)[image, t] - array(student.boxes)[image, s]).sum()
                    for s in range(len(own))
                ]
                for t in best
            ]
        )
        rows, columns = linear_sum_assignment(cost)
        pairs.append((columns.tolist(), [best[row] for row in rows]))
    return pairs


def index_pairs(student: Tensor, teacher: Tensor) -> list[tuple[list[int], list[int]]]:
    count = min(student.shape[1], teacher.shape[1])
    return [(list(range(count)), list(range(count)))] * BATCH


def numpy_logit(student: DetectorOutput, teacher: TeacherOutput, kind: str, temperature: float, matching: str) -> float:
    assert teacher.prediction is not None
    pairs = (hungarian if matching == "hungarian" else lambda s, t: index_pairs(s.logits, t.logits))(
        student.final, teacher.prediction
    )
    values = []
    for image, (own, other) in enumerate(pairs):
        for s, t in zip(own, other, strict=True):
            mine = array(student.final.logits)[image, s] / temperature
            theirs = array(teacher.prediction.logits)[image, t] / temperature
            if kind == "softmax":
                p, q = softmax(theirs), softmax(mine)
                values.append((p * np.log(p / q)).sum())
            else:
                p, q = sigmoid(theirs), sigmoid(mine)
                values.append((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum())
    return float(temperature**2 * np.mean(values))


@pytest.mark.parametrize("queries", [4, 9, 13])
@pytest.mark.parametrize("matching", ["hungarian", "index"])
@pytest.mark.parametrize(("kind", "temperature"), [("binary", 1.0), ("binary", 4.0), ("softmax", 2.0)])
def test_logit(kind: str, temperature: float, matching: str, queries: int) -> None:
    student, teacher = student_output(), teacher_output(queries=queries)
    loss = module(f"logit:kind={kind},temperature={temperature},matching={matching}")(student, teacher)
    assert value_of(loss) == pytest.approx(numpy_logit(student, teacher, kind, temperature, matching), rel=1e-5)


def test_logit_of_all_layers_is_their_mean() -> None:
    student, teacher = student_output(), teacher_output()
    layers = [value_of(module("logit")(replace(student, final=layer), teacher)) for layer in (
        student.auxiliary[0], student.final
    )]  # fmt: skip
    assert value_of(module("logit:layers=all")(student, teacher)) == pytest.approx(np.mean(layers), rel=1e-6)


def test_logit_survives_extreme_logits() -> None:
    """Sigmoids that are 0 or 1 in float32 on both sides: still a finite loss with a finite gradient."""
    student, teacher = student_output(), teacher_output()
    logits = (student.final.logits * 1e4).requires_grad_()
    assert teacher.prediction is not None
    far = replace(teacher, prediction=replace(teacher.prediction, logits=teacher.prediction.logits * 1e4))
    loss = module("logit")(replace(student, final=replace(student.final, logits=logits)), far)
    loss.backward()
    assert math.isfinite(loss.detach())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_best_teacher_queries_are_never_left_out() -> None:
    """With more teacher queries than the student has, an object that the student does not see has a pair."""
    student, teacher = student_output(queries=4), teacher_output(queries=9)
    assert teacher.prediction is not None
    logits = torch.full((BATCH, 9, CLASSES), -5.0)
    logits[:, 7, 2] = 4.0
    quiet = replace(student.final, logits=torch.full((BATCH, 4, CLASSES), -5.0))
    own, other = pair_queries(quiet, replace(teacher.prediction, logits=logits), "hungarian")
    assert (other == 7).any(1).all()
    assert all(len(set(row.tolist())) == 4 for row in own)


def resized(source: Tensor, like: Tensor) -> Tensor:
    return source if source.shape[-2:] == like.shape[-2:] else torch.nn.functional.interpolate(
        source, size=like.shape[-2:], mode="bilinear", antialias=True
    )  # fmt: skip


def conv1x1(layer: nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if isinstance(layer, nn.Identity):
        return x
    assert isinstance(layer, nn.Conv2d)
    weight, bias = array(layer.weight)[:, :, 0, 0], array(layer.bias)
    return np.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]


def test_feature() -> None:
    """Student scales 8x12 and 4x6 meet those of the teacher; its finest one is dropped."""
    student, teacher = student_output(), teacher_output()
    loss = module("feature:attention=0.5")
    errors = [
        np.mean((conv1x1(layer, array(student.features[-1 - i])) - array(teacher.features[-1 - i])) ** 2)
        for i, layer in enumerate(loss.project)  # type: ignore[arg-type]
    ]
    distances = []
    for layer in (1, 2):
        mine, other = array(student.attention[-layer]).mean(1), array(teacher.attention[-layer]).mean(1)[:, :6]
        cosine = (mine * other).sum(-1) / np.linalg.norm(mine, axis=-1) / np.linalg.norm(other, axis=-1)
        distances.append(1 - cosine.mean())
    assert value_of(loss(student, teacher)) == pytest.approx(np.mean(errors) + 0.5 * np.mean(distances), rel=1e-5)


@pytest.mark.parametrize("sizes", [[(16, 24), (8, 12)], [(5, 7), (3, 5)], [(8, 12), (4, 6)]])
def test_maps_of_other_sizes_are_resized_in_two_dimensions(sizes: list[tuple[int, int]]) -> None:
    student = student_output()
    maps = [torch.randn(BATCH, 6, *size) for size in sizes]
    loss = module("feature", teacher=replace(STUDENT, attention=False))(student, TeacherOutput(features=maps))
    expected = [
        float((ours - resized(theirs, ours)).square().mean())
        for ours, theirs in zip(student.features, maps, strict=True)
    ]
    assert value_of(loss) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd(temperature: float) -> None:
    student, teacher = student_output(), teacher_output()
    loss = module(f"cwd:temperature={temperature}")
    scales = []
    for i, layer in enumerate(loss.project):  # type: ignore[arg-type]
        mine, other = conv1x1(layer, array(student.features[-1 - i])), array(teacher.features[-1 - i])
        total = 0.0
        for image in range(BATCH):
            for channel in range(7):
                p = softmax(other[image, channel].ravel() / temperature)
                q = softmax(mine[image, channel].ravel() / temperature)
                total += (p * np.log(p / q)).sum()
        scales.append(temperature**2 * total / (BATCH * 7))
    assert value_of(loss(student, teacher)) == pytest.approx(np.mean(scales), rel=1e-5)


def test_mgd() -> None:
    """The mask is drawn as documented; the rest is two convolutions, by hand on a padded array."""

    def conv3x3(layer: nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
        assert isinstance(layer, nn.Conv2d)
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return np.einsum("ocij,bchwij->bohw", array(layer.weight), windows) + array(layer.bias)[:, None, None]

    student, teacher = student_output(), teacher_output()
    loss = module("mgd:mask=0.5")
    torch.manual_seed(11)
    value = value_of(loss(student, teacher))
    torch.manual_seed(11)
    errors = []
    for i in range(2):
        ours = array(student.features[-1 - i])
        seen = array((torch.rand(BATCH, 1, *ours.shape[2:]) >= 0.5).float())
        first, _, second = loss.generate[i]  # type: ignore[index, misc]
        made = conv3x3(second, conv3x3(first, conv1x1(loss.project[i], ours) * seen).clip(0))  # type: ignore[index]
        errors.append(np.mean((made - array(teacher.features[-1 - i])) ** 2))
    assert value == pytest.approx(np.mean(errors), rel=1e-5)
    assert value_of(loss(student, teacher)) != value


@pytest.mark.parametrize("queries", [4, 9])
@pytest.mark.parametrize("matching", ["hungarian", "index"])
def test_query(matching: str, queries: int) -> None:
    student, teacher = student_output(), teacher_output(queries=queries)
    loss = module(f"query:matching={matching},attention=0.3")
    assert teacher.prediction is not None
    pairs = hungarian(student.final, teacher.prediction)
    if matching == "index":
        pairs = index_pairs(student.final.logits, teacher.prediction.logits)
    assert isinstance(loss.project, nn.Linear)
    weight, bias = array(loss.project.weight), array(loss.project.bias)
    errors, cosines = [], []
    for image, (own, other) in enumerate(pairs):
        for s, t in zip(own, other, strict=True):
            mine = weight @ array(student.queries[-1])[image, s] + bias
            errors.append((mine - array(teacher.queries)[image, t]) ** 2)
            for layer in (1, 2):
                a = array(student.attention[-layer])[image].mean(0)[s]
                b = array(teacher.attention[-layer])[image].mean(0)[t]
                cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    expected = np.mean(errors) + 0.3 * (1 - np.mean(cosines))
    assert value_of(loss(student, teacher)) == pytest.approx(expected, rel=1e-5)


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """IoU and GIoU of two cxcywh boxes."""
    low_a, high_a, low_b, high_b = a[:2] - a[2:] / 2, a[:2] + a[2:] / 2, b[:2] - b[2:] / 2, b[:2] + b[2:] / 2
    inside = np.prod(np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None))
    union = np.prod(a[2:]) + np.prod(b[2:]) - inside
    hull = np.prod(np.maximum(high_a, high_b) - np.minimum(low_a, low_b))
    return float(inside / union), float(inside / union - (hull - union) / hull)


@pytest.mark.parametrize("kind", ["distribution", "box"])
def test_localisation(kind: str) -> None:
    student, teacher = student_output(), teacher_output()
    target = teacher.prediction
    assert target is not None
    total = weights = 0.0
    for image, (own, other) in enumerate(hungarian(student.final, target)):
        for s, t in zip(own, other, strict=True):
            sure = sigmoid(array(target.logits)[image, t]).max()
            mine, theirs = array(student.final.boxes)[image, s], array(target.boxes)[image, t]
            if kind == "box":
                cost = 5 * np.abs(mine - theirs).sum() + 2 * (1 - iou(mine, theirs)[1])
            else:
                sure *= iou(array(student.final.reference)[image, s], array(target.reference)[image, t])[0]
                p = softmax(array(target.corners)[image, t].reshape(4, BINS) / 5)
                q = softmax(array(student.final.corners)[image, s].reshape(4, BINS) / 5)
                cost = 25 * (p * np.log(p / q)).sum(-1).mean()
            total, weights = total + sure * cost, weights + sure
    assert value_of(module(f"localisation:kind={kind}")(student, teacher)) == pytest.approx(total / weights, rel=1e-5)


@pytest.mark.parametrize("tap", ["aifi", "features"])
@pytest.mark.parametrize("size", [(4, 6), (8, 10)])
def test_dsi(size: tuple[int, int], tap: str) -> None:
    """With the projector and the resize of RT-DETRv4's criterion, where sizes agree bit for bit its definition."""
    student = student_output()
    if tap == "aifi":
        student = replace(student, aifi=torch.randn(BATCH, 6, 4, 6))
    ours = student.features[-1] if student.aifi is None else student.aifi
    patches = torch.randn(BATCH, 10, *size)
    loss = module("dsi")
    mine, other = conv1x1(loss.project, array(ours)), array(resized(patches, ours))  # type: ignore[arg-type]
    cosine = (mine * other).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(other, axis=1)
    assert value_of(loss(student, TeacherOutput(patches=patches))) == pytest.approx(1 - cosine.mean(), rel=1e-5)


def test_dsi_follows_a_detectors_coarsest_map_in_place_of_patches() -> None:
    student, teacher = student_output(), teacher_output()
    stand_in = replace(TEACHER, semantic=7)
    value = module("dsi", teacher=stand_in)(student, replace(teacher, patches=None))
    assert value_of(value) == value_of(
        module("dsi", teacher=stand_in)(student, replace(teacher, patches=teacher.features[-1]))
    )


ALL = ["logit", "logit:kind=softmax", "logit:layers=all", "feature", "cwd", "mgd", "query", "query:matching=index"]
ALL += ["localisation", "localisation:kind=box", "dsi"]


@pytest.mark.parametrize("text", [text for text in ALL if text not in ("mgd", "logit:layers=all")])
def test_zero_where_student_and_teacher_agree(text: str) -> None:
    student = student_output()
    loss = module(text, student=STUDENT, teacher=STUDENT)
    assert value_of(loss(student, as_teacher(student))) == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize("text", ALL)
def test_gradients_reach_the_student_and_never_the_teacher(text: str) -> None:
    student, teacher = student_output(), teacher_output()
    leaves: list[Tensor] = []

    def leaf(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        leaves.append(tensor.clone().requires_grad_())
        return leaves[-1]

    def leafy(each: Prediction) -> Prediction:
        return Prediction(*(leaf(tensor) for tensor in (each.logits, each.boxes, each.corners, each.reference)))  # type: ignore[arg-type]

    student = replace(
        student,
        final=leafy(student.final),
        auxiliary=[leafy(each) for each in student.auxiliary],
        features=[leaf(each) for each in student.features],
        queries=[leaf(each) for each in student.queries],
    )
    own, leaves = leaves, []
    assert teacher.prediction is not None
    teacher = TeacherOutput(
        prediction=leafy(teacher.prediction),
        features=[leaf(each) for each in teacher.features],  # type: ignore[misc]
        queries=leaf(teacher.queries),
        attention=[leaf(each) for each in teacher.attention],  # type: ignore[misc]
        patches=leaf(teacher.patches),
    )
    (term,) = parse_terms([text])
    torch.manual_seed(0)
    distiller = Distiller([term], student=STUDENT, teachers={"t": TEACHER}, epochs=3)
    sum(distiller(student, {"t": teacher}, epoch=0).values()).backward()  # type: ignore[union-attr]
    assert any(tensor.grad is not None and bool((tensor.grad != 0).any()) for tensor in own)
    assert all(tensor.grad is None for tensor in leaves)
    assert all(parameter.grad is not None for parameter in distiller.parameters())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("cosine", lambda e: math.cos(math.pi * e / 20)),
        ("linear", lambda e: 1 - e / 10),
        ("step", lambda e: 1.0 if e < 5 else 0.0),
        ("sigmoid", lambda e: 1 / (1 + math.exp(-10 * (5 - e) / 10))),
        ("inverse-cosine", lambda e: math.sin(math.pi * e / 20)),
        ("constant", lambda e: 1.0),
    ],
)
def test_schedules(kind: Any, expected: Callable[[int], float]) -> None:
    for epoch in range(10):
        assert schedule_factor(kind, epoch, 10) == pytest.approx(expected(epoch), abs=1e-12)


@pytest.mark.parametrize("kind", ["cosine", "linear", "step", "sigmoid", "inverse-cosine"])
def test_stage_adaptive_goes_from_features_to_logits(kind: str) -> None:
    student, teacher = student_output(), teacher_output()
    terms = parse_terms([f"stage-adaptive:weight=3,schedule={kind},temperature=4"])
    torch.manual_seed(3)
    distiller = Distiller(terms, student=STUDENT, teachers={"t": TEACHER}, epochs=8)
    feature, logit = (
        value_of(distiller.losses["feature"](student, teacher)),
        value_of(distiller.losses["logit"](student, teacher)),
    )
    for epoch in range(8):
        w = schedule_factor(kind, epoch, 8)  # type: ignore[arg-type]
        values = {name: value_of(value) for name, value in distiller(student, {"t": teacher}, epoch=epoch).items()}
        expected = {"distil/feature": 3 * w * feature, "distil/logit": 3 * (1 - w) * logit}
        assert values == pytest.approx({name: each for name, each in expected.items() if each > 0}, rel=1e-5)


def test_parts_of_a_batch_add_up() -> None:
    student, teacher = student_output(), teacher_output()
    distiller = Distiller(parse_terms(["logit", "cwd", "dsi"]), student=STUDENT, teachers={"t": TEACHER}, epochs=1)
    whole = distiller(student, {"t": teacher}, epoch=0)

    def row(value: Any, index: int) -> Any:
        if isinstance(value, Tensor):
            return value[index : index + 1]
        if isinstance(value, list):
            return [row(each, index) for each in value]
        if isinstance(value, Prediction):
            return Prediction(*(row(each, index) for each in vars(value).values()))
        return value

    parts = [
        distiller(
            DetectorOutput(**{name: row(each, index) for name, each in vars(student).items()}),
            {"t": TeacherOutput(**{name: row(each, index) for name, each in vars(teacher).items()})},
            epoch=0,
            share=0.5,
        )
        for index in range(2)
    ]
    for name, value in whole.items():
        assert value_of(sum(part[name] for part in parts)) == pytest.approx(value_of(value), rel=1e-5)


def test_several_teachers() -> None:
    """Each term follows the teacher it names, or the first that fits: foundation models are for DSI."""
    detector, foundation = replace(TEACHER, semantic=7), Widths(semantic=10)
    teachers = {"vfm": foundation, "det": detector, "other": detector}
    terms = parse_terms(["logit", "dsi", "cwd:teacher=other", "dsi:teacher=det,weight=2"])
    distiller = Distiller(terms, student=STUDENT, teachers=teachers, epochs=1)
    assert distiller.teacher_of == {"logit": "det", "dsi": "vfm", "cwd": "other", "dsi-det": "det"}
    assert distiller.needs()["det"] == {"prediction", "semantic"}
    output = teacher_output()
    said = {"det": replace(output, patches=None), "other": output, "vfm": TeacherOutput(patches=output.patches)}
    values = distiller(student_output(), said, epoch=0)
    assert set(values) == {"distil/logit", "distil/dsi", "distil/cwd", "distil/dsi-det"}


@pytest.mark.parametrize(
    ("texts", "teachers", "message"),
    [
        (["magic"], {}, "expected one of logit, feature, .*, stage-adaptive, got 'magic'"),
        (["logit:volume=3"], {}, "logit has the options .*temperature.*, got volume"),
        (["logit:temperature=hot"], {}, "logit: expected a number for temperature, got 'hot'"),
        (["logit:kind=ternary"], {}, "expected one of binary, softmax for kind, got 'ternary'"),
        (["dsi:every=2.5"], {}, "expected a whole number for every"),
        (["feature:rest=maybe"], {}, "expected true or false for rest"),
        (["logit:weight"], {}, "expected METHOD:option=value"),
        (["logit:weight=0"], {}, "expected a weight above 0"),
        (["logit"], {}, "expected a teacher to follow, got none"),
        (["logit:teacher=x"], {"a": TEACHER}, "expected a teacher out of a, got 'x'"),
        (["logit", "logit"], {"a": TEACHER}, "expected logit once for each teacher"),
        (["logit"], {"a": replace(TEACHER, classes=None)}, "expected a teacher that predicts the student's classes"),
        (["query"], {"a": replace(TEACHER, queries=None)}, "decoder states can be read"),
        (["cwd"], {"a": replace(TEACHER, features=())}, "cwd: expected a teacher with encoder maps"),
        (["localisation"], {"a": replace(TEACHER, bins=33)}, "got 9 and 33; choose kind=box"),
        (["dsi"], {"a": replace(TEACHER, semantic=None)}, "dsi: expected a teacher with a map"),
        (["dsi:rho=0.1,delta=0.2"], {"a": TEACHER}, "0 < delta < rho"),
        (["dsi:rho=0.1,every=0"], {"a": TEACHER}, "every >= 1"),
    ],
)
def test_what_is_refused(texts: list[str], teachers: dict[str, Widths], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Distiller(parse_terms(texts), student=STUDENT, teachers=teachers, epochs=2)


@pytest.mark.parametrize(
    "text", ["logit:weight=2.5,kind=softmax", "dsi:weight=5.0,teacher=vfm,rho=0.11,every=7", "cwd"]
)
def test_terms_are_written_as_they_are_read(text: str) -> None:
    (term,) = parse_terms([text])
    assert write_term(term) == text
    assert parse_terms([write_term(Term(term.method, term.options, Common(weight=0.1, rest=True)))])[0].common.rest
