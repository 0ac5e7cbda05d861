"""One node of an ONNX graph on its way through torch: what it is, its attributes, its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgedet import ModelError


@dataclass(frozen=True)
class Call:
    """What an operator gets to work with.

    Attributes:
        node: name of the ONNX node, for messages.
        kind: its op_type.
        attributes: its attributes, strings decoded.
        inputs: its inputs; None for an optional one that is left out at the end or in between.
        outputs: number of its outputs.
    """

    node: str
    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Tensor | None]
    outputs: int = 1

    def __getitem__(self, slot: int) -> Tensor:
        """Input `slot`, which must be there."""
        value = self.optional(slot)
        if value is None:
            raise self.error(f"expected input {slot}, got none")
        return value

    def optional(self, slot: int) -> Tensor | None:
        """Input `slot`, None where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    def get(self, name: str, default: Any) -> Any:
        """An attribute, `default` where the node does not carry it."""
        return self.attributes.get(name, default)

    def integers(self, slot: int, attribute: str | None = None) -> list[int] | None:
        """Integers that are an input in new operator sets and were an attribute in old ones; None for neither."""
        value = self.optional(slot)
        if value is not None:
            return [int(number) for number in value.reshape(-1).tolist()]
        found = self.attributes.get(attribute) if attribute else None
        return None if found is None else [int(number) for number in found]

    def expect(self, condition: bool, wanted: str) -> None:
        """Refuse a form of the operator that is not covered.

        Raises:
            ModelError: the condition does not hold.
        """
        if not condition:
            raise self.error(f"expected {wanted}, got {dict(self.attributes)}")

    def error(self, text: str) -> ModelError:
        """An error that names the node."""
        return ModelError(f"{self.kind} '{self.node}': {text}; this form of it cannot be fine-tuned")


Operator = Callable[[Call], Tensor | tuple[Tensor, ...]]
