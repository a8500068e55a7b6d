"""The page and the Croissant metadata of a Parquet export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..table import TEXT_COLUMNS
from ..transfer.card import header, plain
from .hub_names import column_name
from .pack import Outgoing

CROISSANT = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
ABOUT = {
    "id": "Id of the utterance, unique",
    "row": "Place of the utterance in the table",
    "text": "Transcript",
    "media": "Path of the recording, which is not in this dataset",
    "split": "Split as the corpus names it",
    "turn": "Position in the dialogue, -1 where unknown",
    "start_seconds": "Start of the utterance in its recording",
    "end_seconds": "End of the utterance in its recording",
    "duration_seconds": "Length of the utterance",
    "machine_text": "Whether a speech recogniser made the transcript",
}


def write_card(
    target: Path, outgoing: Outgoing, files: Mapping[str, Sequence[Path]], counts: Mapping[str, int], schema: Any
) -> None:
    """Write `README.md` and `croissant.json` into an export whose data are written already."""
    page = _page(outgoing, files, counts, schema)
    (target / "README.md").write_text(page, encoding="utf-8")
    facts = _croissant(target, outgoing, files, schema)
    (target / "croissant.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _title(outgoing: Outgoing) -> str:
    return str(outgoing.corpus.get("title") or outgoing.corpus.get("name") or "features")


def _license(outgoing: Outgoing) -> str:
    return str(outgoing.datasheet.get("license") or outgoing.corpus.get("license") or "unknown")


def _page(outgoing: Outgoing, files: Mapping[str, Sequence[Path]], counts: Mapping[str, int], schema: Any) -> str:
    configs = ["configs:", "- config_name: default", "  data_files:"]
    for split in files:
        configs += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
    top = header(outgoing.corpus, outgoing.datasheet, sum(counts.values()), _title(outgoing), configs)
    lines = [top, f"# {plain(_title(outgoing))}: frozen-encoder features\n"]
    lines.append("Features for multimodal emotion recognition, one row per utterance, without the recordings.\n")
    lines += ["```python", "from datasets import load_dataset", "", 'data = load_dataset("ORG/NAME")', "```\n"]
    lines += ["`mer import hf://datasets/ORG/NAME -o FILE.h5` makes a cache of it, to the bit.\n"]
    lines += ["| split | utterances | files | bytes |", "|---|---|---|---|"]
    for split, paths in files.items():
        size = sum(path.stat().st_size for path in paths)
        lines.append(f"| {split} | {counts[split]:,} | {len(paths)} | {size:,} |")
    lines += ["", "| column | is |", "|---|---|"]
    lines += [f"| `{name}` | {plain(_about(name, outgoing))} |" for name in schema.names]
    terms = outgoing.datasheet.get("terms")
    lines += ["", f"Licence: {plain(_license(outgoing))}.", plain(terms) if terms else ""]
    cited = outgoing.corpus.get("citation") or outgoing.datasheet.get("citation")
    lines += ["", f"Cite: {plain(cited)}"] if cited else []
    return "\n".join(lines).rstrip() + "\n"


def _about(name: str, outgoing: Outgoing) -> str:
    if name in ABOUT or name in TEXT_COLUMNS:
        return ABOUT.get(name, name.capitalize())
    if name.startswith("label_"):
        label = outgoing.utterances.labels[name[6:]]
        return f"Target {name[6:]}: {', '.join(label.classes) or 'a number'}"
    for made in outgoing.sets:
        column = column_name(made)
        ends = {
            column: f"{made.modality} features {made.name}, {made.dim} numbers per step",
            f"{column}_times": "Centre of each step, seconds from the start of the utterance",
            f"{column}_valid": "Whether there was something to encode at the step",
            f"{column}_mean": "Mean of the valid steps",
        }
        if name in ends:
            return ends[name]
    return name


# --------------------------------------------------------------------------------------------------------- Croissant


def _croissant(target: Path, outgoing: Outgoing, files: Mapping[str, Sequence[Path]], schema: Any) -> dict[str, Any]:
    """Metadata after the Croissant 1.0 specification: every file with its SHA-256, every column with its type."""
    name = str(outgoing.corpus.get("name") or "features")
    objects = [_file(path.relative_to(target).as_posix(), path) for paths in files.values() for path in paths]
    first = objects[0]["@id"]
    records = [_record_set(split, paths, target, schema, outgoing) for split, paths in files.items()]
    facts: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CROISSANT,
        "name": name,
        "description": f"{_title(outgoing)}: frozen-encoder features for emotion recognition, one row per utterance",
        "license": _license(outgoing),
        "url": str(outgoing.corpus.get("url") or f"file:{first}"),
        "version": "1.0.0",
        "distribution": objects,
        "recordSet": records,
    }
    cited = outgoing.corpus.get("citation")
    return facts | ({"citeAs": str(cited)} if cited else {})


def _file(name: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _record_set(split: str, paths: Sequence[Path], target: Path, schema: Any, outgoing: Outgoing) -> dict[str, Any]:
    """Columns of one split; a split of several files is described by its first, whose columns all share."""
    source = paths[0].relative_to(target).as_posix()
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{field.name}",
                "name": f"{split}/{field.name}",
                "description": _about(field.name, outgoing),
                "dataType": _data_type(field.type),
                **({"repeated": True} if _is_list(field.type) else {}),
                "source": {"fileObject": {"@id": source}, "extract": {"column": field.name}},
            }
            for field in schema
        ],
    }


def _is_list(kind: Any) -> bool:
    from .arrow import pyarrow

    types = pyarrow().types
    return bool(types.is_list(kind) or types.is_fixed_size_list(kind))


def _data_type(kind: Any) -> str:
    from .arrow import pyarrow

    types = pyarrow().types
    while _is_list(kind):
        kind = kind.value_type
    if types.is_boolean(kind):
        return "sc:Boolean"
    if types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if types.is_floating(kind) else "sc:Text"
