"""The page of a pack on the Hub: a README with the header the Hub reads, the datasheet, and how to use the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..contents import summarise
from ..store import FeatureStore

HUB_LICENSES = frozenset(
    """apache-2.0 mit cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-sa-4.0 cc-by-nc-nd-4.0
    gpl-3.0 lgpl-3.0 agpl-3.0 bsd-2-clause bsd-3-clause odc-by odbl""".split()  # noqa: SIM905 - read it like a list
)
"""Licence names that the Hub knows, of those data come under; others are `other` with a name."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def hub_page(store: FeatureStore, name: str, where: str, digest: str, notes: str = "") -> str:
    """Markdown of the page.

    Parameters
    ----------
    name
        File name of the pack.
    where
        URL from which it can be pulled.
    digest
        SHA-256 of the file.
    notes
        Markdown of the publisher, placed after the summary.
    """
    facts = summarise(store.catalogue)
    corpus, datasheet = store.corpus, store.catalogue.datasheet
    title = str(corpus.get("title") or corpus.get("name") or name)
    parts = [
        header(corpus, datasheet, len(store.utterances), title),
        f"# {plain(title)}: frozen-encoder features\n",
        "Features for multimodal emotion recognition, without the recordings they were made from.\n",
        notes.strip() + "\n" if notes.strip() else "",
        _usage(name, where, digest),
        "## What is in it\n",
        *_sets(facts["sets"]),
        *_utterances(facts),
        "## Datasheet\n",
        *_facts(datasheet),
        *_provenance(store.provenance),
    ]
    return "\n".join(part for part in parts if part)


def header(
    corpus: Mapping[str, Any],
    datasheet: Mapping[str, Any],
    utterances: int,
    title: str,
    more: Sequence[str] = (),
) -> str:
    """YAML between dashes; every value is a JSON string, which YAML reads and nothing can break out of."""
    license_name = str(datasheet.get("license") or corpus.get("license") or "unknown")
    known = license_name.lower() in HUB_LICENSES
    lines = ["---", f"pretty_name: {json.dumps(title)}"]
    if known:
        lines.append(f"license: {license_name.lower()}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(license_name)}"]
    languages = [str(one) for one in corpus.get("languages") or () if re.fullmatch("[a-z]{2,3}", str(one))]
    if languages:
        lines += ["language:", *(f"- {one}" for one in languages)]
    size = next((word for most, word in SIZES if utterances < most), "n>1M")
    lines += ["tags:", "- emotion-recognition", "- multimodal", "- features", "- mer"]
    return "\n".join([*lines, "size_categories:", f"- {size}", *more, "---\n"])


def plain(text: Any) -> str:
    """Text on one line that Markdown and HTML leave alone."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", line)


def _usage(name: str, where: str, digest: str) -> str:
    return f"""## Use it

```bash
mer pull {where} -o {name}        # resumes, checks the sha256, then gives the file its name
mer info {name}
mer train --features {name}
```

Without `mer`, `{name}` is an HDF5 file: `docs/format.md` of the project describes it in full.

sha256: `{digest}`
"""


def _sets(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| feature set | modality | encoder | dimension | type | utterances | without |"
    yield "|---|---|---|---|---|---|---|"
    for name, made in sets.items():
        fates = made.get("fates", {})
        ok = int(fates.get("ok", 0))
        without = sum(int(count) for count in fates.values()) - ok
        encoder = made["encoder"]
        shown = " ".join(str(encoder[key]) for key in ("checkpoint", "type", "revision") if encoder.get(key))
        yield (
            f"| `{name}` | {made['modality']} | {plain(shown or made['name'])} | {made['dim']} | {made['dtype']} "
            f"| {ok:,} | {without:,} |"
        )
    yield ""


def _utterances(facts: Mapping[str, Any]) -> Iterator[str]:
    table = facts["utterances"]
    splits = ", ".join(f"{name or 'no split'} {count:,}" for name, count in table["splits"].items())
    yield f"{table['count']:,} utterances ({plain(splits)}), {table['speakers']:,} speakers.\n"
    for name, target in facts["targets"].items():
        classes = target["classes"]
        if not classes:
            continue
        yield f"| {plain(name)} | {' | '.join(plain(one) for one in classes)} |"
        yield "|---" * (len(classes) + 1) + "|"
        for split, counts in target["splits"].items():
            cells = " | ".join(f"{count:,}" for count in counts.get("counts", [0] * len(classes)))
            yield f"| {plain(split or 'all')} | {cells} |"
        yield ""


def _facts(datasheet: Mapping[str, Any]) -> Iterator[str]:
    for name, value in datasheet.items():
        if name == "contents":  # counted above
            continue
        if isinstance(value, list):
            value = "; ".join(map(str, value))
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items() if one not in ("", None))
        if value not in ("", None):
            yield f"- **{plain(name.replace('_', ' '))}**: {plain(value)}"
    yield ""


def _provenance(provenance: Mapping[str, Any]) -> Iterator[str]:
    libraries = provenance.get("libraries")
    if isinstance(libraries, dict):
        yield "Made with " + ", ".join(f"{plain(name)} {plain(number)}" for name, number in libraries.items()) + ".\n"
