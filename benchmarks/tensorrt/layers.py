"""What an engine consists of: why int8 is, or is not, faster than half precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Types of layers that change the format or type of a tensor, and of those that compute nothing.
_REFORMAT = ("reformat", "cast")
_MOVES = (*_REFORMAT, "shuffle", "constant", "noop", "no_op", "copy")


def layer_summary(nodes: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Counts of an engine's layers, as `Detector.execution_graph` gives them.

    Returns:
        "layers": in all; "by_precision": of those that compute, by the type that they read; "reformats": those that
        only change a format or type; "by_type"; "milliseconds_by_precision" where the nodes say how long they take
        ("milliseconds").
    """
    computing = [node for node in nodes if not _is(node, _MOVES)]
    summary: dict[str, Any] = {
        "layers": len(nodes),
        "computing": len(computing),
        "by_precision": dict(Counter(node.get("precision") or "unknown" for node in computing).most_common()),
        "reformats": sum(_is(node, _REFORMAT) for node in nodes),
        "by_type": dict(Counter(node.get("type", "") for node in nodes).most_common()),
    }
    if nodes and all("milliseconds" in node for node in nodes):
        shares: Counter[str] = Counter()
        for node in nodes:
            kind = "reformat" if _is(node, _REFORMAT) else node.get("precision") or "unknown"
            shares[kind] += float(node["milliseconds"])  # type: ignore[assignment]
        summary["milliseconds_by_precision"] = {kind: round(value, 4) for kind, value in shares.most_common()}
    return summary


def _is(node: Mapping[str, str], words: Sequence[str]) -> bool:
    # Names are those of the network's layers, but for what TensorRT puts between them.
    kind = node.get("type", "").lower()
    return any(word in kind for word in words) or node.get("name", "").startswith("Reformatting")


def why_not_faster(int8: Mapping[str, Any], half: Mapping[str, Any]) -> list[str]:
    """Findings about an int8 engine that is no faster than one in half precision, from both `layer_summary`s."""
    found = []
    by_precision = int8["by_precision"]
    in_int8 = sum(count for kind, count in by_precision.items() if kind in ("s8", "u8"))
    found.append(f"{in_int8} of {int8['computing']} computing layers read int8 ({_list(by_precision)})")
    more = int8["reformats"] - half["reformats"]
    found.append(
        f"{int8['reformats']} layers only change a format or type, {abs(more)} {'more' if more >= 0 else 'fewer'} "
        f"than in half precision; {int8['layers']} layers in all against {half['layers']}"
    )
    floats = by_precision.get("f32", 0)
    if floats > half["by_precision"].get("f32", 0):
        found.append(
            f"{floats} layers run in float32 ({half['by_precision'].get('f32', 0)} in the engine of half precision): "
            "what is not in int8 is not in half precision either"
        )
    if "milliseconds_by_precision" in int8:
        found.append(f"milliseconds: {_list(int8['milliseconds_by_precision'])}")
    return found


def _list(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{kind} {value:g}" for kind, value in counts.items())
