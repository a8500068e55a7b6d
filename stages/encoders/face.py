"""Face encoders on single pictures: ViT, DeiT, DINOv2 and v3, BEiT, data2vec-vision, the vision towers of CLIP and
SigLIP, and networks of several stages: Swin, ConvNeXt, ResNet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from mer.cache import FeatureSequence, MerError

from ..interfaces import EncoderInput, FaceCrops
from .batching import CPU_BUDGETS, run_halving
from .loading import LayerTap, exact_math, load_model, settle, to_device, to_host
from .pretrained import FaceEncoder

_BILINEAR, _BICUBIC = 2, 3
"""PIL's numbers of the resampling filters, as image processors store them."""
_WARPED_FROM, _USUAL_CROP = 384, 224 / 256
"""ConvNeXt's processor crops pictures below this edge, and to this share where it names none."""


@dataclass(frozen=True)
class PictureRecipe:
    """How a face crop becomes the model's input: resize, crop to the centre, scale, normalise."""

    resize: int
    crop: int
    filter: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rounded: bool = False
    """Whether half a pixel at the edge of the crop is rounded as torchvision does it, and not cut off."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], image_size: int) -> PictureRecipe:
        """Read the settings of an image processor; what it leaves out is what ViT's processor assumes."""
        size = settings.get("size", image_size)
        if isinstance(size, Mapping):
            size = size.get("shortest_edge") or size.get("height") or image_size
        resize = int(size) if settings.get("do_resize", True) else 0
        if "crop_pct" in settings and resize and resize < _WARPED_FROM:  # ConvNeXt's processor: enlarge, then crop
            return cls(
                resize=int(resize / (settings["crop_pct"] or _USUAL_CROP)),
                crop=resize,
                **cls._values(settings),
            )
        crop = settings.get("crop_size", size) if settings.get("do_center_crop", False) else size
        if isinstance(crop, Mapping):
            crop = crop.get("height", size)
        return cls(resize=resize, crop=int(crop), **cls._values(settings))

    @staticmethod
    def _values(settings: Mapping[str, Any]) -> dict[str, Any]:
        """Filter, scale, mean and deviation."""
        normalise = settings.get("do_normalize", True)
        return {
            "filter": "bicubic" if settings.get("resample", _BILINEAR) == _BICUBIC else "bilinear",
            "scale": float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
            "mean": tuple(settings.get("image_mean", (0.5, 0.5, 0.5))) if normalise else (0.0, 0.0, 0.0),
            "std": tuple(settings.get("image_std", (0.5, 0.5, 0.5))) if normalise else (1.0, 1.0, 1.0),
        }

    def apply(self, pictures: Tensor) -> Tensor:
        """Prepare pictures, shape (n, S, S, 3) uint8 RGB, as (n, 3, crop, crop) float32 on their device."""
        x = pictures.permute(0, 3, 1, 2).float()
        if self.resize and x.shape[-1] != self.resize:
            x = functional.interpolate(x, size=(self.resize, self.resize), mode=self.filter, antialias=True)
            x = x.round().clamp(0, 255)  # image processors resize bytes
        beyond = x.shape[-1] - self.crop
        edge = round(beyond / 2) if self.rounded else beyond // 2
        if edge > 0:
            x = x[..., edge : edge + self.crop, edge : edge + self.crop]
        mean = torch.tensor(self.mean, device=x.device)[:, None, None]
        std = torch.tensor(self.std, device=x.device)[:, None, None]
        return (x * self.scale - mean) / std


class LiveFace:
    """An image model on a device."""

    side_by_side = True
    padded = False
    per_crop = True
    """Every crop is encoded for itself, whatever else is in its clip."""

    def __init__(self, encoder: FaceEncoder, device: str) -> None:
        self.encoder = encoder
        self.device = device
        self.budget = CPU_BUDGETS["face"]
        self.choice, depth, self.width = encoder.choice()
        self.pool = encoder.pooling()
        self.model: Any = self._load(depth)
        self.recipe = self._recipe(encoder.preprocessing()[1])

    def _load(self, depth: int) -> Any:
        """Load the model and prepare for taking the chosen layers out of it."""
        model_type = self.encoder.found.config["model_type"]
        self.clip = model_type in ("clip", "clip_vision_model")
        model = _load_vision(self.encoder, self.device, model_type)
        registers = int(getattr(model.config, "num_register_tokens", 0) or 0)
        self.first_patch = 0 if model_type.startswith("siglip") else 1 + registers
        if not self.encoder.family.stages:
            self.tap = LayerTap(model, depth, self.choice, self._reduce, self.encoder.found.label)
        return model

    def _recipe(self, settings: Mapping[str, Any]) -> PictureRecipe:
        return PictureRecipe.of(settings, image_size(self.model.config))

    def _reduce(self, hidden: Tensor) -> Tensor:
        """One vector per picture from its tokens, shape (n, tokens, width)."""
        return hidden[:, 0] if self.pool == "cls" else hidden[:, self.first_patch :].mean(dim=1)

    def _vectors(self, pictures: Tensor) -> Tensor:
        """One vector per prepared picture, shape (n, width)."""
        output = self.model(pictures)
        if self.pool == "pooled":
            pooled: Tensor = output.pooler_output
            return pooled.flatten(1)
        # CLIP normalises its class token alone, and only for its pooled output.
        final = (lambda _: output.pooler_output) if self.clip and self.pool == "cls" else None
        return self.tap.collect(output.last_hidden_state, final)

    def cost(self, item: EncoderInput) -> int:
        """Face crops."""
        return max(1, len(as_faces(item).crops))

    def encode(self, batch: Sequence[EncoderInput]) -> list[FeatureSequence]:
        """See `mer.stages.interfaces.LoadedEncoder`. Micro-batches span clips."""
        clips = [as_faces(item) for item in batch]
        counts = [len(clip.crops) for clip in clips]
        rows = np.zeros((sum(counts), self.width * self.choice.width), np.float32)
        starts = np.cumsum([0, *counts])
        for size in sorted({clip.crops.shape[1] for clip in clips if len(clip.crops)}):
            chosen = [index for index, clip in enumerate(clips) if len(clip.crops) and clip.crops.shape[1] == size]
            places = np.concatenate([np.arange(starts[index], starts[index + 1]) for index in chosen])
            crops = _Joined([clips[index].crops for index in chosen])

            def run(part: Sequence[int], places: npt.NDArray[np.int64] = places, crops: _Joined = crops) -> None:
                rows[places[part[0] : part[-1] + 1]] = self._run(crops.slice(part[0], part[-1] + 1))

            for start in range(0, len(places), self.budget):
                run_halving(range(start, min(start + self.budget, len(places))), run)
        return [spread(clip, rows[starts[index] : starts[index + 1]]) for index, clip in enumerate(clips)]

    def _run(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with exact_math(self.device, self.encoder.precision):
            pictures = self.recipe.apply(to_device(crops, self.device))
            return to_host(self._vectors(pictures.to(getattr(torch, self.encoder.precision))))

    def probe(self, count: int) -> int:
        """Encode 8 `count` crops and return their cost."""
        self._run(np.zeros((8 * count, self.recipe.crop, self.recipe.crop, 3), np.uint8))
        settle(self.device)
        return 8 * count


class _Joined:
    """Several arrays read as if they were one, without copying all of them."""

    def __init__(self, arrays: list[npt.NDArray[np.uint8]]) -> None:
        self.arrays = arrays
        self.starts = np.cumsum([0, *(len(array) for array in arrays)])

    def slice(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows [start, stop) of the whole."""
        parts = []
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for index in range(first, len(self.arrays)):
            low, high = start - self.starts[index], stop - self.starts[index]
            if high <= 0:
                break
            parts.append(self.arrays[index][max(0, low) : high])
        return np.concatenate(parts)


def spread(clip: FaceCrops, rows: npt.NDArray[np.float32], note: Mapping[str, Any] | None = None) -> FeatureSequence:
    """Lay the vectors of the valid steps on the time line of the clip, zeros elsewhere."""
    values = np.zeros((len(clip.times), rows.shape[1]), np.float32)
    values[clip.valid] = rows
    return FeatureSequence(
        values, clip.times.astype(np.float32), clip.valid.astype(np.bool_), {**clip.note, **(note or {})}
    )


def as_faces(item: EncoderInput) -> FaceCrops:
    """Check that an item is face crops."""
    if not isinstance(item, FaceCrops):
        raise MerError(f"a face encoder takes FaceCrops, not {type(item).__name__}")
    return item


def _load_vision(encoder: FaceEncoder, device: str, model_type: str) -> Any:
    import transformers

    towers = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel", "siglip2": "Siglip2VisionModel"}
    auto = getattr(transformers, towers.get(model_type.removesuffix("_vision_model"), "AutoModel"))
    return load_model(encoder.found, device, encoder.precision, encoder.trust_remote_code, auto)


def image_size(config: Any) -> int:
    """Edge of the pictures a model was trained on, in pixels."""
    size = getattr(config, "image_size", 224)
    return int(size if isinstance(size, int) else size[0])
