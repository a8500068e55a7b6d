"""CMU-MOSI: 2,199 opinion segments from 93 video blogs, each with a sentiment value in [-3, 3].

Who may use it
    Researchers, under the terms of CMU's MultiComp laboratory; the videos are YouTube's users'.
Layout
    As MMSA gives it out: `label.csv` and `Raw/{video}/{clip}.mp4`. The original release has the same clips as
    `Video/Segmented/{video}_{clip}.mp4`; with `label.csv` beside it, that is found too. Its labels in `.csd` form
    name no clips, and its `.annotprocessed` transcripts have no times to join them by, so `label.csv` is required.
Labels
    `sentiment`, and the classes that papers derive from it: two (zero counted as positive, or left out), five, seven.
Splits
    Official: 1,284 / 229 / 686, disjoint in videos. One speaker a video; who returns in another video is not known.
Traps
    * Two readings of "two classes" are in use; both are here under their own names.
    * A segment is part of a video: random splits share speakers.
Papers
    Zadeh et al., "MOSI: Multimodal corpus of sentiment intensity and subjectivity analysis in online opinion videos",
    arXiv:1606.06259; https://github.com/thuiar/MMSA
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..interfaces import CorpusInfo
from ..utterance import Utterance
from .annotation import corpus_root
from .counted import CountedCorpus
from .counts import Published
from .mmsa import Layout, bounded, read_labels
from .sentiment import CMU_LABELS, cmu_labels

LAYOUT = Layout("CMU-MOSI", flat=("Video/Segmented", "Raw/Video/Segmented"))
PUBLISHED = Published(utterances={"train": 1284, "val": 229, "test": 686}, source="MMSA and MERBench")


@dataclass(frozen=True)
class CmuMosiCorpus(CountedCorpus):
    """CMU-MOSI with MMSA's label table."""

    facts = CorpusInfo(
        name="cmu-mosi",
        title="CMU-MOSI: Multimodal Opinion-level Sentiment Intensity",
        languages=("en",),
        license="research only",
        gated=True,
        url="http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
        citation="Zadeh et al., arXiv:1606.06259",
        labels=CMU_LABELS,
        protocols=("official",),
    )
    counts = PUBLISHED

    def utterances(self) -> Sequence[Utterance]:
        """List the segments by video and clip.

        Raises
        ------
        MerError
            If the table is missing or malformed, or counts differ from the published ones.
        """
        found = read_labels(corpus_root(self.root), LAYOUT, lambda row: cmu_labels(bounded(row, "label", 3.0)))
        return self.counted(found)
