"""From a catalogue back to the commands that make its features again."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mer.cache import Catalogue, FeatureSpec
from mer.cache.release import DISTRIBUTION, FORMER
from mer.stages.encoders.checkpoint import lay_in_a_folder, remembered_folder

LIBRARIES = (
    DISTRIBUTION, "torch", "transformers", "tokenizers", "sentencepiece", "av", "soxr", "librosa", "scipy",
    "opencv-python-headless", "numpy", "h5py",
)  # fmt: skip
"""What has a part in the numbers of any cache."""
MEASURING = {"signal-opensmile": "opensmile"}
"""Type of an encoder to the library that only its numbers come from."""


@dataclass
class _Command:
    """One `mer extract` run: options that hold for all its sets, and encoders per modality."""

    shared: dict[str, str]
    encoders: dict[str, list[str]] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)


def versions_used(made: Sequence[FeatureSpec], kept: Sequence[FeatureSpec], before: Catalogue | None) -> dict[str, Any]:
    """Versions of Python and of the libraries whose work a catalogue holds.

    Parameters
    ----------
    made, kept
        Specs of the sets that a run has encoded something of, and of the others.
    before
        The catalogue it started from; where nothing was encoded, its versions stand.
    """
    known = before.provenance if before is not None else {}
    if not made and "libraries" in known:
        return {name: known[name] for name in ("libraries", "python") if name in known}
    libraries = {name: _installed(name) for name in (*LIBRARIES, *_measuring([*made, *kept]))}
    earlier = known.get("libraries", {})
    libraries |= {name: earlier[name] for name in _measuring(kept) if name in earlier and name not in _measuring(made)}
    return {"libraries": libraries, "python": platform.python_version()}


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _measuring(specs: Sequence[FeatureSpec]) -> list[str]:
    kinds = [str(spec.encoder.get("type")) for spec in specs]
    return [MEASURING[kind] for kind in kinds if kind in MEASURING]


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
        if lay_in_a_folder(index.spec.encoder):
            here = remembered_folder(index.spec.encoder)
            place = f"on this machine {here}" if here else "not known on this machine"
            lines.append(f"# {_checkpoint(index.spec)}: a checkpoint folder of the user's, {place}")
    return "\n".join(lines)


def _pip_line(provenance: Mapping[str, Any]) -> str:
    libraries = provenance.get("libraries", {})
    known = [name for name in (FORMER, *LIBRARIES, *MEASURING.values()) if name in libraries]
    names = {FORMER: DISTRIBUTION}
    pinned = [f"{names.get(name, name)}=={str(libraries[name]).partition('+')[0]}" for name in known]
    python = provenance.get("python")
    return shlex.join(["pip", "install", *(pinned or [DISTRIBUTION])]) + (f"  # Python {python}" if python else "")


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
    """Name for a command line anywhere: that of a folder as a folder, which a plain name would not be."""
    checkpoint = str(spec.encoder.get("checkpoint") or spec.name)
    if lay_in_a_folder(spec.encoder):
        return f"./{checkpoint}"
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
    for option in ("split", "limit", "transcribe", "language"):
        words += [f"--{option}", str(options[option])] if options.get(option) else []
    for modality, named in sorted((options.get("encoder_options") or {}).items()):
        for name, value in sorted(named.items()):
            words += ["--encoder-option", f"{modality}.{name}={value}"]
    words += ["--trust-remote-code"] if options.get("trust_remote_code") else []
    chosen = dict(options.get("corpus_options") or {})
    labels, mismatch = chosen.pop("labels", None), chosen.pop("allow_count_mismatch", None)
    words += ["--labels", str(labels)] if labels else []
    words += ["--allow-count-mismatch"] if mismatch else []
    for option in ("label_from", "encoding"):
        words += [f"--{option.replace('_', '-')}", str(value)] if (value := chosen.pop(option, "")) else []
    for named in chosen.pop("column", ()):
        words += ["--column", str(named)]
    for name, value in sorted(chosen.items()):
        words += ["--corpus-option", f"{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"]
    return [*words, "--out", "OUT.h5"]
