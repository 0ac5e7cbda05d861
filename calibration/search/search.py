"""The search: cheap proxies say what to try, measured AP and measured milliseconds decide.

0. The half types that the device computes in: of the float model, on TensorRT of the file with types.
1. Settings: every observer, with and without equalisation, all convolutions in int8, by divergence; AP of the best.
2. Convolutions that the engine's counters say are slower in int8 go back to float, if the clock agrees; on TensorRT,
   whose engines give no counters, groups of them that the clock says are slower.
3. Groups of matrix products come into int8, where the clock says they pay.
4. Each group alone back in float: what that gives in divergence and costs in time.
5. Groups, and the layers of the worst ones, go back in the order of divergence won per time lost, and AP is measured
   at every step, until the limit holds or nothing is gained any more: over float32, or over a half type
   that holds.
6. The candidates that hold are timed once more, by turns, and the first of them is the answer; or the float model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calibration.calibrate import Calibrated, calibrate
from calibration.collect import CollectOptions
from calibration.inputs import sample_batches
from calibration.placement import PlacementOptions
from calibration.quantize import Quantized, build
from calibration.search.bench import Bench
from calibration.search.groups import Group, groups
from calibration.search.journal import Candidate, Choice, Journal, value_of
from calibration.search.options import SearchOptions
from calibration.search.profile import layer_times
from edgedet import Detector

# Observer and percentile of the settings that are tried, each with and without equalisation.
_OBSERVERS: tuple[dict[str, Any], ...] = (
    {"observer": "percentile", "percentile": 99.99},
    {"observer": "percentile", "percentile": 99.9},
    {"observer": "entropy"},
    {"observer": "mse"},
    {"observer": "average"},
    {"observer": "minmax"},
)
_ALPHAS = (0.5, 0.0)
# How many settings have their AP measured.
_FINALISTS = 3
# A change of time smaller than this is not told from none.
_NOISE = 0.005
# What int8 has to save to be worth having.
_LEAST_GAIN = 0.02
# Layers that lose more than this share of the time of all layers in int8, and why they are tried in float.
_SLOWER = {0.01: "what is much slower in int8 in float", 0.0: "what is slower in int8 in float"}
# Groups that bring less than this share of the divergence are not taken apart.
_SPLIT = 0.1

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Answer:
    """What a search found.

    Attributes:
        precision: "int8", "bf16", "fp16" or "fp32".
        candidate: the chosen one; for "fp32" the one that came nearest, None if none was measured.
        reason: why.
        float_ap: AP of the float engine on the images of the search.
        float_ms: its median time in the last timing.
        complete: false where the budget ended the search.
        minutes: that it took, over all its sessions.
    """

    precision: str
    candidate: Candidate | None
    reason: str
    float_ap: float
    float_ms: float
    complete: bool


class Search:
    """One search over one bundle; every measurement goes through the journal."""

    def __init__(
        self,
        bundle: Path,
        bench: Bench,
        journal: Journal,
        *,
        options: SearchOptions,
        collect: CollectOptions,
        images: Path | None,
        progress: Progress,
    ) -> None:
        """Nothing is measured yet.

        Args:
            bundle: whose float model is quantised.
            bench: the engine and the images.
            journal: what is known already.
            options: what is asked for.
            collect: batch, memory bound and threads of the calibration.
            images: folder of the calibration images, where it is not the recorded one.
            progress: told (stage, done, total).
        """
        self._bundle, self._bench, self._journal = bundle, bench, journal
        self._options, self._collect, self._images = options, collect, images
        self._progress = progress
        self._end = time.monotonic() + 60.0 * options.budget_minutes
        self._calibrated: dict[float, Calibrated] = {}
        self._engine: tuple[Choice, Detector] | None = None

    def run(self) -> Answer:
        """Search until the answer is found or the budget is spent."""
        complete = True
        try:
            self._half_types()
            choice = self._speed(self._settings())
            self._walk(self._linear(choice))
        except _BudgetSpentError:
            complete = False
        return self._answer(complete)

    def calibrated(self, alpha: float) -> Calibrated:
        """The graph equalised with this strength, all its allowed layers measured."""
        if alpha not in self._calibrated:
            self._calibrated[alpha] = calibrate(
                self._bundle,
                backend=self._options.backend,
                alpha=alpha,
                placement=PlacementOptions(scope="all"),
                collect_options=self._collect,
                images=self._images,
                progress=self._progress,
            )
        return self._calibrated[alpha]

    def build(self, choice: Choice) -> Quantized:
        """The model of a choice."""
        return build(self.calibrated(choice.alpha), self._options.backend, choice.options(self._collect))

    # What to try

    def _half_types(self) -> None:
        """The float model in half types; AP of those that are faster."""
        for half in self._bench.halves():
            taken = self._time(Choice(precision=half), f"the device computes in {half}")
            if value_of(taken.ratio) <= 1.0 - _LEAST_GAIN:
                self._lose(taken.choice, taken.why)

    def _worth_it(self, measured: Candidate) -> bool:
        """Whether int8 layers still gain time over float32 and, if that is the target, over half types that hold."""
        limit = 1.0 - _LEAST_GAIN
        if self._options.target == "latency":
            halves = [entry for entry in self._journal.candidates.values() if entry.choice.precision != "int8"]
            limit = min([limit, *(value_of(entry.ratio) for entry in halves if self._holds(entry))])
        return value_of(measured.ratio) <= limit

    def _settings(self) -> Choice:
        """The best observer and equalisation with every convolution in int8."""
        tried = []
        for alpha in _ALPHAS:
            layers = self.calibrated(alpha).placement.layers
            linear = tuple(sorted(layer.node for layer in layers if layer.op != "Conv"))
            for observer in _OBSERVERS:
                choice = Choice(alpha=alpha, keep_float=linear if len(linear) < len(layers) else (), **observer)
                tried.append(self._diverge(choice, "observer and equalisation"))
        tried.sort(key=lambda entry: value_of(entry.divergence))
        measured = [self._lose(entry.choice, "observer and equalisation") for entry in tried[:_FINALISTS]]
        return max(measured, key=lambda entry: (value_of(entry.ap), -value_of(entry.divergence))).choice

    def _speed(self, choice: Choice) -> Choice:
        """Leave in float what the counters say is slower in int8, if the clock agrees.

        Two sets are tried, those that lose much and all that lose: small layers are told apart badly, and one in float
        between two in int8 costs two conversions. Where there are no counters, the clock alone tells, group by group.
        """
        if self._options.backend != "openvino":
            return self._speed_of_groups(choice)
        total = len(self.calibrated(choice.alpha).placement.layers)
        for share, why in _SLOWER.items():
            other = choice.without(self._slower(choice, share))
            if other != choice and len(other.keep_float) < total:
                choice = self._faster(choice, other, why)
        return choice

    def _speed_of_groups(self, choice: Choice) -> Choice:
        total = len(self.calibrated(choice.alpha).placement.layers)
        for group in self._groups(choice):
            other = choice.without(frozenset(group.nodes))
            if other != choice and len(other.keep_float) < total:
                choice = self._faster(choice, other, f"{group.name} in float")
        return choice

    def _slower(self, choice: Choice, share: float) -> frozenset[str]:
        """Int8 layers that take longer than in float, by at least this share of the time of all layers."""
        if self._journal.layer_losses is None:
            calibrated = self.calibrated(choice.alpha)
            layers = [layer.node for layer in calibrated.placement.layers]
            feed = next(sample_batches(calibrated.folder, calibrated.sample, calibrated.spec, batch=1))
            in_float = layer_times(calibrated.graph.model, feed, layers, threads=self._options.threads)
            in_int8 = layer_times(self.build(choice).model, feed, layers, threads=self._options.threads)
            quantised = set(layers) - set(choice.keep_float)
            whole = sum(in_float.values())
            losses = {
                node: (in_int8[node] - in_float[node]) / whole
                for node in quantised
                if node in in_int8 and node in in_float
            }
            self._journal.note_layers(losses)
        else:
            losses = self._journal.layer_losses
        return frozenset(node for node, loss in losses.items() if loss > share)

    def _linear(self, choice: Choice) -> Choice:
        """Bring groups of matrix products into int8, one after the other, where they pay."""
        for group in self._groups(choice):
            missing = frozenset(group.nodes) & set(choice.keep_float)
            if missing == frozenset(group.nodes) and self._is_linear(choice, group):
                choice = self._faster(choice, choice.adding(missing), f"{group.name} in int8")
        return choice

    def _walk(self, choice: Choice) -> None:
        """Give groups back to float, the most accuracy for the least time first, measuring AP at every step."""
        start = self._lose(choice, "all that pays in int8")
        if not self._worth_it(start) or (self._holds(start) and self._options.target == "latency"):
            return
        steps = self._sensitivities(choice)
        for _, name, layers in steps:
            step = choice.without(layers)
            if len(step.keep_float) == len(self.calibrated(choice.alpha).placement.layers):
                return
            if step == choice:
                continue
            choice = step
            measured = self._lose(choice, f"{name} in float")
            if not self._worth_it(measured):
                return
            if self._holds(measured) and self._options.target == "latency":
                return

    def _sensitivities(self, choice: Choice) -> list[tuple[float, str, frozenset[str]]]:
        """What to give back to float: (divergence won per time lost, name, layers), best first.

        Groups first; those that bring much of the divergence are taken apart into layers, and the layers that bring
        most take the group's place.
        """
        whole = self._time(choice, "all that pays in int8")
        total = value_of(whole.divergence)
        found: list[tuple[float, str, frozenset[str]]] = []
        parts = [(group.name, frozenset(group.nodes) - set(choice.keep_float)) for group in self._groups(choice)]
        for name, layers in parts:
            if not layers:
                continue
            won, lost = self._without(choice, whole, name, layers)
            if won < _SPLIT * total or len(layers) == 1:
                found.append((won / lost, name, layers))
                continue
            for position, layer in enumerate(sorted(layers)):
                one = frozenset({layer})
                label = f"{name}, layer {position + 1} of {len(layers)}"
                won_alone = total - value_of(self._diverge(choice.without(one), f"{label} in float").divergence)
                found.append((won_alone / (lost / len(layers)), label, one))
        return sorted(found, key=lambda entry: -entry[0])

    def _without(self, choice: Choice, whole: Candidate, name: str, layers: frozenset[str]) -> tuple[float, float]:
        """Divergence won and time lost by leaving these layers in float; time never counts less than the noise."""
        rest = choice.without(layers)
        if len(rest.keep_float) == len(self.calibrated(choice.alpha).placement.layers):  # the float model itself
            return value_of(whole.divergence), max(1.0 - value_of(whole.ratio), _NOISE)
        without = self._time(rest, f"{name} in float")
        return (
            value_of(whole.divergence) - value_of(without.divergence),
            max(value_of(without.ratio) - value_of(whole.ratio), _NOISE),
        )

    def _faster(self, choice: Choice, other: Choice, why: str) -> Choice:
        before, after = self._time(choice, "all convolutions in int8"), self._time(other, why)
        return other if value_of(after.ratio) < value_of(before.ratio) - _NOISE else choice

    def _groups(self, choice: Choice) -> list[Group]:
        calibrated = self.calibrated(choice.alpha)
        return groups(calibrated.graph, calibrated.placement)

    def _is_linear(self, choice: Choice, group: Group) -> bool:
        kinds = {layer.node: layer.op for layer in self.calibrated(choice.alpha).placement.layers}
        return all(kinds[node] != "Conv" for node in group.nodes)

    # Measuring

    def _diverge(self, choice: Choice, why: str) -> Candidate:
        known = self._known_or_new(choice, why)
        if known.divergence is None:
            known = replace(known, divergence=self._bench.divergence(self._compiled(choice)))
            self._journal.note(known)
        return known

    def _time(self, choice: Choice, why: str) -> Candidate:
        known = self._diverge(choice, why)
        if known.ratio is None:
            taken = self._bench.time(self._compiled(choice), seconds=self._options.seconds)
            known = replace(known, ratio=taken.ratio, ms=taken.ms)
            self._journal.note(known)
        return known

    def _lose(self, choice: Choice, why: str) -> Candidate:
        known = self._time(choice, why)
        if known.ap is None:
            loss = self._bench.loss(self._compiled(choice), lambda done, all: self._progress("AP", done, all))
            known = replace(known, ap=loss.ap, drop=loss.drop, drop_se=loss.drop_se)
            self._journal.note(known)
        return known

    def _known_or_new(self, choice: Choice, why: str) -> Candidate:
        if choice in self._journal.candidates:
            return self._journal.candidates[choice]
        if time.monotonic() > self._end:
            raise _BudgetSpentError
        self._progress("candidates", len(self._journal.candidates) + 1, 0)
        if choice.precision != "int8":
            return Candidate(choice=choice, why=why)
        total = len(self.calibrated(choice.alpha).placement.layers)
        return Candidate(choice=choice, why=why, layers=total - len(choice.keep_float))

    def _compiled(self, choice: Choice) -> Detector:
        if self._engine is None or self._engine[0] != choice:
            self._engine = (choice, self._compile(choice))
        return self._engine[1]

    def _compile(self, choice: Choice) -> Detector:
        if choice.precision != "int8":
            return self._bench.half(choice.precision)
        return self._bench.engine(self.build(choice).model)

    # The answer

    def _holds(self, candidate: Candidate) -> bool:
        return holds(candidate, self._options.max_drop)

    def _answer(self, complete: bool) -> Answer:
        measured = [entry for entry in self._journal.candidates.values() if entry.ap is not None]
        if not measured:
            return Answer("fp32", None, "the budget ended before anything was measured", 0.0, 0.0, complete)
        float_ap = value_of(measured[0].ap) + value_of(measured[0].drop)
        latency = self._options.target == "latency"

        def rank(entry: Candidate) -> tuple[bool, float]:
            gains_nothing = value_of(entry.ratio) > 1.0 - _LEAST_GAIN
            return gains_nothing, value_of(entry.ratio if latency else entry.drop)

        eligible = sorted((entry for entry in measured if self._holds(entry)), key=rank)[:_FINALISTS]
        if not eligible:
            nearest = min(measured, key=lambda entry: value_of(entry.drop) + value_of(entry.drop_se))
            reason = (
                f"the nearest candidate loses {value_of(nearest.drop):.4f} ± {value_of(nearest.drop_se):.4f} AP, "
                f"accepted are {self._options.max_drop:.4f}"
            )
            return Answer("fp32", nearest, reason, float_ap, 0.0, complete)
        engines = [self._compile(entry.choice) for entry in eligible]
        taken = self._bench.times(engines, seconds=3.0 * self._options.seconds)
        timed = [replace(entry, ratio=time_.ratio, ms=time_.ms) for entry, time_ in zip(eligible, taken, strict=True)]
        for entry in timed:
            self._journal.note(entry)
        chosen = min(timed, key=rank)
        float_ms = taken[0].float_ms
        if value_of(chosen.ratio) > 1.0 - _LEAST_GAIN:
            reason = f"the best that keeps the accuracy takes x{value_of(chosen.ratio):.3f} of the float time"
            return Answer("fp32", chosen, reason, float_ap, float_ms, complete)
        precision = chosen.choice.precision
        what = f"{chosen.layers} layers in int8" if precision == "int8" else f"the float model in {precision}"
        reason = (
            f"{what}: x{value_of(chosen.ratio):.3f} of the time for "
            f"{value_of(chosen.drop):.4f} ± {value_of(chosen.drop_se):.4f} AP"
        )
        return Answer(precision, chosen, reason, float_ap, float_ms, complete)


def holds(candidate: Candidate, max_drop: float) -> bool:
    """Whether a measured candidate keeps the accuracy on the images of the search.

    With d = max_drop on n images, the chance that n others show more than the gate allows, max_drop and a standard
    error, is 24 %. A margin would cost speed every time to spare that; `verify` finds it out.
    """
    return candidate.ap is not None and value_of(candidate.drop) <= max_drop


class _BudgetSpentError(Exception):
    """Raised where a new candidate would begin after the time that was given."""
