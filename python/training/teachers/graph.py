"""An ONNX detector as a teacher, bare or in a bundle, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from edgedet import InvalidInputError, ModelError
from edgedet.bundle import UNSTATED, InputSpec, LabelsBoxesScores, LogitsBoxes, load_model_json
from edgedet.labels import COCO80
from edgedet.onnx_import import Port, read_form
from training.models.outputs import Prediction, TeacherOutput, Widths
from training.teachers.teacher import Size, Teacher, class_columns, select_classes
from training.weights.read import MAX_BYTES

_EXTRAS = ("queries", "corners", "reference")
_FARTHEST = 4.0  # from 0, of a box in units of the image: what is beyond is in pixels
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32"}
_LOGITS = (
    "a graph with logits (N, Q, classes) and boxes (N, Q, 4); export the network as `python -m training export` does, "
    "without the post-processing"
)


@dataclass(frozen=True)
class _Graph:
    """Where a graph is and what is known about it; spec, output and classes of a bundle only."""

    file: Path
    name: str
    spec: InputSpec | None = None
    output: LogitsBoxes | None = None
    classes: tuple[str, ...] | None = None
    licence: str = ""


class Runner:
    """Runs a graph by onnxruntime, on the GPU of the images where onnxruntime can, else on the CPU."""

    def __init__(self, file: Path, session: Any, image: Port, outputs: Mapping[str, str]) -> None:
        """session: on the CPU. image: the input. outputs: names of logits, boxes and any of `_EXTRAS`."""
        self.file, self.image, self.outputs = file, image, dict(outputs)
        self.sessions = {"cpu": session}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs, (B, Q, ...) float32 on the images' device, by our names.

        Raises ModelError if the graph fails, gives NaN or gives another form.
        """
        session, names = self._session(images.device), list(self.outputs.values())
        batches = images.float().cpu().split(self.image["shape"][0] or len(images))
        try:
            parts = [session.run(names, {self.image["name"]: batch.numpy()}) for batch in batches]
        except Exception as error:  # onnxruntime has one exception type per status code
            raise ModelError(
                f"{self.file}: expected a graph for images of {tuple(images.shape[2:])}, got one that onnxruntime "
                f"cannot run ({_first_line(error)}); export it anew"
            ) from error
        found = {}
        for index, name in enumerate(self.outputs):
            value = torch.cat([torch.from_numpy(part[index]).float() for part in parts])
            if value.ndim != 3 or len(value) != len(images):
                raise ModelError(
                    f"{self.file}: expected {name} ({len(images)}, Q, ...), got {tuple(value.shape)}; export it anew"
                )
            if not value.isfinite().all():
                raise ModelError(
                    f"{self.file}: expected finite {name}, got NaN or infinite values; are its weights trained?"
                )
            found[name] = value.to(images.device)
        return found

    def _session(self, device: torch.device) -> Any:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            device = torch.device("cpu")
        if str(device) not in self.sessions:
            self.sessions[str(device)] = _open(self.file, device)
        return self.sessions[str(device)]


class GraphTeacher(Teacher):
    """An ONNX detector. It offers predictions, and decoder states and edge distributions if the graph gives them.

    These are further outputs: queries (N, Q, D), corners (N, Q, 4 * bins) with reference (N, Q, 4), as in `Prediction`.
    """

    def __init__(
        self,
        runner: Runner,
        spec: InputSpec,
        columns: tuple[int, ...] | None,
        *,
        size: Size,
        widths: Widths,
        description: str,
    ) -> None:
        """columns: of the student's classes among its own, or None if it does not know them."""
        super().__init__(size=size, mean=spec.mean, std=spec.std, bgr=spec.channels == "bgr")
        self.runner, self.columns, self.widths, self.description = runner, columns, widths, description

    def observe(self, images: Tensor) -> TeacherOutput:
        """See `Teacher.observe`. Raises ModelError if the graph fails or gives NaN."""
        found = self.runner(images)
        prediction = Prediction(found["logits"], found["boxes"], found.get("corners"), found.get("reference"))
        return TeacherOutput(
            prediction=None if self.columns is None else select_classes(prediction, self.columns),
            queries=found.get("queries"),
        )


def load_graph(path: Path, classes: Sequence[str], *, size: Size | None) -> GraphTeacher:
    """An ONNX file with its weights inside, or a bundle. classes: of the student.

    A bare file tells neither its classes nor how its input is normalised: they are the student's, or COCO's 80, and
    RGB in [0, 1].
    Raises InvalidInputError for a graph that cannot teach these classes, for a size that is not its own and for a file
    that is not there, ModelError for one that onnxruntime cannot run or whose outputs are no raw head's, BundleError
    for a broken bundle.
    """
    graph = _of_bundle(path) if path.is_dir() else _Graph(path, path.name)
    session = _open(graph.file, torch.device("cpu"))
    image, outputs = _form(session, graph)
    size = _size(image, graph, size)
    runner = Runner(graph.file, session, image, outputs)
    trial = runner(torch.full((1, 3, *size), 0.5))
    _check(trial, graph)
    columns, known = _columns(graph, trial["logits"].shape[-1], classes)
    widths = Widths(
        classes=None if columns is None else len(columns),
        queries=trial["queries"].shape[-1] if "queries" in trial else None,
        bins=trial["corners"].shape[-1] // 4 if columns is not None and "corners" in trial else None,
    )
    if widths == Widths():
        raise InvalidInputError(
            f"{path}: expected a teacher that knows all {len(classes)} classes of the student, got one with {known}; "
            "choose a teacher that was trained on them"
        )
    spec = graph.spec or InputSpec(width=size[1], height=size[0])
    letterboxed = ", trained on letterboxed images" if spec.resize == "letterbox" else ""
    text = f"{graph.name} from {path}, {known}, input {size[1]}x{size[0]}{letterboxed}{graph.licence}"
    return GraphTeacher(runner, spec, columns, size=size, widths=widths, description=text)


def _of_bundle(folder: Path) -> _Graph:
    stored = load_model_json(folder)
    if stored["output"]["form"] != "logits_boxes":
        raise InvalidInputError(f"{folder}: {_refusal(stored['output']['form'])}")
    files = stored["models"].get("fp32")
    if not files:
        raise InvalidInputError(f"{folder}: expected a bundle with a float model, got {', '.join(stored['models'])}")
    output = {key: value for key, value in stored["output"].items() if key != "form"}
    licence = stored["licence"]["weights"]
    return _Graph(
        folder / (files.get("*") or next(iter(files.values()))),
        stored["name"],
        spec=InputSpec(**stored["input"]),
        output=LogitsBoxes(**output),
        classes=tuple(stored["classes"]),
        licence="" if licence == UNSTATED else f", licence {licence}",
    )


def _open(file: Path, device: torch.device) -> Any:
    """A session. Only the file itself is read, not what it may refer to."""
    if not file.is_file():
        raise InvalidInputError(f"{file}: expected an ONNX file, got nothing there; check the path")
    if file.stat().st_size > MAX_BYTES:
        raise InvalidInputError(
            f"{file}: expected at most {MAX_BYTES} bytes, got {file.stat().st_size}; this is no detector's file"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are the student's meanwhile
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return onnxruntime.InferenceSession(file.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime has one exception type per status code
        raise ModelError(
            f"{file}: expected an ONNX model with its weights inside, got one that onnxruntime cannot load "
            f"({_first_line(error)}); export it anew"
        ) from error


def _form(session: Any, graph: _Graph) -> tuple[Port, dict[str, str]]:
    """The image input, and by our names the outputs that are used."""
    inputs, outputs = ([_port(value) for value in ports] for ports in (session.get_inputs(), session.get_outputs()))
    extras = {port["name"] for port in outputs} & set(_EXTRAS)
    heads = [port for port in outputs if port["name"] not in extras]
    if graph.spec is not None and graph.output is not None:
        form: LogitsBoxes | LabelsBoxesScores = graph.output
        image = next((port for port in inputs if port["name"] == graph.spec.name and len(port["shape"]) == 4), None)
        if image is None or not {graph.output.logits, graph.output.boxes} <= {port["name"] for port in outputs}:
            raise ModelError(f"{graph.file}: expected the input and outputs that model.json names, got others")
    else:
        image, form = read_form({"inputs": inputs, "outputs": heads}, graph.file.name)
    if not isinstance(form, LogitsBoxes):
        raise InvalidInputError(f"{graph.file}: {_refusal('labels_boxes_scores')}")
    if image["shape"][0] not in (None, 1):
        raise InvalidInputError(
            f"{graph.file}: expected a graph for any number of images or for one, got one for {image['shape'][0]}; "
            "export it with a free batch axis"
        )
    if not {"corners", "reference"} <= extras:
        extras -= {"corners", "reference"}
    return image, {"logits": form.logits, "boxes": form.boxes, **{name: name for name in sorted(extras)}}


def _port(value: Any) -> Port:
    shape = [axis if isinstance(axis, int) else None for axis in value.shape]
    return {"name": value.name, "shape": shape, "dtype": _TYPES.get(value.type, value.type)}


def _size(image: Port, graph: _Graph, size: Size | None) -> Size:
    fixed = image["shape"][2:]
    own = (graph.spec.height, graph.spec.width) if graph.spec is not None else (fixed[0], fixed[1])
    chosen = size or own
    if None in chosen:
        raise InvalidInputError(
            f"{graph.file}: expected the size to run it at, as its input takes any, got none; add it, "
            f"{graph.file.name}@640"
        )
    if any(side is not None and side != wanted for side, wanted in zip(fixed, chosen, strict=True)):
        raise InvalidInputError(
            f"{graph.file}: expected the size of the graph (height {fixed[0]}, width {fixed[1]}), got "
            f"{chosen[0]}, {chosen[1]}; leave it out"
        )
    return chosen


def _check(trial: Mapping[str, Tensor], graph: _Graph) -> None:
    """Refuses outputs that mean something else, as those for a grey image show."""
    same = len({value.shape[1] for value in trial.values()}) == 1 and trial["logits"].numel() > 0
    fours = all(trial[name].shape[-1] == 4 for name in ("boxes", "reference") if name in trial)
    if not same or not fours or ("corners" in trial and trial["corners"].shape[-1] % 4):
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in trial.items())
        raise ModelError(
            f"{graph.file}: expected logits (N, Q, classes), boxes and reference (N, Q, 4), corners (N, Q, 4 * bins), "
            f"got {shapes}; export it anew"
        )
    logits, farthest = trial["logits"], float(trial["boxes"].abs().max())
    if bool((logits >= 0).all()) and bool((logits <= 1).all()):
        raise ModelError(f"{graph.file}: expected logits, got probabilities, all in [0, 1]; export without the sigmoid")
    if farthest > _FARTHEST:
        raise ModelError(
            f"{graph.file}: expected boxes cxcywh in [0, 1] of the image, got values up to {farthest:.0f}; "
            "export without the scaling to pixels"
        )


def _columns(graph: _Graph, count: int, classes: Sequence[str]) -> tuple[tuple[int, ...] | None, str]:
    """Where the student's classes are among the graph's, if it knows them, and in words which it knows."""
    if graph.classes is not None:
        if len(graph.classes) != count:
            raise ModelError(
                f"{graph.file}: expected {len(graph.classes)} classes, as the bundle names, got {count}; make it anew"
            )
        return class_columns(graph.classes, classes), f"{count} classes"
    coco = class_columns(COCO80.names, classes) if count == len(COCO80.names) else None
    if coco is not None:
        return coco, "80 classes, taken to be COCO's"
    if count == len(classes):
        return tuple(range(count)), f"{count} classes, taken to be the student's in the same order"
    return None, f"{count} classes" + (", taken to be COCO's" if count == len(COCO80.names) else " without names")


def _refusal(form: str) -> str:
    return (
        f"expected the scores of all classes of each query, got the form {form}, which has the best ones; use {_LOGITS}"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
