"""Each face crop is encoded once, though the windows it is in overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mer.cache import FeatureSequence, MerError
from mer.stages.interfaces import FaceCrops

Encoded = FeatureSequence | MerError
CROPS = "crops"
"""Note of face crops: the number of each crop in the video (`PeopleWatcher`)."""


class CropMemo:
    """Remembers the features of the crops of the last windows.

    Only for encoders that take each crop for itself (`per_crop`); the features of a window are then the rows of its
    crops, in their order.
    """

    def __init__(self) -> None:
        self._known: dict[int, npt.NDArray[np.float32]] = {}

    def encode(
        self,
        clips: Mapping[int, FaceCrops],
        encode: Callable[[Sequence[FaceCrops]], Mapping[int, Encoded]],
    ) -> dict[int, Encoded]:
        """Features of some windows' crops.

        Parameters
        ----------
        clips
            Row to crops, with the note `crops`.
        encode
            Encodes crops; gives the result of every place.
        """
        fresh: dict[int, list[int]] = {}
        taken = set(self._known)
        for row, faces in clips.items():
            numbers = faces.note[CROPS]
            places = [place for place, number in enumerate(numbers) if number not in taken]
            taken.update(numbers)
            if places:
                fresh[row] = places
        parts = [_some(clips[row], places) for row, places in fresh.items()]
        failed: dict[int, MerError] = {}
        for place, result in encode(parts).items() if parts else ():
            row = list(fresh)[place]
            numbers = [clips[row].note[CROPS][at] for at in fresh[row]]
            if isinstance(result, MerError):
                failed |= dict.fromkeys(numbers, result)
            else:
                self._known |= dict(zip(numbers, result.values[result.valid], strict=True))
        found = {row: self._of(faces, failed) for row, faces in clips.items()}
        kept = {number for faces in clips.values() for number in faces.note[CROPS]}
        self._known = {number: values for number, values in self._known.items() if number in kept}
        return found

    def _of(self, faces: FaceCrops, failed: Mapping[int, MerError]) -> Encoded:
        numbers = faces.note[CROPS]
        for number in numbers:
            if number in failed:
                return failed[number]
        rows = np.stack([self._known[number] for number in numbers])
        values = np.zeros((len(faces.times), rows.shape[1]), np.float32)
        values[faces.valid] = rows
        return FeatureSequence(values, faces.times, faces.valid)


def _some(faces: FaceCrops, places: Sequence[int]) -> FaceCrops:
    """Some crops as a clip of their own."""
    times = faces.times[faces.valid][list(places)]
    return replace(faces, crops=faces.crops[list(places)], times=times, valid=np.ones(len(places), np.bool_), note={})
