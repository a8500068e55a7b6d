"""Tiny random checkpoints of every family, written by the same classes, in the same files, as the real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

SENTENCES = (
    "I am so happy for you, this is wonderful news!",
    "Well, she said that the report would be ready by nine, but nobody has seen it.",
    "We went home and talked about the weather, and then it rained all day.",
    "Oh my god, what a surprise! I did not expect that at all, really.",
    "Was für eine Überraschung, ich freue mich sehr darüber.",
)
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def lively(model: nn.Module, seed: int = 3) -> nn.Module:
    """Draw weights of unit gain: with the library's tiny ones a leak from padding would hardly show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() >= 2 and "embed" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            elif "norm" in name.lower():
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(0.5 * noise)
    return model


def save(model: nn.Module, folder: Path, **files: dict[str, Any]) -> Path:
    """Write a model as `save_pretrained` does, and JSON files beside it."""
    lively(model).save_pretrained(folder)  # type: ignore[operator]
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


# --- text ------------------------------------------------------------------------------------------------------------


def byte_level(folder: Path) -> int:
    """Write RoBERTa's vocab.json and merges.txt; return the size of the vocabulary."""
    from mer.stages.encoders.demo import byte_letters, learn_merges

    merges = learn_merges("\n".join(SENTENCES), 120)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *byte_letters().values(), *(a + b for a, b in merges), "<mask>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    return len(vocabulary)


def word_piece(folder: Path, first: tuple[str, ...], tokenizer: str) -> int:
    """Write BERT's vocab.txt: words of the sentences, and letters, Chinese characters among them."""
    words = sorted({word.strip(",.!").lower() for sentence in SENTENCES for word in sentence.split()})
    letters = sorted({letter for sentence in SENTENCES for letter in sentence.lower() if letter != " "})
    tokens = [*first, *"abcdefghijklmnopqrstuvwxyz0123456789,.!?我很高兴今天气真好", *letters, *words]
    tokens += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens = list(dict.fromkeys(tokens))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer, "do_lower_case": True}))
    return len(tokens)


def sentence_piece(path: Path, **ids: Any) -> int:
    """Train a SentencePiece model as DeBERTa-v3's and XLM-R's are; return its size."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_writer=model,
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return int(processor.get_piece_size())


def roberta(folder: Path) -> Path:
    from transformers import RobertaConfig, RobertaForMaskedLM

    size = byte_level(folder)
    config = RobertaConfig(vocab_size=size, max_position_embeddings=66, type_vocab_size=1, **SMALL)
    return save(RobertaForMaskedLM(config), folder)


def bert(folder: Path) -> Path:
    from transformers import BertConfig, BertModel

    size = word_piece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "BertTokenizer")
    return save(BertModel(BertConfig(vocab_size=size, max_position_embeddings=64, **SMALL)), folder)


def chinese_roberta(folder: Path) -> Path:
    """Chinese RoBERTa-wwm: BERT's classes, and weights in a pickled file, as published."""
    from transformers import BertConfig, BertForMaskedLM

    size = word_piece(folder, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "BertTokenizer")
    model = lively(BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=64, **SMALL)))
    model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    return folder


def deberta_v3(folder: Path) -> Path:
    from transformers import DebertaV2Config, DebertaV2Model

    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    size = sentence_piece(folder / "spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **pieces)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    config = DebertaV2Config(
        vocab_size=size + 1,
        max_position_embeddings=64,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        max_relative_positions=-1,
        **SMALL,
    )
    return save(DebertaV2Model(config), folder)


def xlm_roberta(folder: Path) -> Path:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    size = sentence_piece(folder / "sentencepiece.bpe.model", unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "XLMRobertaTokenizer"}))
    config = XLMRobertaConfig(
        vocab_size=size + 2, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SMALL
    )
    return save(XLMRobertaModel(config), folder)


def sentence_transformer(folder: Path) -> Path:
    """all-mpnet-base-v2: MPNet, with the files sentence-transformers adds."""
    from transformers import MPNetConfig, MPNetModel

    size = word_piece(folder, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), "MPNetTokenizer")
    config = MPNetConfig(vocab_size=size, max_position_embeddings=66, **SMALL)
    save(MPNetModel(config), folder, sentence_bert_config={"max_seq_length": 32, "do_lower_case": False})
    (folder / "modules.json").write_text("[]")
    return folder


# --- audio -----------------------------------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, Any] = {
    "conv_dim": [16] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7,
}
WAVE: dict[str, Any] = {
    **SMALL,
    **CONVOLUTIONS,
    "num_conv_pos_embeddings": 64,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 8,
}
GROUP: dict[str, Any] = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LAYER: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
NORMALISED: dict[str, Any] = {"do_normalize": True, "sampling_rate": 16000, "return_attention_mask": False}


def wav2vec2_group(folder: Path) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    config = Wav2Vec2Config(**WAVE, **GROUP, codevector_dim=16, proj_codevector_dim=16, num_codevectors_per_group=4)
    return save(Wav2Vec2ForPreTraining(config), folder, preprocessor_config=NORMALISED)


def wav2vec2_layer(folder: Path) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return save(Wav2Vec2Model(Wav2Vec2Config(**WAVE, **LAYER)), folder, preprocessor_config=NORMALISED)


def wav2vec2_msp_dim(folder: Path) -> Path:
    """Audeering's checkpoint: a regression head that transformers has no class for, sharded weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    config = Wav2Vec2Config(**WAVE, **LAYER, num_labels=3)
    model = Wav2Vec2ForSequenceClassification(config)
    model.classifier = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))
    lively(model).save_pretrained(folder, max_shard_size="100KB")
    written = json.loads((folder / "config.json").read_text())
    written["architectures"] = ["Wav2Vec2ForSpeechClassification"]
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "preprocessor_config.json").write_text(json.dumps(NORMALISED))
    return folder


def hubert_base(folder: Path) -> Path:
    from transformers import HubertConfig, HubertModel

    return save(HubertModel(HubertConfig(**WAVE, **GROUP)), folder, preprocessor_config=NORMALISED)


def hubert_large(folder: Path) -> Path:
    from transformers import HubertConfig, HubertForCTC

    return save(HubertForCTC(HubertConfig(**WAVE, **LAYER)), folder, preprocessor_config=NORMALISED)


def wavlm_base(folder: Path) -> Path:
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(**WAVE, **GROUP, num_buckets=32, max_bucket_distance=80)
    return save(WavLMModel(config), folder, preprocessor_config={**NORMALISED, "do_normalize": False})


def wavlm_large(folder: Path) -> Path:
    from transformers import WavLMConfig, WavLMModel

    config = WavLMConfig(**WAVE, **LAYER, num_buckets=32, max_bucket_distance=80)
    return save(WavLMModel(config), folder, preprocessor_config=NORMALISED)


def data2vec_audio(folder: Path) -> Path:
    from transformers import Data2VecAudioConfig, Data2VecAudioModel

    own = {**WAVE, "num_conv_pos_embeddings": 3}
    config = Data2VecAudioConfig(**own, conv_bias=False, conv_pos_kernel_size=5)
    return save(Data2VecAudioModel(config), folder, preprocessor_config=NORMALISED)


def whisper(folder: Path) -> Path:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        d_model=32,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=64,
        num_mel_bins=80,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return save(WhisperForConditionalGeneration(config), folder, preprocessor_config={"sampling_rate": 16000})


def emotion2vec(folder: Path) -> Path:
    """Tensors under the names, and settings in the file, that emotion2vec_base has; weights by exact arithmetic."""
    import numpy as np
    import yaml

    width, heads, channels = 24, 6, 16
    audio = "modality_encoders.AUDIO."
    shapes: dict[str, tuple[int, ...]] = {
        f"{audio}extra_tokens": (1, 10, width),
        f"{audio}alibi_scale": (1, 1, heads, 1, 1),
        f"{audio}project_features.1.weight": (channels,),
        f"{audio}project_features.1.bias": (channels,),
        f"{audio}project_features.2.weight": (width, channels),
        f"{audio}project_features.2.bias": (width,),
        f"{audio}context_encoder.norm.weight": (width,),
        f"{audio}context_encoder.norm.bias": (width,),
        f"{audio}decoder.proj.weight": (width, 12),
    }
    for layer, kernel in enumerate(CONVOLUTIONS["conv_kernel"]):
        name = f"{audio}local_encoder.conv_layers.{layer}"
        shapes[f"{name}.0.weight"] = (channels, channels if layer else 1, kernel)
        shapes[f"{name}.2.1.weight"] = shapes[f"{name}.2.1.bias"] = (channels,)
    for layer in range(1, 4):
        shapes[f"{audio}relative_positional_encoder.{layer}.0.weight"] = (width, width // 4, 7)
        shapes[f"{audio}relative_positional_encoder.{layer}.0.bias"] = (width,)
    for block in (f"{audio}context_encoder.blocks.0", "blocks.0", "blocks.1"):
        for part, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 2 * width, width),
            ("mlp.fc2", width, 2 * width),
        ):
            shapes[f"{block}.{part}.weight"], shapes[f"{block}.{part}.bias"] = (outputs, inputs), (outputs,)
        for part in ("norm1", "norm2"):
            shapes[f"{block}.{part}.weight"] = shapes[f"{block}.{part}.bias"] = (width,)
    bits = np.random.PCG64(9)
    state = {}
    for name, shape in sorted(shapes.items()):
        unit = (bits.random_raw(int(np.prod(shape))) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - 1
        unit = unit.reshape(shape)
        if len(shape) > 1 and "extra" not in name and "alibi" not in name:
            unit = unit * np.float32((3 / np.prod(shape[1:])) ** 0.5)
        elif name.endswith("weight"):
            unit = 1 + np.float32(0.1) * unit
        state[name] = torch.from_numpy(unit)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "step": 1.0}, folder / "emotion2vec_base.pt")
    settings: dict[str, Any] = {
        "depth": 2,
        "num_heads": heads,
        "embed_dim": width,
        "mlp_ratio": 2.0,
        "norm_eps": 1e-5,
        "layer_norm_first": False,
        "normalize": True,
        "modalities": {
            "audio": {
                "prenet_depth": 1,
                "num_extra_tokens": 10,
                "use_alibi_encoder": True,
                "learned_alibi": False,
                "learned_alibi_scale_per_head": True,
                "learned_alibi_scale_per_layer": False,
                "num_alibi_heads": heads,
                "extractor_mode": "layer_norm",
                "feature_encoder_spec": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16,2,2)] + [(16,2,2)]",
                "conv_pos_width": 21,
                "conv_pos_groups": 4,
                "conv_pos_depth": 3,
                "conv_pos_pre_ln": False,
            }
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": "Emotion2vec", "model_conf": settings}))
    return folder


# --- face ------------------------------------------------------------------------------------------------------------


def pictures(edge: int, resize: int = 0, **more: Any) -> dict[str, Any]:
    """Settings of an image processor: resize to `resize` and crop to `edge` where they differ."""
    settings: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 3, **more}
    if resize:
        return {**settings, "size": {"shortest_edge": resize}, "do_center_crop": True, "crop_size": {"height": edge}}
    return {**settings, "size": {"height": edge, "width": edge}}


def vit(folder: Path) -> Path:
    from transformers import ViTConfig, ViTModel

    return save(ViTModel(ViTConfig(image_size=48, patch_size=16, **SMALL)), folder, preprocessor_config=pictures(48))


def vit_fer(folder: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=48, patch_size=16, num_labels=7, **SMALL)
    return save(ViTForImageClassification(config), folder, preprocessor_config=pictures(48))


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={**SMALL, "vocab_size": 50, "max_position_embeddings": 8},
        vision_config={**SMALL, "image_size": 48, "patch_size": 16},
        projection_dim=16,
    )
    return save(CLIPModel(config), folder, preprocessor_config=pictures(48, resize=48))


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model

    own = {key: value for key, value in SMALL.items() if key != "intermediate_size"}
    config = Dinov2Config(image_size=70, patch_size=14, mlp_ratio=2, **own)
    return save(Dinov2Model(config), folder, preprocessor_config=pictures(56, resize=64))


def dinov3(folder: Path) -> Path:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = DINOv3ViTConfig(image_size=48, patch_size=16, num_register_tokens=2, **SMALL)
    return save(DINOv3ViTModel(config), folder, preprocessor_config=pictures(48))


def data2vec_vision(folder: Path) -> Path:
    from transformers import Data2VecVisionConfig, Data2VecVisionModel

    config = Data2VecVisionConfig(image_size=48, patch_size=16, use_relative_position_bias=True, **SMALL)
    return save(Data2VecVisionModel(config), folder, preprocessor_config=pictures(48))


def videomae(folder: Path) -> Path:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(image_size=32, patch_size=16, num_frames=8, tubelet_size=2, **SMALL)
    return save(VideoMAEModel(config), folder, preprocessor_config=pictures(32, resize=32))


TEXT: dict[str, Callable[[Path], Path]] = {
    "roberta": roberta,
    "bert": bert,
    "chinese-roberta-wwm": chinese_roberta,
    "deberta-v3": deberta_v3,
    "xlm-roberta": xlm_roberta,
    "sentence-transformer": sentence_transformer,
}
AUDIO: dict[str, Callable[[Path], Path]] = {
    "wav2vec2-group": wav2vec2_group,
    "wav2vec2-layer": wav2vec2_layer,
    "wav2vec2-msp-dim": wav2vec2_msp_dim,
    "hubert-base": hubert_base,
    "hubert-large": hubert_large,
    "wavlm-base": wavlm_base,
    "wavlm-large": wavlm_large,
    "data2vec-audio": data2vec_audio,
    "whisper": whisper,
    "emotion2vec": emotion2vec,
}
FACE: dict[str, Callable[[Path], Path]] = {
    "vit": vit,
    "vit-fer": vit_fer,
    "clip": clip,
    "dinov2": dinov2,
    "dinov3": dinov3,
    "data2vec-vision": data2vec_vision,
    "videomae": videomae,
}
MAKERS = {"text": TEXT, "audio": AUDIO, "face": FACE}
EVERY = [(modality, name) for modality, makers in MAKERS.items() for name in makers]
FEW = {"text": 40, "audio": 30_000, "face": 6}
"""Budgets that cut the items of the conformance suite into several batches."""
