"""Face models of timm, by `timm/NAME` on the hub or a folder of that layout: a config.json without a `model_type`.

timm builds the network of the name the file states; the weights are read by us, so that no code of a checkpoint runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mer.cache import MerError

from .checkpoint import Checkpoint
from .face import LiveFace, PictureRecipe
from .loading import refuse_not_finite
from .weights import weight_files

_BICUBIC = 3


class LiveTimm(LiveFace):
    """A timm model without its classifier on a device; a vector is what it pools."""

    def _load(self, depth: int) -> Any:
        try:
            import timm
        except ImportError as error:
            raise MerError("encoders of timm need it installed: pip install 'mer-toolkit[timm]'") from error
        found = self.encoder.found
        config = found.config
        try:
            model = timm.create_model(str(config["architecture"]), pretrained=False, num_classes=0)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MerError(f"timm {timm.__version__} cannot build {found.label}: {error}") from error
        report = model.load_state_dict(_tensors(found), strict=False)
        if report.missing_keys:
            raise MerError(
                f"checkpoint {found.label} lacks {len(report.missing_keys)} weights of its model "
                f"(first: {report.missing_keys[0]}); are the files in {found.folder} complete?"
            )
        refuse_not_finite(model, found)
        model = model.eval().requires_grad_(False).to(self.device, getattr(torch, self.encoder.precision))
        model.config = SimpleNamespace(image_size=config["pretrained_cfg"].get("input_size", (3, 224, 224))[1:])
        return model

    def _recipe(self, settings: Mapping[str, Any]) -> PictureRecipe:
        return recipe_of(self.encoder.found.config["pretrained_cfg"])

    def _vectors(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)  # type: ignore[no-any-return]


def _tensors(found: Checkpoint) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = weight_files(Path(found.folder))[0]
    try:
        tensors: dict[str, Tensor] = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # unpickling raises errors of many kinds
        raise MerError(f"checkpoint {found.label} cannot be loaded from {path}: {error}") from error
    return tensors


def recipe_of(told: Mapping[str, Any]) -> PictureRecipe:
    """How timm prepares a picture for a model: enlarged by the share it crops, cut at the centre, normalised."""
    edge = int(tuple(told.get("input_size", (3, 224, 224)))[1])
    plain = PictureRecipe.of(
        {
            "size": int(edge / float(told.get("crop_pct", 0.875))),
            "do_center_crop": True,
            "crop_size": {"height": edge},
            "resample": _BICUBIC if told.get("interpolation", "bicubic") == "bicubic" else 2,
            "image_mean": told.get("mean", (0.485, 0.456, 0.406)),
            "image_std": told.get("std", (0.229, 0.224, 0.225)),
        },
        edge,
    )
    return replace(plain, rounded=True)
