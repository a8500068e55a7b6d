"""SigLIP 2 in the form that takes pictures of any shape as a list of patches (NaFlex).

A face crop is square, so that every picture has the same patches and none is padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .face import LiveFace, PictureRecipe

MOST_PATCHES, PATCH_PIXELS = 256, 16
"""What its image processor assumes where its settings are silent."""


class LiveSiglip2(LiveFace):
    """The vision tower of SigLIP 2 on a device."""

    def _recipe(self, settings: Mapping[str, Any]) -> PictureRecipe:
        self.patch = int(settings.get("patch_size", PATCH_PIXELS))
        self.rows = math.isqrt(int(settings.get("max_num_patches", MOST_PATCHES)))
        return PictureRecipe.of({**settings, "size": self.rows * self.patch}, 0)

    def _vectors(self, pictures: Tensor) -> Tensor:
        count, rows, patch = len(pictures), self.rows, self.patch
        cut = pictures.reshape(count, 3, rows, patch, rows, patch).permute(0, 2, 4, 3, 5, 1)
        shapes = torch.full((count, 2), rows, device=pictures.device)
        seen = torch.ones((count, rows * rows), dtype=torch.long, device=pictures.device)
        output: Any = self.model(cut.reshape(count, rows * rows, -1), pixel_attention_mask=seen, spatial_shapes=shapes)
        if self.pool == "pooled":
            return output.pooler_output  # type: ignore[no-any-return]
        return self.tap.collect(output.last_hidden_state)
