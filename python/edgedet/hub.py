"""Bundles in folders of the layout of Hugging Face's hub, where they lie in ``bundle/`` beside the model card."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgedet._core import BundleError, InvalidInputError
from edgedet.bundle import copy_bundle
from edgedet.extras import needs_extra

HUB: Final = "hub:"  # before the id of a model on the hub
BUNDLE: Final = "bundle"  # the folder in the folder
_FILES: Final = ("*.json", "*.onnx", "report.html")  # of a bundle


def pull_bundle(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    revision: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Copies the bundle out of a folder of the hub's layout, every sha256 checked, and nothing else.

    Args:
        source: The folder, or ``hub:OWNER/NAME``.
        out: The bundle folder to make. Appears complete or not at all.
        revision: For the hub: the commit, all 40 digits.
        overwrite: Replace a bundle that exists. A folder that is not a bundle is never replaced.

    Returns:
        ``out``.

    Raises:
        BundleError: There is no bundle, it is damaged, or ``out`` exists.
        InvalidInputError: The hub does not give it, or the revision is not pinned.
        Error: ``huggingface_hub`` is needed and not installed.
    """
    folder = open_folder(source, [f"{BUNDLE}/{name}" for name in _FILES], revision=revision)
    target = Path(out)
    if not (folder / BUNDLE / "model.json").is_file():
        raise BundleError(f"{source}: expected a bundle in {BUNDLE}/, got none; ask its maker to push one")
    copy_bundle(folder / BUNDLE, target, overwrite=overwrite)
    return target


def open_folder(source: str | os.PathLike[str], patterns: Sequence[str], *, revision: str | None) -> Path:
    """A folder as it is, or what the hub gives of one at a commit: only files of these patterns, from its cache or new.

    Raises:
        InvalidInputError: There is no such folder, the hub does not give it, or the revision is not pinned.
        Error: ``huggingface_hub`` is needed and not installed.
    """
    name = str(source)
    if not name.startswith(HUB):
        if revision is not None:
            raise InvalidInputError(f"{name}: expected a revision for models of the hub only ({HUB}OWNER/NAME)")
        if not Path(source).is_dir():
            raise InvalidInputError(f"{name}: expected a folder, or {HUB}OWNER/NAME, got neither; check the path")
        return Path(source)
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InvalidInputError(
            f"{name}: expected the commit to take, 40 digits (--revision), got {revision}; branches and tags move. Its "
            "page on the hub lists them under History"
        )
    with needs_extra("hub"):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name[len(HUB) :], revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # of the connection, of the hub, of the cache: each has types of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInputError(
            f"{name}: expected a model of the Hugging Face hub with this commit, got none ({reason}); check both "
            "and the connection, or log in"
        ) from error
