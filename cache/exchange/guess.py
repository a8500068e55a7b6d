"""Tells the modality of a foreign feature set from the names its makers gave it."""

from __future__ import annotations

import re

from ..errors import MerError

HINTS = {
    "audio": "audio acoustic speech sound covarep opensmile egemaps is09 is10 is13 librosa mfcc wav2vec hubert wavlm "
    "whisper vggish emotion2vec data2vec-audio clap",
    "face": "face facial visual vision video facet openface manet ferplus senet resnet densenet emonet videomae "
    "dinov2 eva02 vit clip msceleb affectnet affectdenseface",
    "text": "text word glove bert roberta deberta xlnet electra albert sentence gpt llama baichuan bloom chatglm qwen "
    "bge phone language",
}


WHOLE_WORDS = ("clip", "clap", "vit")
"""Hints that begin many other words: clips, clapping, vital."""

OWN = re.compile(r"(text|audio|face)-(.+)")
"""Stems that `mer` writes: modality, then the name of the set."""


def stem_of(modality: str, name: str) -> str:
    """File stem of an exported set; `modality_of` and `name_of` read it back."""
    return f"{modality}-{name}"


def name_of(stem: str) -> str:
    """Name of the set in a file stem."""
    own = OWN.fullmatch(stem)
    return own[2] if own else stem


def modality_of(name: str, where: str) -> str:
    """Modality named by a file, folder or manifest.

    Raises
    ------
    MerError
        If the name tells none or several; the message says how to say it.
    """
    own = OWN.match(name)
    if own:
        return own[1]
    lowered = name.lower()
    words = {word: modality for modality, hints in HINTS.items() for word in hints.split() if _has(lowered, word)}
    longest = [word for word in words if not any(word in other and word != other for other in words)]  # huBERT
    found = sorted({words[word] for word in longest})
    if len(found) == 1:
        return found[0]
    said = "says nothing of its modality" if not found else f"could mean {' or '.join(found)}"
    raise MerError(f"{where}: the name {said}; say it with --map {ascii(name.split()[0])[1:-1]}=text|audio|face")


def _has(name: str, word: str) -> bool:
    if word in WHOLE_WORDS:
        return re.search(rf"(?<![a-z]){word}(?![a-z])", name) is not None
    return word in name
