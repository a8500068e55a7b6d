"""Face encoders on short clips of frames: VideoMAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mer.cache import FeatureSequence

from ..interfaces import EncoderInput, FaceCrops
from .batching import CPU_BUDGETS, run_halving
from .face import PictureRecipe, as_faces, image_size, spread
from .loading import LayerTap, exact_math, load_model, settle, to_device, to_host
from .pretrained import FaceEncoder
from .windows import Window, cut_windows


class LiveVideo:
    """A video model on a device.

    The frames with a face, in order, are cut into overlapping windows of the model's length, and every frame gets the
    mean of the patches of its tubelet. Fewer frames than one window are stretched by showing frames several times,
    each then getting the mean of where it was shown.
    """

    side_by_side = True
    padded = False

    def __init__(self, encoder: FaceEncoder, device: str) -> None:
        self.encoder = encoder
        self.device = device
        self.budget = CPU_BUDGETS["face"]
        self.choice, depth, self.width = encoder.choice()
        model: Any = load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code)
        config = model.config
        self.model = model
        self.frames, self.tubelet = int(config.num_frames), int(config.tubelet_size)
        self.recipe = PictureRecipe.of(encoder.preprocessing()[1], image_size(config))
        self.tap = LayerTap(model, depth, self.choice, self._reduce, encoder.found.label)

    def _reduce(self, hidden: Tensor) -> Tensor:
        """Mean of the patches of each tubelet, (n, tubelets, width) from (n, tubelets x patches, width)."""
        return hidden.reshape(len(hidden), self.frames // self.tubelet, -1, self.width).mean(dim=2)

    def cost(self, item: EncoderInput) -> int:
        """Face crops, at least one window of them."""
        return max(self.frames, len(as_faces(item).crops))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`."""
        clips = [as_faces(item) for item in batch]
        shown = [self._shown(len(clip.crops)) for clip in clips]
        cuts = [cut_windows(len(order), self.frames, self.frames // 2) for order in shown]
        windows = [(index, window) for index, cut in enumerate(cuts) for window in cut]
        rows = [np.zeros((len(order), self.width * self.choice.width), np.float32) for order in shown]
        together = max(1, self.budget // self.frames)

        def run(chosen: Sequence[tuple[int, Window]]) -> None:
            for (index, window), found in zip(chosen, self._run(clips, shown, list(chosen)), strict=True):
                kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
                rows[index][window.keep_start : window.keep_stop] = found[kept]

        for start in range(0, len(windows), together):
            run_halving(windows[start : start + together], run)
        return [
            self._sequence(clip, order, values, len(cut))
            for clip, order, values, cut in zip(clips, shown, rows, cuts, strict=True)
        ]

    def _shown(self, crops: int) -> npt.NDArray[np.int64]:
        """Which crop is shown at each position: all of them in order, or stretched to one window."""
        if crops == 0 or crops >= self.frames:
            return np.arange(crops)
        return np.arange(self.frames) * crops // self.frames

    def _run(
        self, clips: list[FaceCrops], shown: list[npt.NDArray[np.int64]], chosen: list[tuple[int, Window]]
    ) -> npt.NDArray[np.float32]:
        with exact_math(self.device, self.encoder.precision):
            pictures = [
                self.recipe.apply(to_device(clips[index].crops[shown[index][window.start : window.stop]], self.device))
                for index, window in chosen
            ]
            output = self.model(torch.stack(pictures).to(self.model.dtype))
            tubelets = to_host(self.tap.collect(output.last_hidden_state, self._reduce))
        return np.repeat(tubelets, self.tubelet, axis=1)

    def _sequence(
        self, clip: FaceCrops, shown: npt.NDArray[np.int64], values: npt.NDArray[np.float32], windows: int
    ) -> FeatureSequence:
        count = len(clip.crops)
        note = {"video_windows": windows} if windows > 1 else {}
        if 0 < count < self.frames:
            note["frames_stretched_from"] = count
            summed = np.zeros((count, values.shape[1]), np.float32)
            np.add.at(summed, shown, values)
            values = (summed / np.bincount(shown, minlength=count)[:, None]).astype(np.float32)
        return spread(clip, values, note)

    def probe(self, count: int) -> int:
        """Encode `count` windows and return their cost."""
        edge = self.recipe.crop
        crops = np.zeros((self.frames, edge, edge, 3), np.uint8)
        clip = FaceCrops(crops, np.zeros(self.frames, np.float32), np.ones(self.frames, np.bool_))
        window = Window(0, self.frames, 0, self.frames)
        self._run([clip] * count, [np.arange(self.frames)] * count, [(index, window) for index in range(count)])
        settle(self.device)
        return count * self.frames
