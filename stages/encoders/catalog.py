"""Names under which encoders can be asked for, and presets of them. Reading this module imports nothing heavy."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mer.cache import MerError

from ..interfaces import MODALITIES, Encoder
from ..registry import find, names, suggest
from . import hub
from .pretrained import AudioEncoder, FaceEncoder, PretrainedEncoder, TextEncoder
from .signal import MEASURES, SignalEncoder

log = logging.getLogger("mer.encoders")


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder that has a name."""

    modality: str
    checkpoint: str
    """Hub id; the name of a demo checkpoint, which is made on first use; or empty for a feature set without weights."""
    dim: int
    """Width of one layer."""
    license: str
    """Terms of the weights as their publisher states them."""
    extra: str = ""
    """Extra of this package that it needs, named as the module it brings, such as `opensmile`."""
    note: str = ""

    def installed(self) -> bool:
        """Tell whether what the encoder's extra brings is installed."""
        return not self.extra or importlib.util.find_spec(self.extra) is not None


@dataclass(frozen=True)
class Preset:
    """One encoder per modality."""

    text: str
    audio: str
    face: str
    note: str = ""

    def encoder(self, modality: str) -> str:
        """Name of the encoder of a modality."""
        return {"text": self.text, "audio": self.audio, "face": self.face}[modality]


_MIT, _APACHE, _NONE = "MIT", "Apache-2.0", "not stated"
_NC_SA, _NC = "CC BY-NC-SA 4.0: non-commercial", "CC BY-NC 4.0: non-commercial"
_SIGNAL = {"librosa": "ISC", "opensmile": "audEERING research licence: non-commercial"}
_EXTRA = {"librosa": "", "opensmile": "opensmile"}
_DEMO = "untrained, random weights; for mer demo only"

ENCODERS: Mapping[str, EncoderEntry] = {
    "demo-text": EncoderEntry("text", "demo-text", 64, _APACHE, note=_DEMO),
    "demo-audio": EncoderEntry("audio", "demo-audio", 64, _APACHE, note=_DEMO),
    "demo-face": EncoderEntry("face", "demo-face", 64, _APACHE, note=_DEMO),
    "roberta-base": EncoderEntry("text", "FacebookAI/roberta-base", 768, _MIT, note="English"),
    "roberta-large": EncoderEntry("text", "FacebookAI/roberta-large", 1024, _MIT, note="English"),
    "bert-base": EncoderEntry("text", "google-bert/bert-base-uncased", 768, _APACHE, note="English"),
    "bert-large": EncoderEntry("text", "google-bert/bert-large-uncased", 1024, _APACHE, note="English"),
    "deberta-v3-base": EncoderEntry("text", "microsoft/deberta-v3-base", 768, _MIT, note="English"),
    "deberta-v3-large": EncoderEntry("text", "microsoft/deberta-v3-large", 1024, _MIT, note="English"),
    "xlm-roberta-base": EncoderEntry("text", "FacebookAI/xlm-roberta-base", 768, _MIT, note="100 languages"),
    "xlm-roberta-large": EncoderEntry("text", "FacebookAI/xlm-roberta-large", 1024, _MIT, note="100 languages"),
    "chinese-roberta": EncoderEntry("text", "hfl/chinese-roberta-wwm-ext", 768, _APACHE, note="Chinese"),
    "chinese-roberta-large": EncoderEntry("text", "hfl/chinese-roberta-wwm-ext-large", 1024, _APACHE, note="Chinese"),
    "all-mpnet-base": EncoderEntry(
        "text", "sentence-transformers/all-mpnet-base-v2", 768, _APACHE, note="sentence embeddings, English"
    ),
    "all-minilm": EncoderEntry(
        "text", "sentence-transformers/all-MiniLM-L6-v2", 384, _APACHE, note="sentence embeddings, English"
    ),
    "wav2vec2-base": EncoderEntry("audio", "facebook/wav2vec2-base", 768, _APACHE, note="group-norm family"),
    "wav2vec2-base-960h": EncoderEntry("audio", "facebook/wav2vec2-base-960h", 768, _APACHE, note="group-norm family"),
    "wav2vec2-large-lv60": EncoderEntry(
        "audio", "facebook/wav2vec2-large-lv60", 1024, _APACHE, note="layer-norm family"
    ),
    "wav2vec2-xlsr-53": EncoderEntry("audio", "facebook/wav2vec2-large-xlsr-53", 1024, _APACHE, note="53 languages"),
    "wav2vec2-msp-dim": EncoderEntry(
        "audio",
        "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        1024,
        _NC_SA,
        note="fine-tuned to arousal, dominance, valence on MSP-Podcast",
    ),
    "hubert-base": EncoderEntry("audio", "facebook/hubert-base-ls960", 768, _APACHE),
    "hubert-large": EncoderEntry("audio", "facebook/hubert-large-ll60k", 1024, _APACHE),
    "chinese-hubert-base": EncoderEntry("audio", "TencentGameMate/chinese-hubert-base", 768, _MIT, note="Chinese"),
    "wavlm-base-plus": EncoderEntry("audio", "microsoft/wavlm-base-plus", 768, _NONE),
    "wavlm-large": EncoderEntry("audio", "microsoft/wavlm-large", 1024, _NONE),
    "data2vec-audio-base": EncoderEntry("audio", "facebook/data2vec-audio-base", 768, _APACHE),
    "emotion2vec-base": EncoderEntry(
        "audio", "emotion2vec/emotion2vec_base", 768, "FunASR model licence", note="self-supervised on emotional speech"
    ),
    "emotion2vec-plus-base": EncoderEntry(
        "audio", "emotion2vec/emotion2vec_plus_base", 768, "FunASR model licence", note="trained on labelled emotion"
    ),
    "whisper-base": EncoderEntry("audio", "openai/whisper-base", 512, _APACHE, note="encoder; many languages"),
    "whisper-large-v3": EncoderEntry("audio", "openai/whisper-large-v3", 1280, _APACHE, note="encoder; many languages"),
    "data2vec-audio-large": EncoderEntry("audio", "facebook/data2vec-audio-large", 1024, _APACHE),
    **{
        name: EncoderEntry(
            "audio", "", measure.dim, _SIGNAL[measure.library], _EXTRA[measure.library], note="no weights"
        )
        for name, measure in MEASURES.items()
    },
    "vit-fer": EncoderEntry(
        "face", "trpakov/vit-face-expression", 768, _APACHE, note="ViT-B/16 fine-tuned on FER2013's seven expressions"
    ),
    "vit-base": EncoderEntry("face", "google/vit-base-patch16-224-in21k", 768, _APACHE, note="ImageNet-21k"),
    "vit-large": EncoderEntry("face", "google/vit-large-patch16-224-in21k", 1024, _APACHE, note="ImageNet-21k"),
    "clip-vit-base": EncoderEntry("face", "openai/clip-vit-base-patch16", 768, _NONE),
    "clip-vit-large": EncoderEntry("face", "openai/clip-vit-large-patch14", 1024, _NONE),
    "dinov2-base": EncoderEntry("face", "facebook/dinov2-base", 768, _APACHE),
    "dinov2-large": EncoderEntry("face", "facebook/dinov2-large", 1024, _APACHE),
    "dinov3-vit-base": EncoderEntry(
        "face", "facebook/dinov3-vitb16-pretrain-lvd1689m", 768, "DINOv3 License", note="gated: accept its terms first"
    ),
    "videomae-base": EncoderEntry("face", "MCG-NJU/videomae-base", 768, _NC, note="windows of 16 frames"),
    "data2vec-vision-base": EncoderEntry("face", "facebook/data2vec-vision-base", 768, _APACHE),
}

PRESETS: Mapping[str, Preset] = {
    "demo": Preset("demo-text", "demo-audio", "demo-face", "tiny untrained models, nothing to download"),
    "base": Preset("roberta-base", "wav2vec2-base", "vit-fer", "12-layer models, about 1.1 GB to download"),
    "large": Preset("roberta-large", "wav2vec2-large-lv60", "clip-vit-large", "24-layer models"),
    "drkf": Preset(
        "roberta-large",
        "wav2vec2-msp-dim",
        "vit-fer",
        "DRKF's text and audio encoders, frozen (which audio checkpoint it used is inferred, not stated), and a facial "
        "encoder of our choice; the audio weights are CC BY-NC-SA 4.0: for non-commercial use only",
    ),
}

_CLASSES: Mapping[str, type[PretrainedEncoder]] = {"text": TextEncoder, "audio": AudioEncoder, "face": FaceEncoder}


def make_encoder(
    modality: str,
    name: str,
    layers: str = "last",
    precision: str = "float32",
    trust_remote_code: bool = False,
    **options: Any,
) -> Encoder:
    """Build an encoder by known name, plug-in name, `module:Attr`, local checkpoint folder or hub id.

    Nothing is downloaded or loaded; `resolve` and `load` do that.

    Parameters
    ----------
    modality
        `text`, `audio` or `face`.
    name
        Known name, folder, hub id (`owner/name` or `owner/name@revision`), or `module:Attr`.
    layers
        `last`, `-4:` (mean of the last four), a list such as `6,9,12` (mean), or `all` (kept as a stack).
    precision
        `float32` or `bfloat16`.
    trust_remote_code
        Let a checkpoint run Python code of its own.
    **options
        Fields of the modality's encoder, such as `max_seconds` for audio.

    Raises
    ------
    MerError
        If nothing has that name (the nearest one is suggested), it is of another modality, or an option is unknown.
    """
    if modality not in MODALITIES:
        raise MerError(f"modality {modality!r} is not known; use {', '.join(MODALITIES)}")
    entry = ENCODERS.get(name)
    if entry is not None:
        if Path(name).is_dir():
            log.warning(
                "%s is a known encoder and a folder here; the known one is taken, ./%s is the folder", name, name
            )
        if entry.modality != modality:
            raise MerError(f"encoder {name!r} is a {entry.modality} encoder; give it as --{entry.modality}-encoder")
        if not entry.checkpoint:
            return _measured(name, layers, options)
        return _pretrained(modality, entry.checkpoint, layers, precision, trust_remote_code, options)
    if Path(name).expanduser().is_dir():
        return _pretrained(modality, name, layers, precision, trust_remote_code, options)
    if ":" in name or name in names("encoder"):
        return _plugged_in(modality, name, options)
    if hub.HUB_ID.fullmatch(name.partition("@")[0]) and not name.startswith("."):
        return _pretrained(modality, name, layers, precision, trust_remote_code, options)
    if "/" in name or name.startswith((".", "~")):
        raise MerError(f"checkpoint folder {name} does not exist; name a folder with config.json and weights")
    known = [other for other, one in ENCODERS.items() if one.modality == modality] + sorted(names("encoder"))
    raise MerError(f"unknown {modality} encoder {name!r}; {suggest(name, known)}; or a hub id owner/name, or a folder")


def _pretrained(
    modality: str, checkpoint: str, layers: str, precision: str, trust: bool, options: Mapping[str, Any]
) -> PretrainedEncoder:
    kind = _CLASSES[modality]
    own = {field.name for field in fields(kind)} - {field.name for field in fields(PretrainedEncoder)}
    unknown = sorted(set(options) - own)
    if unknown:
        raise MerError(f"a {modality} encoder has no option {unknown[0]!r}; it has {', '.join(sorted(own))}")
    return kind(checkpoint, layers, precision, trust, **options)


def _measured(name: str, layers: str, options: Mapping[str, Any]) -> SignalEncoder:
    if layers != "last":
        raise MerError(f"encoder {name!r} has no layers to choose from; leave --layers out")
    if options:
        raise MerError(f"encoder {name!r} has no option {sorted(options)[0]!r}")
    return SignalEncoder(name)


def _plugged_in(modality: str, name: str, options: Mapping[str, Any]) -> Encoder:
    try:
        encoder = find("encoder", name)(**options)
    except TypeError as error:
        raise MerError(f"encoder {name!r} cannot be built: {error}") from error
    if not isinstance(encoder, Encoder):
        raise MerError(f"{name!r} is not an encoder; it needs modality, resolve, spec and load (mer.stages.interfaces)")
    if encoder.modality != modality:
        raise MerError(f"encoder {name!r} is a {encoder.modality} encoder; give it as --{encoder.modality}-encoder")
    return encoder
