"""What a step of DSI holds in memory: the student's tensors, and the teacher's where its answers are not cached.

    python -m benchmarks.distil_memory [--model rtdetrv4-s] [--size 640] [--batch 4] [--budget 4GiB]

An account, made on a CPU: weights, gradients, moments, averaged weights, and everything that autograd keeps for the
backward pass (each storage once), in float32 and, of the forward pass, in bfloat16 as autocast takes it. The teacher is
a ViT-B/16 (DINOv3) with random weights. What a GPU's allocator loses to fragments, what kernels take as workspace and
the CUDA context come on top. Writes benchmarks/results/distil_memory.json.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.distillation.distiller import Distiller
from training.distillation.terms import parse_terms
from training.files import write_json
from training.losses.criterion import Criterion
from training.memory import parse_bytes, readable_bytes
from training.models.detector import build
from training.models.outputs import TeacherOutput, Widths
from training.models.zoo import detector_config
from training.recipes import recipe_for
from training.teachers.detector import widths_of

WIDTH, PATCH = 768, 16


def size_of(tensors: list[Tensor]) -> int:
    """Bytes of the storages, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def kept_by_autograd(forward: Callable[[], Tensor], ours: list[Tensor]) -> int:
    """Bytes that the graph of a scalar keeps, besides tensors that are there anyway."""
    known = {t.untyped_storage().data_ptr() for t in ours}
    storages: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known and storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())  # so that no other tensor gets the address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(storages.values())
    del loss
    held.clear()
    gc.collect()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rtdetrv4-s")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--objects", type=int, default=20, help="per image")
    parser.add_argument("--budget", default="4GiB")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    side, batch = arguments.size, arguments.batch
    model = build(detector_config(arguments.model, input_size=(side, side))).train()
    criterion = Criterion(recipe_for(arguments.model, published=True).criterion)
    distiller = Distiller(
        parse_terms(["dsi:rho=0.11"]),
        student=widths_of(model, classes=80),
        teachers={"vfm": Widths(semantic=WIDTH)},
        epochs=1,
    )
    images = torch.rand(batch, 3, side, side)
    targets = [
        {"labels": torch.randint(80, (arguments.objects,)), "boxes": torch.rand(arguments.objects, 4) * 0.25 + 0.25}
        for _ in range(batch)
    ]
    cells = side // 32
    patches = torch.randn(batch, WIDTH, cells, cells)
    parameters: list[Tensor] = [*model.parameters(), *distiller.parameters()]
    weights = size_of([*parameters, *model.buffers()])

    def step(precision: torch.dtype) -> Callable[[], Tensor]:
        def forward() -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                output = model(images, targets)
            terms = criterion(output, targets) | distiller(output, {"vfm": TeacherOutput(patches=patches)}, epoch=0)
            return torch.stack(list(terms.values())).sum()

        return forward

    teacher: nn.Module = DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=WIDTH, num_hidden_layers=12, num_attention_heads=12, intermediate_size=4 * WIDTH,
            patch_size=PATCH, num_register_tokens=4,
        )
    )  # fmt: skip
    tokens = batch * (cells * cells + 5)
    account: dict[str, Any] = {
        "weights": weights,
        "gradients": size_of(parameters),
        "moments": 2 * size_of(parameters),
        "averaged weights": size_of([*model.parameters(), *model.buffers()]),
        "images and patches": size_of([images, patches]),
    }
    live = {
        "teacher's weights": size_of(list(teacher.parameters())),
        "teacher's widest layer, in and out": 4 * tokens * (WIDTH + 2 * 4 * WIDTH),
    }
    result: dict[str, Any] = {
        "command": "python -m benchmarks.distil_memory", "model": arguments.model, "size": side, "batch": batch,
        "teacher": "ViT-B/16, random weights", "bytes": account | live, "note": "an account, not run on a GPU",
    }  # fmt: skip
    for name, precision in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        kept = kept_by_autograd(step(precision), [*parameters, *model.buffers(), images, patches])
        cached = sum(account.values()) + kept
        result[name] = {
            "kept for backward": kept,
            "cached teacher": cached,
            "live teacher": cached + sum(live.values()),
        }
        for kind in ("cached teacher", "live teacher"):
            total = result[name][kind]
            fits = "fits" if total <= parse_bytes(arguments.budget) else "does not fit"
            print(f"{name}, {kind}: {readable_bytes(total)}, {fits} in {arguments.budget}")
    for what, size in result["bytes"].items():
        print(f"  {what}: {readable_bytes(size)}")
    write_json(arguments.out / "distil_memory.json", result)


if __name__ == "__main__":
    main()
