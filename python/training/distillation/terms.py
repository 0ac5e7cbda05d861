"""What a run distils, as the command line says it: `cwd`, `logit:weight=2,temperature=4`, `dsi:weight=5,rho=0.11`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from torch import nn

from edgedet import InvalidInputError
from training.distillation.cwd import ChannelWiseDistillation, CwdOptions
from training.distillation.feature import FeatureDistillation, FeatureOptions
from training.distillation.localisation import LocalisationDistillation, LocalisationOptions
from training.distillation.logit import LogitDistillation, LogitOptions
from training.distillation.mgd import MaskedGenerativeDistillation, MgdOptions
from training.distillation.query import QueryDistillation, QueryOptions
from training.distillation.schedule import DistillationSchedule
from training.distillation.semantic import SemanticInjection, SemanticOptions

Need = Literal["prediction", "distributions", "features", "queries", "attention", "semantic"]


@dataclass(frozen=True)
class Method:
    """A loss module with its options, what it needs of a teacher, and what it makes alike."""

    module: type[nn.Module]
    options: type[Any]
    needs: frozenset[Need]
    about: str


METHODS: dict[str, Method] = {
    "logit": Method(LogitDistillation, LogitOptions, frozenset({"prediction"}), "class scores"),
    "feature": Method(FeatureDistillation, FeatureOptions, frozenset({"features", "attention"}), "encoder maps"),
    "cwd": Method(ChannelWiseDistillation, CwdOptions, frozenset({"features"}), "where channels respond"),
    "mgd": Method(MaskedGenerativeDistillation, MgdOptions, frozenset({"features"}), "maps, made from masked maps"),
    "query": Method(
        QueryDistillation, QueryOptions, frozenset({"prediction", "queries", "attention"}), "decoder states"
    ),
    "localisation": Method(
        LocalisationDistillation, LocalisationOptions, frozenset({"prediction", "distributions"}), "edges of boxes"
    ),
    "dsi": Method(SemanticInjection, SemanticOptions, frozenset({"semantic"}), "what the coarsest map means"),
}
STAGE_ADAPTIVE = "stage-adaptive"  # features first, logits later: two terms that share a schedule


@dataclass(frozen=True, kw_only=True)
class Common:
    """What can be said of every term.

    weight: what its loss is multiplied by. teacher: the name of the one it follows; None for the only one, or the first
    that fits. schedule: factor over the epochs, see `schedule_factor`; rest: 1 minus that factor instead.
    rho, delta, every: have the weight keep the encoder's share of the gradient, see `AdaptiveWeight`; delta is 0.01 and
    every 100 steps if not given.
    """

    weight: float = 1.0
    teacher: str | None = None
    schedule: DistillationSchedule = "constant"
    rest: bool = False
    rho: float | None = None
    delta: float = 0.01
    every: int = 100


@dataclass(frozen=True)
class Term:
    """One loss of the sum: a method with its options, and how it is weighed."""

    method: str
    options: Any
    common: Common


def parse_terms(texts: Sequence[str]) -> tuple[Term, ...]:
    """The terms of texts such as `query:matching=index,weight=0.5`.

    "stage-adaptive" stands for the terms feature and logit with the schedule "cosine", or the one it names, and takes
    options of both. Raises InvalidInputError for unknown methods, options and values.
    """
    return tuple(term for text in texts for term in _parse(text))


def _parse(text: str) -> list[Term]:
    name, _, rest = text.partition(":")
    given: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidInputError(f"distil: expected METHOD:option=value,..., got {part!r} in {text!r}")
        given[key.strip().replace("-", "_")] = value.strip()
    if name == STAGE_ADAPTIVE:
        given.setdefault("schedule", "cosine")
        methods = [("feature", given), ("logit", {**given, "rest": "true"})]
        known = {f.name for kind in (Common, FeatureOptions, LogitOptions) for f in fields(kind)}
    elif name in METHODS:
        methods = [(name, given)]
        known = {f.name for kind in (Common, METHODS[name].options) for f in fields(kind)}
    else:
        raise InvalidInputError(f"distil: expected one of {', '.join([*METHODS, STAGE_ADAPTIVE])}, got {name!r}")
    if unknown := sorted(given.keys() - known):
        raise InvalidInputError(f"distil: {name} has the options {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return [Term(method, _read(METHODS[method].options, own, name), _common(own, name)) for method, own in methods]


def _common(given: Mapping[str, str], method: str) -> Common:
    common: Common = _read(Common, given, method)
    if not common.weight > 0:
        raise InvalidInputError(f"distil: {method}: expected a weight above 0, got {common.weight}")
    return common


def _read(kind: type[Any], given: Mapping[str, str], method: str) -> Any:
    """An options dataclass from texts, by the types of its fields; texts of other names are left alone."""
    hints = get_type_hints(kind)
    return kind(**{f.name: _value(f, hints[f.name], given[f.name], method) for f in fields(kind) if f.name in given})


def _value(option: Field[Any], hint: Any, text: str, method: str) -> Any:
    kinds = [each for each in get_args(hint) if each is not type(None)]
    wanted: str
    if kinds and all(isinstance(each, str) for each in kinds):
        if text in kinds:
            return text
        wanted = f"one of {', '.join(kinds)}"
    else:
        kind = kinds[0] if kinds else hint
        try:
            return {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            wanted = "true or false" if kind is bool else {int: "a whole number", float: "a number"}[kind]
    raise InvalidInputError(f"distil: {method}: expected {wanted} for {option.name}, got {text!r}")


def write_term(term: Term) -> str:
    """The text that `parse_terms` makes the term of."""
    values = {}
    for part in (term.common, term.options):
        for option in fields(part):
            value = getattr(part, option.name)
            if option.default is MISSING or value != option.default:
                values[option.name] = str(value).lower() if isinstance(value, bool) else f"{value}"
    return term.method + (":" + ",".join(f"{key}={value}" for key, value in values.items()) if values else "")


def method_table() -> str:
    """All methods with their options and defaults, for people."""
    lines = ["--distil METHOD:option=value,...", ""]
    for name, method in METHODS.items():
        lines.append(f"{name:15} {method.about:30} {_defaults(method.options)}".rstrip())
    lines.append(f"{STAGE_ADAPTIVE:15} {'feature, later logit':30} schedule=cosine, options of both")
    lines += ["", f"all take: {_defaults(Common)}"]
    return "\n".join(lines)


def method_options() -> dict[str, dict[str, Any]]:
    """The same for programs: what each method is about, and its options with their defaults."""
    own = {name: (method.about, method.options) for name, method in METHODS.items()}
    return {
        name: {"about": about, "options": {f.name: f.default for f in fields(options)}}
        for name, (about, options) in own.items()
    }


def _defaults(kind: type[Any]) -> str:
    hints = get_type_hints(kind)
    shown = []
    for option in fields(kind):
        choices = [each for each in get_args(hints[option.name]) if isinstance(each, str)]
        default = "-" if option.default is None else str(option.default)
        others = "|".join(each for each in choices if each != default)
        shown.append(f"{option.name}={default}" + (f"|{others}" if others else ""))
    return ", ".join(shown).replace("False", "false")
