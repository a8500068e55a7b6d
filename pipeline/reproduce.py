"""From a catalogue back to the commands that make its features again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mer.cache import Catalogue, FeatureSpec

DISTRIBUTIONS = ("mer", "torch", "transformers", "av", "librosa", "opencv-python-headless", "numpy", "h5py")


@dataclass
class _Command:
    """One `mer extract` run: options that hold for all its sets, and encoders per modality."""

    shared: dict[str, str]
    encoders: dict[str, list[str]] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)


def recipe(catalogue: Catalogue) -> str:
    """Write the pip line and the `mer extract` commands, as lines for a shell.

    Checkpoints carry the revision that was used. Sets whose options differ need commands of their own; each adds its
    sets to the same cache.
    """
    if imported := catalogue.provenance.get("imported"):
        source = imported.get("source_sha256", "unknown")
        form = imported.get("format", "FORMAT")
        return f"# imported features: their source has sha256 {source}\nmer import --format {form} SOURCE -o OUT.h5"
    lines = [_pip_line(catalogue.provenance)]
    commands: list[_Command] = []
    for index in catalogue.sets.values():
        _add(commands, index.spec)
    lines += [shlex.join(_arguments(command, catalogue)) for command in commands]
    for index in catalogue.sets.values():
        weights = index.spec.encoder.get("weights_sha256")
        lines += [f"# {index.spec.set_name}: weights with sha256 {weights}"] if weights else []
    return "\n".join(lines)


def _pip_line(provenance: Mapping[str, Any]) -> str:
    libraries = provenance.get("libraries", {})
    pinned = [f"{name}=={str(libraries[name]).partition('+')[0]}" for name in DISTRIBUTIONS if name in libraries]
    python = provenance.get("python")
    return f"pip install {' '.join(pinned) or 'mer'}" + (f"  # Python {python}" if python else "")


def _add(commands: list[_Command], spec: FeatureSpec) -> None:
    """Put one set into the first command whose options agree with its own, or into a new one."""
    shared, layers, name = _shared(spec), _layers(spec), _checkpoint(spec)
    for command in commands:
        same = all(command.shared.get(option, value) == value for option, value in shared.items())
        if same and command.layers.get(spec.modality, layers) == layers:
            break
    else:
        command = _Command({})
        commands.append(command)
    command.shared |= shared
    command.layers[spec.modality] = layers
    command.encoders.setdefault(spec.modality, []).append(name)


def _checkpoint(spec: FeatureSpec) -> str:
    checkpoint = str(spec.encoder.get("checkpoint") or spec.name)
    revision = spec.encoder.get("revision")
    return f"{checkpoint}@{revision}" if revision and "@" not in checkpoint else checkpoint


def _layers(spec: FeatureSpec) -> str:
    layers = spec.encoder.get("layers")
    if spec.stack > 1:
        return "all"
    return ",".join(map(str, layers)) if isinstance(layers, list) else str(layers or "last")


def _shared(spec: FeatureSpec) -> dict[str, str]:
    """Options of `mer extract` that a set's spec decides, by name."""
    found: dict[str, Any] = {"--dtype": spec.dtype, "--precision": spec.encoder.get("precision")}
    if spec.modality == "audio":
        found |= {"--max-audio-seconds": spec.encoder.get("max_seconds"), "--channel": spec.inputs.get("channel")}
    if spec.modality == "face":
        found |= {
            "--face-fps": spec.inputs.get("fps"),
            "--face-policy": spec.inputs.get("policy"),
            "--face-detector": spec.inputs.get("detector"),
            "--channel": spec.inputs.get("channel"),
        }
    return {option: str(value) for option, value in found.items() if value is not None}


def _arguments(command: _Command, catalogue: Catalogue) -> list[str]:
    options = catalogue.provenance.get("options", {})
    corpus = str(options.get("corpus") or catalogue.corpus.get("name", "NAME"))
    words = ["mer", "extract", "--corpus", corpus, *([] if corpus == "demo" else ["--root", "DIR"])]
    for modality in ("text", "audio", "face"):
        for name in command.encoders.get(modality, ["none"]):
            words += [f"--{modality}-encoder", name]
    for modality, layers in command.layers.items():
        words += ["--layers", f"{modality}={layers}"]
    for option, value in sorted(command.shared.items()):
        words += [option, value]
    for option in ("split", "limit", "transcribe"):
        words += [f"--{option}", str(options[option])] if options.get(option) else []
    words += ["--trust-remote-code"] if options.get("trust_remote_code") else []
    chosen = dict(options.get("corpus_options") or {})
    labels, mismatch = chosen.pop("labels", None), chosen.pop("allow_count_mismatch", None)
    words += ["--labels", str(labels)] if labels else []
    words += ["--allow-count-mismatch"] if mismatch else []
    for name, value in sorted(chosen.items()):
        words += ["--corpus-option", f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"]
    return [*words, "--out", "OUT.h5"]
