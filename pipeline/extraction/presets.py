"""From the options of `mer extract` to one encoder list and one layer choice per modality."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence

from mer.cache import MerError
from mer.stages.interfaces import MODALITIES
from mer.stages.registry import suggest


def preset_of(preset: str | None, corpus: str, encoders_given: bool) -> str:
    """Name of the preset to start from; empty when the encoders are all given one by one.

    Raises
    ------
    MerError
        If there is no such preset.
    """
    from mer.stages.encoders.catalog import PRESETS

    if preset is not None and preset not in PRESETS:
        raise MerError(f"unknown preset {preset!r}; {suggest(preset, PRESETS)}")
    if preset is None and not encoders_given:
        return "demo" if corpus == "demo" else "base"
    return preset or ""


def chosen_encoders(preset: str, **given: Sequence[str] | None) -> Mapping[str, tuple[str, ...]]:
    """Encoders per modality: those of the preset, overridden by those given; `none` leaves a modality out."""
    from mer.stages.encoders.catalog import PRESETS

    chosen: dict[str, tuple[str, ...]] = {}
    for modality in MODALITIES:
        names = given.get(modality) or ((getattr(PRESETS[preset], modality),) if preset else ())
        names = tuple(name for name in names if name and name != "none")
        if names:
            chosen[modality] = names
    return chosen


def layers_by_modality(given: Sequence[str]) -> Mapping[str, str]:
    """Parse `--layers last --layers audio=-4:`: a plain choice holds for all modalities, a named one overrides it."""
    chosen: dict[str, str] = {}
    for item in sorted(given, key=lambda text: "=" in text):
        modality, equals, layers = item.partition("=")
        if not equals:
            chosen = dict.fromkeys(MODALITIES, item)
        elif modality in MODALITIES:
            chosen[modality] = layers
        else:
            raise MerError(f"--layers {item!r} names no modality; {suggest(modality, list(MODALITIES))}")
    return chosen


def parse_corpus_options(given: Sequence[str]) -> dict[str, object]:
    """Parse `--corpus-option key=value`; the value is read as TOML (numbers, true, false) and else taken as text."""
    parsed: dict[str, object] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals:
            raise MerError(f"--corpus-option {item!r} has no value; write it as KEY=VALUE")
        try:
            parsed[key] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            parsed[key] = value
    return parsed


def parse_encoder_options(given: Sequence[str]) -> dict[str, dict[str, object]]:
    """Parse `--encoder-option audio.window=30s` as options per modality."""
    parsed: dict[str, dict[str, object]] = {}
    for item in given:
        modality, dot, rest = item.partition(".")
        if not dot or modality not in MODALITIES:
            raise MerError(f"--encoder-option {item!r} is not understood; write it as MODALITY.NAME=VALUE")
        name, equals, value = rest.partition("=")
        if not equals:
            raise MerError(f"--encoder-option {item!r} has no value; write it as MODALITY.NAME=VALUE")
        parsed.setdefault(modality, {})[name] = value if name != "overlap" else float(value)
    return parsed


def restricted_licences(encoders: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences about the chosen encoders whose weights may not be used freely."""
    from mer.stages.encoders.catalog import ENCODERS

    return [
        f"the weights of {name} are licensed {ENCODERS[name].license}"
        for names in encoders.values()
        for name in names
        if name in ENCODERS and "non-commercial" in ENCODERS[name].license
    ]
