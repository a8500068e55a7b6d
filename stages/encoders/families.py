"""Families of checkpoints, by the `model_type` of their `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mer.cache import MerError

PADDED = "padded and masked"
"""Items of any length together; padding is kept out of attention, convolutions and normalisations."""
FIXED = "one size"
"""The model sees inputs of one size alone, so that nothing is padded for the sake of a batch."""
EQUAL = "equal lengths together"
"""No item is padded: those of equal length form a batch. Exact by construction, and slower."""


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
    batches: str = PADDED
    """Why a batch equals its singles: `PADDED`, `FIXED` or `EQUAL`."""
    causal: bool = False
    """True of a decoder: a token sees those before it alone, so the last one is the only one that has seen all."""
    stages: bool = False
    """True where layers differ in width and resolution, so that only the last one can be taken."""
    rates_hz: tuple[int, ...] = (16_000,)
    """Rates of sound it may want; from another than ours the sound is resampled."""


_TEXT = Family("text", "mer.stages.encoders.text:LiveText")
_DECODER = replace(_TEXT, causal=True)
_WAVE = Family("audio", "mer.stages.encoders.wave:LiveWave", prepared_by=("feature_extractor",))
_PICTURE = Family("face", "mer.stages.encoders.face:LiveFace", prepared_by=("image_processor",), batches=FIXED)
_SIGLIP = replace(_PICTURE, pools=("pooled", "mean"))
_PYRAMID = replace(_PICTURE, pools=("pooled",), stages=True)
_SPECTROGRAM = replace(_WAVE, loader="mer.stages.encoders.spectrogram:LiveSpectrogram", batches=FIXED)
_CLAP = replace(_WAVE, loader="mer.stages.encoders.clap:LiveClap", batches=FIXED, stages=True, rates_hz=(48_000,))

BASE_SIZE = (12, 768)
"""Blocks and width that transformers' classes assume where a configuration leaves them out, as CLIP's often do."""

_TEXT_TYPES = (
    "roberta", "bert", "deberta-v2", "xlm-roberta", "xlm-roberta-xl", "camembert", "distilbert", "mpnet", "electra",
    "data2vec-text", "modernbert",
)  # fmt: skip
_DECODER_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_WAVE_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat", "wav2vec2-conformer")

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(_TEXT_TYPES, _TEXT),
    **dict.fromkeys(_DECODER_TYPES, _DECODER),
    **dict.fromkeys(_WAVE_TYPES, _WAVE),
    "sew": replace(_WAVE, loader="mer.stages.encoders.wave:LiveSew"),
    "wav2vec2-bert": replace(_WAVE, loader="mer.stages.encoders.spectrogram:LiveWav2Vec2Bert"),
    "audio-spectrogram-transformer": _SPECTROGRAM,
    "clap": replace(_CLAP, part="audio_config"),
    "clap_audio_model": _CLAP,
    **dict.fromkeys(("vit", "deit", "dinov2", "dinov3_vit"), _PICTURE),
    **dict.fromkeys(("data2vec-vision", "beit"), replace(_PICTURE, pools=("mean", "cls"))),
    "emotion2vec": Family("audio", "mer.stages.encoders.emotion2vec:LiveEmotion2vec"),
    "whisper": Family("audio", "mer.stages.encoders.whisper:LiveWhisper"),
    "videomae": Family(
        "face",
        "mer.stages.encoders.video:LiveVideo",
        pools=("mean",),
        prepared_by=("video_processor", "image_processor"),
        batches=FIXED,
    ),
    "clip": replace(_PICTURE, part="vision_config"),
    "clip_vision_model": _PICTURE,
    "siglip": replace(_SIGLIP, part="vision_config"),
    "siglip_vision_model": _SIGLIP,
    "siglip2": replace(_SIGLIP, loader="mer.stages.encoders.siglip2:LiveSiglip2", part="vision_config"),
    "siglip2_vision_model": replace(_SIGLIP, loader="mer.stages.encoders.siglip2:LiveSiglip2"),
    **dict.fromkeys(("swin", "convnext", "resnet"), _PYRAMID),
    "timm": replace(_PYRAMID, loader="mer.stages.encoders.timm_face:LiveTimm", prepared_by=()),
}

UNLISTED: Mapping[str, Family] = {
    "text": Family("text", "mer.stages.encoders.unlisted:LiveAnyText", "text_config", batches=EQUAL),
    "audio": Family(
        "audio",
        "mer.stages.encoders.unlisted:LiveAnyAudio",
        "audio_config",
        prepared_by=("feature_extractor",),
        batches=EQUAL,
        rates_hz=(),
    ),
    "face": Family(
        "face",
        "mer.stages.encoders.unlisted:LiveAnyFace",
        "vision_config",
        pools=("mean", "pooled"),
        prepared_by=("image_processor",),
        batches=EQUAL,
    ),
}
"""How what transformers' auto classes load is run where its `model_type` is not listed above."""


def family_of(config: Mapping[str, Any], modality: str, checkpoint: str) -> Family:
    """Find the family of a checkpoint and check that it belongs to the modality asked for.

    Raises
    ------
    MerError
        If the model type is of another modality, or neither listed here nor known to the installed transformers.
    """
    model_type = model_type_of(config)
    family = FAMILIES.get(model_type)
    if family is None:
        if not config.get("auto_map") and not _library_knows(model_type):
            raise MerError(
                f"checkpoint {checkpoint} is of type {model_type or 'none'!r}, which the installed transformers does "
                "not know; a newer one may, or write an encoder of your own (module:Class)"
            )
        return UNLISTED[modality]
    if family.modality != modality:
        raise MerError(
            f"checkpoint {checkpoint} is a {family.modality} model ({model_type}) and cannot encode {modality}; "
            f"give it as --{family.modality}-encoder"
        )
    return family


def model_type_of(config: Mapping[str, Any]) -> str:
    """`model_type` of a configuration; timm's, which has none, is told by its own keys."""
    if "model_type" not in config and "architecture" in config and "pretrained_cfg" in config:
        return "timm"
    return str(config.get("model_type", ""))


def _library_knows(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def part_of(config: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """Return the part of a configuration that describes the encoder: the whole, or one under a key of its own."""
    part = config.get(family.part) if family.part else None
    return part if isinstance(part, Mapping) else config


def depth_and_width(config: Mapping[str, Any], family: Family, checkpoint: str) -> tuple[int, int]:
    """Read number of blocks (or of stages) and width of a hidden state from a configuration.

    Raises
    ------
    MerError
        If the configuration does not say.
    """
    part = part_of(config, family)
    if family in UNLISTED.values():
        part = _with_defaults(part)
    if family.stages:
        depth, width = len(part.get("hidden_sizes", part.get("depths", (0,)))), _width_of_last_stage(part)
    else:
        default = (None, None) if family in UNLISTED.values() else BASE_SIZE
        depth = _first(part, ("num_hidden_layers", "encoder_layers", "n_layers", "num_layers"), default[0])
        width = _first(part, ("hidden_size", "d_model", "dim"), default[1]) or _width_of_last_stage(part)
        depth = depth or len(part.get("hidden_sizes", part.get("depths", ()))) or 1
    if not isinstance(depth, int) or not isinstance(width, int) or depth < 1 or width < 1:
        raise MerError(f"checkpoint {checkpoint}: config.json lacks the number of layers or the hidden size")
    return depth, width


def _first(part: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), default)


def _width_of_last_stage(part: Mapping[str, Any]) -> Any:
    """Width behind the last of several stages, as Swin, ConvNeXt, ResNet and timm state it."""
    sizes = part.get("hidden_sizes")
    if isinstance(sizes, list | tuple) and sizes:
        return sizes[-1]
    if "num_features" in part:
        return part["num_features"]
    if "hidden_size" not in part and "embed_dim" in part and "depths" in part:
        return int(part["embed_dim"]) * 2 ** (len(part["depths"]) - 1)
    return part.get("hidden_size", part.get("hidden_dim", BASE_SIZE[1] if "depths" in part else None))


def _with_defaults(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with what the library assumes where it is silent, under the names used here."""
    from transformers import CONFIG_MAPPING

    model_type = part.get("model_type")
    if model_type not in CONFIG_MAPPING:
        return part
    config = CONFIG_MAPPING[model_type].from_dict(dict(part))
    names = ("num_hidden_layers", "hidden_size", "hidden_sizes", "depths", "embed_dim", "hidden_dim")
    return {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
