"""Objects followed from frame to frame, by the package trackers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedet import Detections, Error


class Tracker:
    """ByteTrack of the package ``trackers``, or that of older versions of ``supervision``.

    Args:
        rate: Frames in a second, for how long a lost object is remembered.

    Raises:
        Error: Neither package is installed.
    """

    def __init__(self, rate: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ModuleNotFoundError as error:
            try:
                from supervision import ByteTrack
            except ImportError:
                raise Error(
                    f"tracking needs the package trackers, which cannot be imported ({error}); "
                    "run: pip install trackers, or leave --track out"
                ) from None
            self._update = ByteTrack(frame_rate=max(1, round(rate))).update_with_detections
        else:
            self._update = ByteTrackTracker(frame_rate=rate).update

    def update(self, found: Detections) -> list[int | None]:
        """The number of each object's track; None where it is not sure of one yet. Once per frame, in order."""
        given = found.to_supervision()
        given.data["place"] = np.arange(len(found))
        tracked = self._update(given)
        tracks: list[int | None] = [None] * len(found)
        if len(tracked) and tracked.tracker_id is not None:
            for place, track in zip(tracked.data["place"].tolist(), tracked.tracker_id.tolist()):
                tracks[place] = track if track >= 0 else None
        return tracks


def with_tracks(found: Detections, tracks: Sequence[int | None]) -> Detections:
    """With the number of its track behind the name of each object, to be drawn."""
    names = [name if track is None else f"{name} #{track}" for name, track in zip(found.names, tracks)]
    return Detections(found.boxes, found.scores, found.labels, names)
