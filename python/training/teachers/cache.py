"""What a teacher has said once it need not say again: its outputs for each view of each image, on the disk.

    DIR/<digest of the identity>/<need>/   a `RowStore` for each need: predictions, features, ...

So methods that need different things share what they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedet import InvalidInputError
from training.distillation.terms import Need
from training.models.outputs import TeacherOutput, Widths
from training.teachers.packing import Field, assemble, layout_from_json, layout_of, layout_to_json, pack, select, unpack
from training.teachers.store import RowStore, read_about
from training.teachers.teacher import Teacher

_Layout = tuple[Field, ...]


class CachedTeacher:
    """A teacher that is asked only about views that are not in its cache, and loaded only for that.

    What comes back has always been through the cache's rounding, so that it does not matter who computed it, this run,
    one before or one that was killed. Where a view of a batch is missing, the teacher is asked about the whole batch,
    because the last digits of what it says depend on it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        load: Callable[[], Teacher],
        identity: dict[str, Any],
        keys: int,
        needs: Collection[Need],
        bits: int,
    ) -> None:
        """folder: of all caches; this one is in a folder of its own, named after its identity.

        load: brings the teacher, on its device. identity: all that its outputs depend on, in json's types.
        keys: views are numbered in [0, keys). needs: what is kept. bits: 16 or 8, see `packing.layout_of`.
        """
        self._about = {"identity": identity, "bits": bits, "keys": keys}
        digest = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()
        self.folder = folder / digest[:20]
        self._load, self._bits, self._keys, self._needs = load, bits, keys, sorted(needs)
        self._teacher: Teacher | None = None
        self._stores: dict[Need, RowStore] = {}
        self._layouts: dict[Need, _Layout] = {}
        self._asked = self._found = 0
        heads = {need: read_about(self.folder / need) for need in self._needs}
        known = {need: head for need, head in heads.items() if head is not None}
        for need, head in known.items():
            self._layouts[need], self.widths = _described(self.folder / need, head)
        if len(known) < len(self._needs):
            self.widths = self.teacher.widths

    @property
    def teacher(self) -> Teacher:
        """The teacher itself, loaded when it is first needed."""
        if self._teacher is None:
            with torch.random.fork_rng():  # a step must not depend on whether the teacher is made in it
                self._teacher = self._load()
        return self._teacher

    def __call__(self, images: Tensor, keys: Sequence[int] = ()) -> TeacherOutput:
        """What the teacher says about images (B, 3, H, W), RGB in [0, 1], whose views have these keys.

        Without keys (images that are in no dataset) nothing is kept, and where the layout is known, nothing asked:
        the output is zeros.
        """
        if not keys:
            return self._zeros(images) if self._complete else self.teacher(images)
        rows = {need: self._store(need).get(keys) for need in self._layouts}
        if self._complete and all(there.all() for _, there in rows.values()):
            self._found += len(keys)
            return self._output({need: packed for need, (packed, _) in rows.items()}, images.device)
        output = self.teacher(images)
        self._asked += len(keys)
        merged = {}
        for need in self._needs:
            tensors = select(output, need)
            if need not in self._layouts:
                self._layouts[need] = layout_of(tensors, self._bits)
                rows[need] = self._store(need).get(keys)
            merged[need], there = rows[need]
            if not there.all():
                fresh = pack(tensors, self._layouts[need], len(keys))
                merged[need][~there] = fresh[~there]
                missing = [key for key, known in zip(keys, there, strict=True) if not known]
                self._store(need).put(missing, fresh[~there])
        return self._output(merged, images.device)

    def has(self, keys: Sequence[int]) -> bool:
        """Whether it has whole answers for all of these views."""
        return self._complete and all(bool(self._store(need).get(keys)[1].all()) for need in self._needs)

    @property
    def _complete(self) -> bool:
        """Whether it is known how everything that is needed is stored."""
        return len(self._layouts) == len(self._needs)

    def _store(self, need: Need) -> RowStore:
        if need not in self._stores:
            layout = self._layouts[need]
            widths = {**vars(self.widths), "features": list(self.widths.features)}
            about = {**self._about, "layout": layout_to_json(layout), "widths": widths}
            size = sum(field.size for field in layout)
            self._stores[need] = RowStore(self.folder / need, rows=self._keys, row_bytes=size, about=about)
        return self._stores[need]

    def _output(self, rows: Mapping[Need, Any], device: torch.device) -> TeacherOutput:
        tensors: dict[str, Tensor] = {}
        for need, packed in rows.items():
            tensors |= unpack(packed, self._layouts[need], device)
        return assemble(tensors)

    def _zeros(self, images: Tensor) -> TeacherOutput:
        fields = [field for layout in self._layouts.values() for field in layout]
        return assemble({f.name: torch.zeros(len(images), *f.shape, device=images.device) for f in fields})

    def report(self) -> str:
        """One line: how often the cache had the answer."""
        return f"{self._found} answers from the cache, {self._asked} computed and kept ({self.folder})"


def _described(folder: Path, head: Mapping[str, Any]) -> tuple[_Layout, Widths]:
    try:
        widths = head["widths"]
        return layout_from_json(head["layout"]), Widths(**{**widths, "features": tuple(widths["features"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{folder}: expected the description of a cache, got {error!r}; remove the folder"
        ) from error
