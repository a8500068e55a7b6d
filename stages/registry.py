"""Names of corpora, encoders and heads: plain tables, entry points, and `module:Attr` paths.

Listing names imports nothing; `find` imports the one module it needs.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from mer.cache import MerError

CORPORA: dict[str, str] = {
    "demo": "mer.stages.corpora.demo.corpus:DemoCorpus",
    "folder": "mer.stages.corpora.folder:FolderCorpus",
    "meld": "mer.stages.corpora.meld:MeldCorpus",
    "meld-dyadic": "mer.stages.corpora.meld:MeldDyadicCorpus",
    "iemocap": "mer.stages.corpora.iemocap:IemocapCorpus",
    "m3ed": "mer.stages.corpora.m3ed:M3edCorpus",
    "cmu-mosi": "mer.stages.corpora.cmu_mosi:CmuMosiCorpus",
    "cmu-mosei": "mer.stages.corpora.cmu_mosei:CmuMoseiCorpus",
    "ch-sims": "mer.stages.corpora.ch_sims:ChSimsCorpus",
    "ch-sims-v2": "mer.stages.corpora.ch_sims:ChSimsV2Corpus",
    "emorynlp": "mer.stages.corpora.emorynlp:EmoryNlpCorpus",
    "mer2023": "mer.stages.corpora.mer2023:MerChallengeCorpus",
    "mer2024": "mer.stages.corpora.mer2023:Mer2024Corpus",
    "mer2025": "mer.stages.corpora.mer2023:Mer2025Corpus",
    "mer2026": "mer.stages.corpora.mer2023:Mer2026Corpus",
    "msp-improv": "mer.stages.corpora.msp_improv:MspImprovCorpus",
    "crema-d": "mer.stages.corpora.crema_d:CremaDCorpus",
    "ravdess": "mer.stages.corpora.ravdess:RavdessCorpus",
    "emodb": "mer.stages.corpora.emodb:EmoDbCorpus",
}

HEADS: dict[str, str] = {
    "drkf": "mer.stages.heads.drkf:DrkfHead",
    "fdrl": "mer.stages.heads.fdrl:FdrlHead",
    "linear": "mer.stages.heads.probe:LinearHead",
    "mlp": "mer.stages.heads.probe:MlpHead",
    "concat": "mer.stages.heads.simple:ConcatHead",
    "late": "mer.stages.heads.simple:LateHead",
    "gated": "mer.stages.heads.simple:GatedHead",
    "misa": "mer.stages.heads.misa:MisaHead",
    "mult": "mer.stages.heads.mult:MultHead",
    "attention": "mer.stages.heads.attention_fusion:AttentionHead",
    "tfn": "mer.stages.heads.tensor_fusion:TfnHead",
    "lmf": "mer.stages.heads.tensor_fusion:LmfHead",
    "ef-lstm": "mer.stages.heads.ef_lstm:EfLstmHead",
    "mfn": "mer.stages.heads.mfn:MfnHead",
    "graph-mfn": "mer.stages.heads.mfn:GraphMfnHead",
}

TABLES: Mapping[str, dict[str, str]] = {"corpus": CORPORA, "head": HEADS}
GROUPS = {"corpus": "mer.corpora", "encoder": "mer.encoders", "head": "mer.heads"}


def names(kind: str) -> dict[str, str]:
    """All names of one kind (`corpus` or `head`, or `encoder` for plug-ins) with their `module:Attr` path."""
    known = dict(TABLES.get(kind, {}))
    for entry in entry_points(group=GROUPS[kind]):
        known.setdefault(entry.name, entry.value)
    return known


def find(kind: str, name: str) -> Any:
    """Import the class behind a name, or behind a `module:Attr` path.

    Raises
    ------
    MerError
        If nothing has that name (the nearest one is suggested) or its module cannot be imported.
    """
    known = names(kind)
    path = name if ":" in name else known.get(name)
    if path is None:
        raise MerError(f"unknown {kind} {name!r}; {suggest(name, known)}")
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        # A console script does not look into the current folder, as `python` does.
        unseen = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        advice = "; where it lies in this folder, put PYTHONPATH=. before the command" if unseen else ""
        raise MerError(f"{kind} {name!r} cannot be loaded from {path}: {error}{advice}") from error


def suggest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Say which known name is nearest, and list them all when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    choices = ", ".join(sorted(known))
    return f"did you mean {near[0]!r}? Known: {choices}" if near else f"known: {choices}"
