"""Tiny random checkpoints of more families: those with a batch rule of their own, and some that have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tiny_checkpoints import LAYER, NORMALISED, SENTENCES, SMALL, WAVE, pictures, save, sentence_piece, word_piece

Maker = Callable[[Path], Path]
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HEADS = {"num_key_value_heads": 2, "head_dim": 8}


def byte_pairs(folder: Path, around: tuple[str, ...] = ()) -> int:
    """Write a tokenizer.json of byte pairs; `around` is put before and after a text, which decoders do not have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", *around], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if around:
        before, behind = ((token, tokenizer.token_to_id(token)) for token in around)
        tokenizer.post_processor = processors.BertProcessing(behind, before)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def _bert_like(kind: str, **own: Any) -> Maker:
    """Checkpoint of a text family on BERT's tokenizer."""

    def make(folder: Path) -> Path:
        size = word_piece(folder, BERT_TOKENS, "BertTokenizer")
        config = getattr(transformers, f"{kind}Config")(vocab_size=size, **{**SMALL, **own})
        return save(getattr(transformers, f"{kind}Model")(config), folder)

    return make


def _decoder(kind: str, **own: Any) -> Maker:
    def make(folder: Path) -> Path:
        size = byte_pairs(folder)
        settings = {
            **SMALL,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **own,
        }
        config = getattr(transformers, f"{kind}Config")(vocab_size=size, **settings)
        return save(getattr(transformers, f"{kind}Model")(config), folder)

    return make


def modernbert(folder: Path) -> Path:
    size = byte_pairs(folder, ("[CLS]", "[SEP]"))
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.ModernBertConfig(
        vocab_size=size, max_position_embeddings=64, local_attention=16, global_attn_every_n_layers=2, **ids, **SMALL
    )
    return save(transformers.ModernBertModel(config), folder)


def t5(folder: Path) -> Path:
    size = sentence_piece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    own = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
    return save(transformers.T5Model(transformers.T5Config(vocab_size=size + 8, **own)), folder)


# --- audio -----------------------------------------------------------------------------------------------------------


def _wave_like(kind: str, settings: dict[str, Any] = NORMALISED, **own: Any) -> Maker:
    def make(folder: Path) -> Path:
        config = getattr(transformers, f"{kind}Config")(**{**WAVE, **LAYER, **own})
        return save(getattr(transformers, f"{kind}Model")(config), folder, preprocessor_config=settings)

    return make


def wav2vec2_bert(folder: Path) -> Path:
    config = transformers.Wav2Vec2BertConfig(
        feature_projection_input_dim=160, conv_depthwise_kernel_size=7, left_max_position_embeddings=16,
        right_max_position_embeddings=4, vocab_size=8, **SMALL,
    )  # fmt: skip
    extractor = transformers.SeamlessM4TFeatureExtractor()
    save(transformers.Wav2Vec2BertModel(config), folder)
    extractor.save_pretrained(folder)
    return folder


def ast(folder: Path) -> Path:
    config = transformers.ASTConfig(
        patch_size=16, frequency_stride=16, time_stride=16, max_length=256, num_mel_bins=32, **SMALL
    )
    save(transformers.ASTModel(config), folder)
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=256).save_pretrained(folder)
    return folder


def clap(folder: Path) -> Path:
    audio = {
        "hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2],
        "spec_size": 256, "num_mel_bins": 64, "window_size": 8, "enable_fusion": False,
    }  # fmt: skip
    config = transformers.ClapConfig(text_config={**SMALL, "vocab_size": 50}, audio_config=audio, projection_dim=16)
    save(transformers.ClapModel(config), folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    return folder


def sew_d(folder: Path) -> Path:
    """An unlisted relative of SEW."""
    own = {"feat_extract_norm": "layer", "squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 16}
    return _wave_like("SEWD", **own, feature_layer_norm_eps=1e-5)(folder)


# --- face ------------------------------------------------------------------------------------------------------------


def _picture_like(kind: str, settings: dict[str, Any], **own: Any) -> Maker:
    def make(folder: Path) -> Path:
        config = getattr(transformers, f"{kind}Config")(**own)
        return save(getattr(transformers, f"{kind}Model")(config), folder, preprocessor_config=settings)

    return make


def _siglip(kind: str, **own: Any) -> Maker:
    def make(folder: Path) -> Path:
        text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
        config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config={**SMALL, **own})
        more = {} if kind == "Siglip" else {"patch_size": 16, "max_num_patches": 9}
        model = getattr(transformers, f"{kind}Model")(config)
        return save(model, folder, preprocessor_config={**pictures(48), **more})

    return make


CONVNEXT = {**pictures(48), "size": {"shortest_edge": 48}, "crop_pct": 0.875}
SWIN: dict[str, Any] = {"image_size": 48, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1], "num_heads": [1, 2, 2]}

TEXT: dict[str, Maker] = {
    "modernbert": modernbert,
    "llama": _decoder("Llama", num_key_value_heads=2),
    "qwen3": _decoder("Qwen3", **HEADS),
}
AUDIO: dict[str, Maker] = {
    "wav2vec2-bert": wav2vec2_bert,
    "wav2vec2-conformer": _wave_like("Wav2Vec2Conformer", conv_depthwise_kernel_size=7),
    "unispeech-sat": _wave_like("UniSpeechSat"),
    "sew": _wave_like("SEW", feat_extract_norm="group", conv_bias=False, squeeze_factor=2),
    "ast": ast,
    "clap": clap,
}
FACE: dict[str, Maker] = {
    "siglip": _siglip("Siglip", image_size=48, patch_size=16),
    "siglip2": _siglip("Siglip2", num_patches=16, patch_size=16),
    "swin": _picture_like("Swin", pictures(48), window_size=3, **SWIN),
    "convnext": _picture_like(
        "ConvNext", CONVNEXT, image_size=48, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], num_stages=3
    ),
    "resnet": _picture_like(
        "ResNet", CONVNEXT, embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], layer_type="basic"
    ),
}
UNLISTED: dict[str, dict[str, Maker]] = {
    "text": {
        "albert": _bert_like("Albert", max_position_embeddings=64, embedding_size=16),
        "t5": t5,
        "gpt2": _decoder("GPT2", n_embd=32, n_layer=3, n_head=4, n_positions=128),
    },
    "audio": {"sew-d": sew_d},
    "face": {
        "swinv2": _picture_like("Swinv2", pictures(48), window_size=3, **SWIN),
        "dinov2-with-registers": _picture_like(
            "Dinov2WithRegisters", pictures(56), image_size=70, patch_size=14, mlp_ratio=2, num_register_tokens=2,
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        ),
        "convnextv2": _picture_like(
            "ConvNextV2", CONVNEXT, image_size=48, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2
        ),
    },
}  # fmt: skip
LISTED: dict[str, dict[str, Maker]] = {"text": TEXT, "audio": AUDIO, "face": FACE}
RELATIVES: dict[str, dict[str, Maker]] = {
    "text": {
        "distilbert": _bert_like(
            "DistilBert", dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64
        ),
        "electra": _bert_like("Electra", max_position_embeddings=64, embedding_size=16),
        "mistral": _decoder("Mistral", **HEADS, sliding_window=32),
        "qwen2": _decoder("Qwen2", num_key_value_heads=2),
    },
    "audio": {"unispeech": _wave_like("UniSpeech")},
    "face": {
        "deit": _picture_like("DeiT", pictures(48), image_size=48, patch_size=16, **SMALL),
        "beit": _picture_like("Beit", pictures(48), image_size=48, patch_size=16, **SMALL),
    },
}
"""Families that are run as one above is."""
