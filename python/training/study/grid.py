"""What a study compares, as GRID.yaml says it; read strictly, because a misspelt option would be an unfair one."""

from __future__ import annotations

import hashlib
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgedet import InvalidInputError
from training.study.options import read_options

BASELINE = "baseline"

_MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_KEYS = (
    "data", "train_json", "val_json", "out", "select", "split_seed", "seeds", "options", "teacher", "weights",
    "methods",
)  # fmt: skip
_METHOD_KEYS = ("distil", "options", "teacher")

T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """One of the things compared.

    distil, teacher: as in TrainConfig; both empty without distillation. options: of TrainConfig, besides those of the
    grid, which they replace.
    """

    name: str
    distil: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A study. All paths are absolute.

    file, text: where it was read from, and what it says. data, train_json, val_json: as in TrainConfig. out: folder of
    the study. select: share of the training images that checkpoints are picked on; split_seed: which ones. weights:
    factors of the weights of each method that distils. options: of TrainConfig, for all methods.
    """

    file: Path
    text: str
    data: Path | None
    train_json: Path | None
    val_json: Path | None
    out: Path
    select: float
    split_seed: int
    seeds: tuple[int, ...]
    weights: tuple[float, ...]
    options: Mapping[str, Any]
    methods: tuple[Method, ...]

    @property
    def sha256(self) -> str:
        """Of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_grid(file: Path) -> Grid:
    """Reads a GRID.yaml. Relative paths in it start at its folder.

    Raises InvalidInputError for unknown or repeated keys, values of other types, and methods that cannot be compared.
    """
    text = _read(file)
    content = _load(text, file)
    root = file.resolve().parent
    with said_of(file):
        _check_keys(content, _KEYS, "a grid")
        if missing := [key for key in ("out", "seeds", "methods") if key not in content]:
            raise InvalidInputError(f"{missing[0]}: expected it in a grid, got none; add it")
        data, train_json, val_json = (_path(content, key, root) for key in ("data", "train_json", "val_json"))
        if data is None and (train_json is None or val_json is None):
            raise InvalidInputError("data: expected a dataset folder, or both train_json and val_json; got neither")
        out = _path(content, "out", root)
        assert out is not None
        teacher = _texts(content.get("teacher", []), "teacher")
        options = read_options(content.get("options", {}), root)
        return Grid(
            file=file,
            text=text,
            data=data,
            train_json=train_json,
            val_json=val_json,
            out=out,
            select=_number(content.get("select", 0.15), "select", "a share in (0, 1)", lambda value: 0 < value < 1),
            split_seed=_whole(content.get("split_seed", 0), "split_seed"),
            seeds=_several(content["seeds"], "seeds", _whole),
            weights=_several(content.get("weights", [1.0]), "weights", _weight),
            options=options,
            methods=_methods(content["methods"], teacher, options, root),
        )


@contextmanager
def said_of(what: object) -> Iterator[None]:
    """Has an InvalidInputError begin with what it is about."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{what}: {error}") from error


def _methods(content: object, teacher: tuple[str, ...], shared: Mapping[str, Any], root: Path) -> tuple[Method, ...]:
    entries = _mapping(content, "methods")
    if BASELINE not in entries:
        raise InvalidInputError(
            f"methods: expected one called {BASELINE!r}, that the others are compared with, got {', '.join(entries)}; "
            f"add `{BASELINE}: []`"
        )
    methods = []
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"methods: expected names of letters, digits, '_', '.' and '-', for they name folders, got {name!r}"
            )
        with said_of(f"methods.{name}"):
            methods.append(_method(name, entry, teacher, shared, root))
    return tuple(methods)


def _method(name: str, entry: object, teacher: tuple[str, ...], shared: Mapping[str, Any], root: Path) -> Method:
    content: Mapping[str, Any] = entry if isinstance(entry, dict) else {"distil": entry}
    _check_keys(content, _METHOD_KEYS, "a method")
    distil = _texts(content.get("distil", []), "distil")
    options = read_options(content.get("options", {}), root)
    if "teacher_cache" in options:
        raise InvalidInputError(
            "teacher_cache: expected it among the options of the grid, because all methods have to see the same views "
            "of the images, got it in those of one method; move it"
        )
    if distil:
        teacher = _texts(content["teacher"], "teacher") if "teacher" in content else teacher
        if name == BASELINE:
            raise InvalidInputError(f"expected no distillation, got {', '.join(distil)}; use another name for it")
        if not teacher:
            raise InvalidInputError("teacher: expected one for a method that distils, got none; add it to the grid")
        return Method(name, distil, teacher, options)
    if "teacher" in content:
        raise InvalidInputError("teacher: expected none for a method that does not distil; remove it, or add distil")
    if name != BASELINE and all(shared.get(key) == value for key, value in options.items()):
        raise InvalidInputError("expected something that differs from the baseline, got nothing; add distil or options")
    return Method(name, options=options)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"{file}: expected a grid, got none ({error.strerror}); check the path") from error
    if len(raw) > _MAX_BYTES:
        raise InvalidInputError(f"{file}: expected a grid of at most {_MAX_BYTES} bytes, got more; is it a GRID.yaml?")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{file}: expected UTF-8 text, got byte {error.start} that is not") from error


def _load(text: str, file: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Safe, and strict: a key that is given twice is an error. 1e-3 is a number, as in YAML 1.2."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            counts = Counter(keys)
            if twice := [key for key in counts if counts[key] > 1]:
                raise InvalidInputError(f"{file}: expected each name once, got {twice[0]!r} again; rename one of them")
            if "<<" in counts:  # a kilobyte of them can ask for gigabytes
                raise InvalidInputError(f"{file}: expected no merge keys, got <<; write out what they stand for")
            content: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
            return content

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    try:
        content = yaml.load(text, Loader=Loader)
    except InvalidInputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise InvalidInputError(f"{file}: expected yaml, got broken text ({problem}); correct it") from error
    with said_of(file):
        return _mapping(content, "a grid")


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidInputError(f"{what}: expected a mapping from names, got {reprlib.repr(value)}")
    return value


def _check_keys(content: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    if unknown := [key for key in content if key not in known]:
        raise InvalidInputError(f"expected {what} of {', '.join(known)}, got {reprlib.repr(unknown[0])}; correct it")


def _path(content: Mapping[str, Any], key: str, root: Path) -> Path | None:
    value = content.get(key)
    if key in content and (not isinstance(value, str) or not value):
        raise InvalidInputError(f"{key}: expected a path, got {reprlib.repr(value)}")
    return None if value is None else (root / value).resolve()


def _texts(value: object, key: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise InvalidInputError(f"{key}: expected a list of texts such as [a, 'b:c=1'], got {reprlib.repr(value)}")
    return tuple(value)


def _several(value: object, key: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidInputError(f"{key}: expected a list with at least one value, got {reprlib.repr(value)}")
    values = tuple(read(each, key) for each in value)
    if len(set(values)) < len(values):
        raise InvalidInputError(f"{key}: expected each value once, got {reprlib.repr(value)}; remove the repeated ones")
    return values


def _whole(value: object, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(f"{key}: expected whole numbers of 0 or more, got {reprlib.repr(value)}")
    return value


def _weight(value: object, key: str) -> float:
    return _number(value, key, "finite numbers above 0", lambda number: 0 < number < math.inf)


def _number(value: object, key: str, wanted: str, fits: Callable[[float], bool]) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
        raise InvalidInputError(f"{key}: expected {wanted}, got {reprlib.repr(value)}")
    return float(value)
