"""Families of checkpoints, by the `model_type` of their `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mer.cache import MerError


@dataclass(frozen=True)
class Family:
    """How checkpoints of one `model_type` are run."""

    modality: str
    loader: str
    """`module:Attr` of the live encoder, built as `Attr(encoder, device)`."""
    part: str = ""
    """Key of the part of the configuration that describes the encoder, such as `vision_config`."""
    pools: tuple[str, ...] = ("cls", "mean")
    """How the tokens of one picture may become one vector, the default first."""
    prepared_by: tuple[str, ...] = ()
    """Parts of a processor that may say how inputs are prepared; none where every checkpoint does it alike."""


_TEXT = Family("text", "mer.stages.encoders.text:LiveText")
_WAVE = Family("audio", "mer.stages.encoders.wave:LiveWave", prepared_by=("feature_extractor",))
_PICTURE = Family("face", "mer.stages.encoders.face:LiveFace", prepared_by=("image_processor",))

BASE_SIZE = (12, 768)
"""Blocks and width that transformers' classes assume where a configuration leaves them out, as CLIP's often do."""

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(
        (
            "roberta",
            "bert",
            "deberta-v2",
            "xlm-roberta",
            "xlm-roberta-xl",
            "camembert",
            "distilbert",
            "mpnet",
            "electra",
            "data2vec-text",
        ),
        _TEXT,
    ),
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "data2vec-audio"), _WAVE),
    **dict.fromkeys(("vit", "deit", "dinov2", "dinov3_vit"), _PICTURE),
    **dict.fromkeys(("data2vec-vision", "beit"), replace(_PICTURE, pools=("mean", "cls"))),
    "emotion2vec": Family("audio", "mer.stages.encoders.emotion2vec:LiveEmotion2vec"),
    "whisper": Family("audio", "mer.stages.encoders.whisper:LiveWhisper"),
    "videomae": Family(
        "face",
        "mer.stages.encoders.video:LiveVideo",
        pools=("mean",),
        prepared_by=("video_processor", "image_processor"),
    ),
    "clip": replace(_PICTURE, part="vision_config"),
    "clip_vision_model": _PICTURE,
}


def family_of(config: Mapping[str, Any], modality: str, checkpoint: str) -> Family:
    """Find the family of a checkpoint and check that it belongs to the modality asked for.

    Raises
    ------
    MerError
        If the model type is not supported or is of another modality.
    """
    model_type = str(config.get("model_type", ""))
    family = FAMILIES.get(model_type)
    if family is None:
        known = ", ".join(sorted(name for name, one in FAMILIES.items() if one.modality == modality))
        raise MerError(
            f"checkpoint {checkpoint} is of type {model_type or 'none'!r}, which is not supported; "
            f"{modality} encoders are of type {known}; or write one of your own (module:Class)"
        )
    if family.modality != modality:
        raise MerError(
            f"checkpoint {checkpoint} is a {family.modality} model ({model_type}) and cannot encode {modality}; "
            f"give it as --{family.modality}-encoder"
        )
    return family


def depth_and_width(config: Mapping[str, Any], family: Family, checkpoint: str) -> tuple[int, int]:
    """Read number of blocks and width of a hidden state from a configuration.

    Raises
    ------
    MerError
        If the configuration does not say.
    """
    part = config.get(family.part, config) if family.part else config
    depth = part.get("num_hidden_layers", part.get("encoder_layers", part.get("n_layers", BASE_SIZE[0])))
    width = part.get("hidden_size", part.get("d_model", part.get("dim", BASE_SIZE[1])))
    if not isinstance(depth, int) or not isinstance(width, int) or depth < 1 or width < 1:
        raise MerError(f"checkpoint {checkpoint}: config.json lacks the number of layers or the hidden size")
    return depth, width
