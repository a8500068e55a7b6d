"""Small trees of every corpus in its true layout: annotation text in the published form, synthesised media."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
from synthetic import write_clip

from mer.stages.corpora.ch_sims import ChSimsCorpus, ChSimsV2Corpus
from mer.stages.corpora.cmu_mosei import CmuMoseiCorpus
from mer.stages.corpora.cmu_mosi import CmuMosiCorpus
from mer.stages.corpora.crema_d import CremaDCorpus
from mer.stages.corpora.emodb import EmoDbCorpus
from mer.stages.corpora.emorynlp import EmoryNlpCorpus
from mer.stages.corpora.folder import FolderCorpus
from mer.stages.corpora.iemocap import IemocapCorpus
from mer.stages.corpora.m3ed import M3edCorpus
from mer.stages.corpora.meld import MeldCorpus, MeldDyadicCorpus
from mer.stages.corpora.mer2023 import Mer2024Corpus, Mer2025Corpus, Mer2026Corpus, MerChallengeCorpus
from mer.stages.corpora.msp_improv import MspImprovCorpus
from mer.stages.corpora.ravdess import RavdessCorpus
from mer.stages.interfaces import Corpus

SECONDS = 0.8


@functools.cache
def _sample(suffix: str, faces: int) -> Path:
    """One clip of each kind, made once."""
    folder = Path(tempfile.mkdtemp(prefix="mer-tree-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"sample{suffix}"
    if suffix == ".flv":
        _to_flv(write_clip(folder / "sample.mp4", SECONDS), path)
    else:
        write_clip(path, SECONDS * (4 if faces == 2 else 1), faces=faces, size=(240 * max(faces, 1), 180))
    return path


def _to_flv(source: Path, target: Path) -> None:
    with av.open(str(source)) as reader, av.open(str(target), "w", format="flv") as writer:
        stream = writer.add_stream("flv", rate=12)
        stream.width, stream.height, stream.pix_fmt = 240, 180, "yuv420p"
        for number, frame in enumerate(reader.decode(video=0)):
            frame.pts, frame.time_base = number, Fraction(1, 12)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))


def put(path: Path, faces: int = 1) -> Path:
    """Put a clip of the suffix's kind there; no two have the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".wav":
        return write_clip(path, SECONDS + 0.01 * (hash_of(path) % 97))
    shutil.copyfile(_sample(path.suffix, faces), path)
    if path.suffix in (".mp4", ".avi"):
        name = hash_of(path).to_bytes(8, "big")
        box = (16).to_bytes(4, "big") + b"free" if path.suffix == ".mp4" else b"JUNK" + (8).to_bytes(4, "little")
        path.write_bytes(path.read_bytes() + box + name)
    return path


def hash_of(path: Path) -> int:
    """A number of a path's last three parts, equal on every run."""
    return int.from_bytes(np.frombuffer("/".join(path.parts[-3:]).encode(), np.uint8).tobytes(), "big") % (2**61 - 1)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write an annotation file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def lines(rows: Iterable[str]) -> str:
    return "\n".join(rows) + "\n"


def folder(root: Path) -> Corpus:
    write(
        root / "manifest.csv",
        "id,path,text,speaker,split,emotion,valence\n"
        "a,clips/a.mp4,Hello there.,ann,train,joy,0.5\n"
        "b,clips/b.mp4,Oh no.,ben,test,sad,-0.5\n"
        "c,clips/c.wav,,ann,val,joy,0.25\n",
    )
    for name in ("a.mp4", "b.mp4", "c.wav"):
        put(root / "clips" / name)
    return FolderCorpus(root)


MELD_CLIPS = {
    "train": "train/train_splits",
    "dev": "dev/dev_splits_complete",
    "test": "test/output_repeated_splits_test",
}


def meld(root: Path) -> Corpus:
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\r\n"
    rows = {
        "train": '2,"He’s lost it, Joe.",Phoebe,sadness,negative,0,3,4,7,"00:20:57,256","00:21:00,049"\r\n'
        '1,Hi!,Joey,joy,positive,0,0,4,7,"0:20:50,5","0:20:51,049"\r\n'
        '4,Gone.,Ross,anger,negative,125,3,4,8,"00:00:50,500","00:00:51,049"\r\n',
        "dev": '1,What?,Monica,surprise,negative,110,7,4,7,"00:21:01,927","00:21:03,261"\r\n'
        '2,Me?,Monica,neutral,neutral,0,0,4,7,"00:21:11,927","00:21:13,261"\r\n',
        "test": '1,Eh.,Mark,fear,negative,0,0,3,19,"00:14:38,127","00:14:40,378"\r\n',
    }
    for split, text in rows.items():
        write(root / f"{split}_sent_emo.csv", header + text)
    clips = {"train": ("dia0_utt0", "dia0_utt3"), "dev": ("dia0_utt0",), "test": ("dia0_utt0",)}
    for split, names in clips.items():
        for name in names:
            put(root / MELD_CLIPS[split] / f"{name}.mp4")
    put(root / MELD_CLIPS["test"] / "final_videos_testdia0_utt0.mp4")
    write(root / MELD_CLIPS["train"] / "._dia0_utt0.mp4", "stub")
    return MeldCorpus(root, allow_count_mismatch=True)


def meld_dyadic(root: Path) -> Corpus:
    header = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Old_Dialogue_ID,Old_Utterance_ID,"
    header += "Season,Episode,StartTime,EndTime\r\n"
    row = 'Hi!,Joey,joy,positive,{},{},{},{},4,7,"0:20:50,5","0:20:51,049"\r\n'
    for split in MELD_CLIPS:
        write(root / f"{split}_sent_emo_dya.csv", header + row.format(0, 0, 4, 1) + row.format(1, 0, 4, 1))
        put(root / MELD_CLIPS[split] / "dia4_utt1.mp4")
    return MeldDyadicCorpus(root, allow_count_mismatch=True)


def iemocap_labels(turns: Iterable[tuple[float, float, str, str]]) -> str:
    """An EmoEvaluation file: (start, end, turn, tag) with the lines of the raters around them."""
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    for start, end, name, tag in turns:
        text += f"[{start:.4f} - {end:.4f}]\t{name}\t{tag}\t[2.5000, 3.0000, 2.0000]\n"
        text += "C-E2:\tNeutral;\t()\nC-E4:\tNeutral; Anger;\t(curious)\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
    return text


def iemocap(root: Path) -> Corpus:
    base = root / "IEMOCAP_full_release"
    tags = {"F000": "neu", "M000": "exc", "F001": "xxx", "M001": "ang"}
    for session in range(1, 6):
        marked = "F" if session % 2 else "M"
        dialogue = f"Ses0{session}{marked}_impro01"
        home = base / f"Session{session}"
        turns = [
            (0.2 + 0.6 * n, 0.2 + 0.6 * n + 0.7, f"{dialogue}_{turn}", tag)
            for n, (turn, tag) in enumerate(tags.items())
        ]
        write(home / f"dialog/EmoEvaluation/{dialogue}.txt", iemocap_labels(reversed(turns)))
        write(home / f"dialog/EmoEvaluation/._{dialogue}.txt", "\0\0 stub of another system")
        write(home / f"dialog/EmoEvaluation/Categorical/{dialogue}_e1_cat.txt", f"{dialogue}_F000 :Neutral state;\n")
        spoken = [f"{name} [{start:08.4f}-{end:08.4f}]: Do you have your forms?" for start, end, name, _ in turns]
        noise = [f"{dialogue}_MXX0 [000.1000-000.2000]: Mmhmm.", "M: [LAUGHTER]", ""]
        write(home / f"dialog/transcriptions/{dialogue}.txt", lines([*spoken, *noise]))
        put(home / f"dialog/avi/DivX/{dialogue}.avi", faces=2)
        for _, _, name, _ in turns:
            put(home / f"sentences/wav/{dialogue}/{name}.wav")
    return IemocapCorpus(root, allow_count_mismatch=True)


def m3ed_annotation(rows: Iterable[tuple[str, str, str, str, str]]) -> str:
    """`annotation.json` of (utterance, speaker, name, main emotion, all emotions)."""
    found: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for number, (key, letter, name, main, several) in enumerate(rows):
        dialogue = key.rpartition("_")[0]
        series = dialogue.rpartition("_")[0]
        parts = found.setdefault(series, {}).setdefault(dialogue, {"SpeakerInfo": {}, "Dialog": {}})
        parts["SpeakerInfo"][letter] = {"Name": name, "Age": "mid", "Gender": "Female", "OtherName": []}
        parts["Dialog"][key] = {
            "StartTime": f"00:00:{number % 60:02d}:01",
            "EndTime": f"00:00:{number % 60:02d}:69",
            "Text": "你好",
            "Speaker": letter,
            "EmoAnnotation": {
                "EmoAnnotator1": main,
                "EmoAnnotator2": main,
                "EmoAnnotator3": several,
                "final_mul_emo": several,
                "final_main_emo": main,
            },
        }
    return json.dumps(found, ensure_ascii=False)


def m3ed(root: Path) -> Corpus:
    rows = [
        ("anjia_1_2", "B", "徐姑姑", "Sad", "Sad,Anger"),
        ("anjia_1_1", "A", "房似锦", "Happy", "Happy"),
        ("fendou_1_1", "A", "陆涛", "Neutral", "Neutral"),
        ("zhengfu_10_1", "A", "刘", "Fear", "Fear,Surprise"),
    ]
    write(root / "annotation.json", m3ed_annotation(rows))
    for split, series in {"train": "anjia\nother", "val": "fendou", "test": "zhengfu"}.items():
        write(root / f"splitInfo/movie_list_{split}.txt", series)
    for key, letter, *_ in rows:
        put(root / f"modality_speech/{letter}_{key}.wav")
    return M3edCorpus(root, allow_count_mismatch=True)


def cmu_mosi(root: Path) -> Corpus:
    write(
        root / "label.csv",
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        '03bSnISJMiM,11,"A LOT OF SAD PARTS",-2.5,,,,Negative,test\n'
        "03bSnISJMiM,2,THERE IS SAD PART,-1.4,,,,Negative,test\n"
        "_dI--eQ6qVU,1,UMM I LOVED IT,2.4,,,,Positive,train\n"
        "bOL9jKpeJRs,1,IT IS,0,,,,Neutral,valid\n",
    )
    for clip in ("03bSnISJMiM/11", "03bSnISJMiM/2", "_dI--eQ6qVU/1", "bOL9jKpeJRs/1"):
        put(root / "Raw" / f"{clip}.mp4")
    return CmuMosiCorpus(root, allow_count_mismatch=True)


def cmu_mosei(root: Path) -> Corpus:
    write(
        root / "label.csv",
        "video_id,clip_id,text,label,annotation,mode\n"
        "--qXJuDtHPw,5,I SEE THAT A WRITER IS SOMEBODY,1,Positive,test\n"
        "-3g5yACwYnA,10,ROAD TEST,0.6666667,Positive,train\n"
        "-3g5yACwYnA,2,WHAT ABOUT IT,0,Neutral,train\n"
        "_a-b_,0,KEY,-3,Negative,valid\n",
    )
    for clip in ("--qXJuDtHPw/5", "-3g5yACwYnA/10", "-3g5yACwYnA/2", "_a-b_/0"):
        put(root / "Raw" / f"{clip}.mp4")
    return CmuMoseiCorpus(root, allow_count_mismatch=True)


def write_csd(path: Path, videos: dict[str, tuple[list[list[float]], list[list[float]]]]) -> Path:
    """Write a label sequence as the SDK does: (intervals, features) per video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for video, (intervals, features) in videos.items():
            group = file.create_group(f"All Labels/data/{video}")
            group.create_dataset("intervals", data=np.array(intervals), compression="gzip")
            group.create_dataset("features", data=np.array(features, np.float32), compression="gzip")
        file.create_dataset("All Labels/metadata/root name", data=['"All Labels"'], dtype=h5py.string_dtype())
    return path


def cmu_mosei_sdk(root: Path) -> Corpus:
    raw = root / "Raw"
    write_csd(
        root / "CMU_MOSEI_Labels.csd",
        {
            "-3g5yACwYnA": ([[1.5, 2.25], [0.0, 1.5]], [[1, 0.6667, 0, 0, 0, 0, 0], [-1.3333, 0, 2, 0, 0, 0.333, 3.7]]),
            "_a__b_": ([[0.2, 0.9]], [[3, 3, 0, 0, 1, 0, 0]]),
            "zz": ([[0.2, 0.9]], [[0, 0, 0, 0, 0, 0, 0]]),
        },
    )
    text = raw / "Transcript/Segmented/Combined"
    write(
        text / "-3g5yACwYnA.txt",
        "-3g5yACwYnA___0___0.0___1.5___Key is ___ part\n"
        "-3g5yACwYnA___3___1.5___2.25___They've been able\n"
        "-3g5yACwYnA___4___2.25___2.9___Nobody rated this\n",
    )
    write(text / "_a__b_.txt", "_a__b____7___0.2___0.9___Underscores everywhere_\n")
    write(text / "zz.txt", "zz___1___0.2___0.9___\n")
    write(
        root / "cmu_mosei_std_folds.py",
        "standard_train_fold=['-3g5yACwYnA']\n\nstandard_valid_fold=['unused']\n\nstandard_test_fold=['_a__b_']\n",
    )
    for video in ("-3g5yACwYnA", "_a__b_", "zz"):
        put(raw / "Videos/Full/Combined" / f"{video}.mp4", faces=2)
    return CmuMoseiCorpus(root, allow_count_mismatch=True)


def ch_sims(root: Path) -> Corpus:
    write(
        root / "label.csv",
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "video_0001,0001,我不想嫁给李茶,-0.8,-0.6,-0.4,-0.8,Negative,train\n"
        "video_0001,2,不是你,0.1,0.0,0.2,0.0,Neutral,valid\n"
        "video_0003,0010,好,1.0,0.8,0.6,1.0,Positive,test\n",
    )
    for clip in ("video_0001/0001", "video_0001/0002", "video_0003/0010"):
        put(root / "Raw" / f"{clip}.mp4")
    return ChSimsCorpus(root, allow_count_mismatch=True)


def ch_sims_first(root: Path) -> Corpus:
    clips = [("video_0001", 1, -0.8), ("video_0001", 2, 0.1), ("video_0003", 10, 1.0)]
    for modality in "MTAV":
        rows = [f"{n},{video},{clip},{value}" for n, (video, clip, value) in enumerate(clips)]
        write(root / f"metadata/sentiment/label_{modality}.csv", lines([",video_id,clip_id,label", *rows]))
    spoken = [f"{video},{clip:04d},我不想,I do not want" for video, clip, _ in clips]
    write(root / "metadata/Translation.csv", lines(["video_id,clip_id,Chinese,English", *spoken]))
    for split, index in {"train": 0, "val": 1, "test": 2}.items():
        write(root / f"metadata/{split}_index.csv", f"index\n{index}\n")
    for video, clip, _ in clips:
        put(root / "Raw" / video / f"{clip:04d}.mp4")
    return ChSimsCorpus(root, allow_count_mismatch=True)


def ch_sims_v2(root: Path) -> Corpus:
    write(
        root / "meta.csv",
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "aqgy4_0004,00023,逛逛,0.2,0.2,0.2,0.4,Weak Positive,train\n"
        "aqgy4_0004,00024,走,0.0,0,0,0,Neutral,valid\n"
        "video_0003,0010,好,-1.0,-1,-0.6,-1.0,Negative,test\n",
    )
    for clip in ("aqgy4_0004/00023", "aqgy4_0004/00024", "video_0003/0010"):
        put(root / "Raw" / f"{clip}.mp4")
    return ChSimsV2Corpus(root, allow_count_mismatch=True)


def emorynlp(root: Path) -> Corpus:
    header = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time\n"
    rows = {
        "train": "\"Yeah, right!\",\"['Joey Tribbiani', 'Ross Geller']\",Neutral,4,12,1,2,00:00:04.504,00:00:07.548\n"
        "Coffee.,['Rachel Green'],Joyful,4,2,1,2,00:00:01.504,00:00:02.548\n",
        "dev": 'Thank you.,"["Phoebe\'s Assistant"]",Peaceful,1,1,1,15,00:00:03.795,00:00:05.004\n'.replace(
            '"["Phoebe\'s Assistant"]"', '"[""Phoebe\'s Assistant""]"'
        ),
        "test": "Go!,['Ross Geller'],Mad,4,1,1,1,00:09:34.865,00:09:51.423\n",
    }
    clips = {
        "train": ("sea1_ep2_sc4_utt12", "sea1_ep2_sc4_utt2"),
        "dev": ("sea1_ep15_sc1_utt1",),
        "test": ("sea1_ep1_sc4_utt1",),
    }
    for split, text in rows.items():
        write(root / f"emorynlp_{split}_final.csv", header + text)
        for name in clips[split]:
            put(root / f"emorynlp_{split}_splits" / f"{name}.mp4")
    return EmoryNlpCorpus(root, allow_count_mismatch=True)


def mer2023(root: Path) -> Corpus:
    write(root / "train-label.csv", "name,discrete,valence\nsample_00000001,neutral,0.0\nsample_00000000,angry,-2.5\n")
    for number in (1, 2, 3):
        scale = ("", "") if number == 3 else (",valence", ",1.5")
        write(root / f"test{number}-label.csv", f"name,discrete{scale[0]}\nsample_0000001{number},worried{scale[1]}\n")
        put(root / f"test{number}" / f"sample_0000001{number}.mp4")
    put(root / "train" / "sample_00000000.avi")
    put(root / "train" / "sample_00000001.mp4")
    write(
        root / "transcription-engchi-polish.csv",
        'name,chinese,english\nsample_00000000,你好。,"Hello, you."\nsample_00000001,,\nsample_00000011,走,Go\n',
    )
    return MerChallengeCorpus(root, allow_count_mismatch=True)


def mer2024(root: Path) -> Corpus:
    write(root / "label-disdim.csv", "name,discrete,valence\nsamplenew_00000001,sad,-1.0\nsample_00000002,happy,2\n")
    write(root / "label-transcription.csv", "name,chinese,english\nsample_00000002,好,Good\n")
    for name in ("samplenew_00000001", "sample_00000002"):
        put(root / "video-labeled" / f"{name}.mp4")
    return Mer2024Corpus(root, allow_count_mismatch=True)


def mer2025(root: Path) -> Corpus:
    write(root / "track1_train_disdim.csv", "name,discrete,valence\nsamplenew3_00000001,sad,-1.0\n")
    write(root / "track1_test_dis.csv", "name,discrete\nsamplenew3_00000002,surprise\n")
    write(root / "subtitle_chieng.csv", "name,chinese,english\nsamplenew3_00000001,好,Good\nunused_1,走,Go\n")
    for name in ("samplenew3_00000001", "samplenew3_00000002"):
        put(root / "video" / f"{name}.mp4")
    return Mer2025Corpus(root, allow_count_mismatch=True)


def mer2026(root: Path) -> Corpus:
    write(root / "track1_train.csv", "name,discrete,valence\nsample_00000001,sad,\nsample_00000002,happy,0.5\n")
    put(root / "video" / "sample_00000001.mp4")
    put(root / "video" / "sample_00000002.mp4")
    return Mer2026Corpus(root, allow_count_mismatch=True)


def msp_improv(root: Path) -> Corpus:
    turns = {
        "S01A-F01-P-FM01": ("N", "2.600000", "session1"),
        "S01A-F01-P-MF02": ("X", "NaN", "session1"),
        "S08H-M03-S-MF04": ("H", "4.000000", "session3"),
    }
    text = ""
    for name, (letter, value, session) in turns.items():
        text += f"UTD-IMPROV-{name}.avi; {letter}; A:{value}; V:3.400000; D:2.800000 ; N:3.200000;\n"
        text += "ST1AW_ Neutral, A:3.0\nID_12; Neutral; Neutral,; A:2.000000; V:3.000000; D:3.000000; N:4.000000;\n\n"
        scene, _, kind, _ = name.split("-")
        put(root / session / scene / kind / f"MSP-IMPROV-{name}.avi")
        put(root / session / scene / kind / f"MSP-IMPROV-{name}.wav")
    write(root / "Evalution.txt", text)
    return MspImprovCorpus(root, allow_count_mismatch=True)


def crema_d(root: Path) -> Corpus:
    names = ["1001_DFA_ANG_XX", "1001_IEO_NEU_LO", "1091_WSI_HAP_HI"]
    rows = [f'{n},"{name}"' for n, name in enumerate(names, 1)]
    write(root / "SentenceFilenames.csv", lines(['"Stimulus_Number","Filename"', *rows]))
    for name in names:
        put(root / "AudioWAV" / f"{name}.wav")
    put(root / "VideoFlash" / f"{names[0]}.flv")
    put(root / "VideoFlash" / f"{names[1]}.flv")
    return CremaDCorpus(root, allow_count_mismatch=True)


def ravdess(root: Path) -> Corpus:
    put(root / "Video_Speech_Actor_01/Actor_01/01-01-03-01-01-01-01.mp4")
    put(root / "Audio_Speech_Actors_01-24/Actor_01/03-01-03-01-01-01-01.wav")
    put(root / "Audio_Speech_Actors_01-24/Actor_24/03-01-08-02-02-02-24.wav")
    put(root / "Video_Song_Actor_01/Actor_01/01-02-03-01-01-01-01.mp4")
    return RavdessCorpus(root)


def emodb(root: Path) -> Corpus:
    for name in ("03a01Wa", "08b10Tb", "16a05Nc", "notes"):
        put(root / "wav" / f"{name}.wav")
    return EmoDbCorpus(root, allow_count_mismatch=True)


TREES: dict[str, Callable[[Path], Corpus]] = {
    "folder": folder,
    "meld": meld,
    "meld-dyadic": meld_dyadic,
    "iemocap": iemocap,
    "m3ed": m3ed,
    "cmu-mosi": cmu_mosi,
    "cmu-mosei": cmu_mosei,
    "cmu-mosei-sdk": cmu_mosei_sdk,
    "ch-sims": ch_sims,
    "ch-sims-first": ch_sims_first,
    "ch-sims-v2": ch_sims_v2,
    "emorynlp": emorynlp,
    "mer2023": mer2023,
    "mer2024": mer2024,
    "mer2025": mer2025,
    "mer2026": mer2026,
    "msp-improv": msp_improv,
    "crema-d": crema_d,
    "ravdess": ravdess,
    "emodb": emodb,
}
