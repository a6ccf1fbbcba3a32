"""Evaluation of small lossless videos whose differences are known, with a landmark reader that sees one bright dot."""

import csv
import io
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import tone, write_clip, write_wav

from hdtalk.cli import hdtalk
from hdtalk.config import EvaluateConfig, MediaConfig
from hdtalk.data import FaceTrack, VideoInfo
from hdtalk.errors import InputError, UsageError, WeightsError
from hdtalk.evaluate import evaluate, face_boxes
from hdtalk.instruments import Instruments, face_tracker
from hdtalk.media import VideoWriter
from hdtalk.metrics import METRICS
from hdtalk.pairs import Pair, find_pairs, pairs_of_methods, read_pairs
from hdtalk.scores import to_csv, to_json, to_markdown, to_text
from hdtalk.soundtrack import Soundtrack
from hdtalk.weights import load_bundle

WIDTH, HEIGHT, NUM_FRAMES = 160, 128, 10
FACE_CENTRE = np.array([80.0, 60.0])
ANGLES = np.arange(68) * 2 * np.pi / 68


def face_landmarks():
    """68 points whose eyes and mouth give an upright FFHQ quad; bounding box 40 x 40 px around FACE_CENTRE."""
    points = FACE_CENTRE + 20 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    points[36:42], points[42:48] = FACE_CENTRE + [-8, -6], FACE_CENTRE + [8, -6]
    points[48:68] = FACE_CENTRE + [0, 10]
    points[[0, 1, 2, 3]] = FACE_CENTRE + [[20, 0], [-20, 0], [0, 20], [0, -20]]
    return points.astype(np.float32)


def talking(shift_px=0.0, noise=0.0, num_frames=NUM_FRAMES, fps=25, seed=0):
    """Frames [T,H,W,3] of a still texture and a bright dot that goes down and up; the texture is the same always."""
    texture = np.random.default_rng(1).uniform(20, 90, (HEIGHT // 8, WIDTH // 8, 3))
    texture = np.kron(texture, np.ones((8, 8, 1)))
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for index in range(num_frames):
        dot_y = FACE_CENTRE[1] + 4 * np.sin(2 * np.pi * index / fps * 2.5)
        dot = np.exp(-((x - FACE_CENTRE[0] - shift_px) ** 2 + (y - dot_y) ** 2) / 8)[..., None]
        frame = texture * (1 - dot) + 255 * dot + random.normal(0, noise or 1e-9, texture.shape)
        frames.append(np.clip(np.round(frame), 0, 255).astype(np.uint8))
    return np.stack(frames)


def write(path: Path, frames, fps=25, soundtrack=None):
    info = VideoInfo(str(path), frames.shape[2], frames.shape[1], Fraction(fps), len(frames), len(frames) / fps, False)
    with VideoWriter(path, info, soundtrack, config=MediaConfig(codec="ffv1")) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def track_of(path, present=None):
    landmarks = np.repeat(face_landmarks()[None], 50, axis=0)
    return FaceTrack(landmarks, np.ones(50, bool) if present is None else present)


def dot_landmarks(crops):
    """68 copies of the dot's place: the centroid of what is much brighter than the texture."""
    brightness = np.clip(crops.mean(axis=-1, dtype=np.float64) - 120, 0, None)
    y, x = np.mgrid[: crops.shape[1], : crops.shape[2]]
    weight = brightness.sum(axis=(1, 2))
    dots = np.stack([(brightness * x).sum(axis=(1, 2)), (brightness * y).sum(axis=(1, 2))], axis=1) / weight[:, None]
    return np.repeat(dots[:, None], 68, axis=1)


def pooled(frames):
    """Mean colour of four quarters: a tiny stand-in for a feature network."""
    halves = [frames[:, i::2, j::2].mean(axis=(1, 2)) for i in (0, 1) for j in (0, 1)]
    return np.concatenate(halves, axis=1)


INSTRUMENTS = Instruments(
    track=track_of,
    landmarks=dot_landmarks,
    perceptual=lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)),
    fid_features=pooled,
    embed=lambda crops: torch.from_numpy(pooled(crops)),
    stand_ins=frozenset({"FID", "LPIPS", "ID"}),
    missing={"LSE-D": "SyncNet is not installed.", "LSE-C": "SyncNet is not installed."},
)
PIXELS_ONLY = Instruments(missing=dict.fromkeys(["F-LD", "BG-jitter"], "Nothing is installed."))
FULL = EvaluateConfig(crop="full")


@pytest.fixture(scope="module")
def true_video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("true") / "clip.mkv", talking())


def scores_of(prediction, ground_truth, instruments=INSTRUMENTS, **config):
    result = evaluate({"ours": [Pair("clip", prediction, ground_truth)]}, instruments, EvaluateConfig(**config))
    return result.scores["ours"], result


@pytest.mark.parametrize("crop", ["face", "full"])
def test_a_video_against_itself_is_perfect_in_every_column(true_video, crop):
    scores, result = scores_of(true_video, true_video, crop=crop)
    assert set(scores) == {"FID-demo", "PSNR", "SSIM", "LPIPS-demo", "F-LD", "M-LD", "Jitter", "BG-jitter", "ID-demo"}
    for column, value in scores.items():
        assert value == pytest.approx(METRICS[column.removesuffix("-demo")].perfect, abs=1e-6), column


def test_landmark_distance_is_in_pixels_of_the_256_px_ffhq_crop(true_video, tmp_path):
    """Eyes 16 px apart, mouth 16 px below: the FFHQ quad is max(2 * 2 * 16, 2 * 1.8 * 16) = 64 px wide, so 3 px of the
    frame are 12 px of the crop, in every frame, without any jitter."""
    shifted = write(tmp_path / "shifted.mkv", talking(shift_px=3))
    scores, _ = scores_of(shifted, true_video)
    assert scores["F-LD"] == pytest.approx(12, abs=0.4)  # the texture under the dot pulls a little
    assert scores["M-LD"] == pytest.approx(scores["F-LD"])
    assert scores["Jitter"] < 0.3
    assert scores["BG-jitter"] == 0  # the dot never leaves the face's crop


def test_crop_face_sees_the_face_box_alone(true_video, tmp_path):
    frames = talking()
    frames[:, :20, :20] = 255  # far from the face
    spoilt = write(tmp_path / "spoilt.mkv", frames)
    assert scores_of(spoilt, true_video, crop="face")[0]["PSNR"] == math.inf
    squared = (frames.astype(float) - talking()) ** 2
    expected = 10 * np.log10(255**2 / squared.mean(axis=(1, 2, 3)))
    assert scores_of(spoilt, true_video, crop="full")[0]["PSNR"] == pytest.approx(expected.mean())


def test_background_jitter_sees_flicker_outside_the_crop(true_video, tmp_path):
    frames = talking().astype(int)
    frames[1::2, :, :20] += 6
    flickering = write(tmp_path / "flicker.mkv", frames.astype(np.uint8))
    value = scores_of(flickering, true_video)[0]["BG-jitter"]
    outside = HEIGHT * WIDTH - 65 * 65  # the quad is 64 px wide; its border pixels count as inside
    assert value == pytest.approx(6 * HEIGHT * 20 / outside, rel=0.02)


def test_untouched_frames_do_not_make_psnr_infinite(true_video, tmp_path):
    frames = talking()
    frames[3:] = talking(noise=6)[3:]
    scores, result = scores_of(write(tmp_path / "part.mkv", frames), true_video, PIXELS_ONLY, crop="full")
    assert 30 < scores["PSNR"] < 35
    assert "3 of 10 frames equal the ground truth" in to_text(result)


def test_frame_rates_are_compared_on_time(tmp_path, true_video):
    """The same movement at 50 fps: true frame i is predicted frame 2 i, so nothing differs."""
    doubled = write(tmp_path / "doubled.mkv", talking(num_frames=20, fps=50), fps=50)
    scores, result = scores_of(doubled, true_video)
    assert scores["PSNR"] == math.inf and scores["F-LD"] == 0
    assert "50.000 fps" in to_text(result) and result.clips[0].num_frames == 10


@pytest.mark.parametrize("num_frames", [12, 13])
def test_half_the_rate_shows_every_frame_twice(tmp_path, num_frames):
    """A prediction at 12.5 fps: true frames 2 i and 2 i + 1 see frame i, and none at the end is left out."""
    halved = np.repeat(talking()[:7], 2, axis=0)[:num_frames]
    truth = write(tmp_path / "truth.mkv", halved)
    prediction = write(tmp_path / "half.mkv", halved[::2], fps=Fraction(25, 2))
    scores, result = scores_of(prediction, truth)
    assert scores["PSNR"] == math.inf and result.clips[0].num_frames == num_frames
    assert "true frames are left out" not in to_text(result)


def test_a_prediction_of_one_short_frame_is_compared(tmp_path, true_video):
    single = write(tmp_path / "single.mkv", talking(num_frames=1), fps=100)
    _, result = scores_of(single, true_video, PIXELS_ONLY, crop="full")
    assert result.clips[0].num_frames == 1


@pytest.mark.parametrize(("fps", "expected"), [(10, 25), (Fraction(25, 2), 20), (50, 5)])
def test_lse_sees_only_frames_that_exist(tmp_path, monkeypatch, fps, expected):
    seen = []
    monkeypatch.setattr("hdtalk.evaluate.lse", lambda faces, *_: seen.extend(faces) or (8.0, 1.0))
    sound = Soundtrack(write_wav(tmp_path / "speech.wav", *tone(1.0, 16000)))
    slow = write(tmp_path / "slow.mkv", talking(), fps=fps, soundtrack=sound)
    scores_of(slow, slow, replace(INSTRUMENTS, syncnet=object()))
    assert len(seen) == expected


def test_lse_sees_the_prediction_at_its_own_rate(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("hdtalk.evaluate.lse", lambda faces, *_: seen.extend(faces) or (8.0, 1.0))
    sound = Soundtrack(write_wav(tmp_path / "speech.wav", *tone(1.0, 16000)))
    prediction = write(tmp_path / "prediction.mkv", talking(), soundtrack=sound)
    truth = write(tmp_path / "truth.mkv", talking()[::2], fps=Fraction(25, 2))
    scores_of(prediction, truth, replace(INSTRUMENTS, syncnet=object()))
    moves = [np.diff(frames.astype(int), axis=0).any(axis=(1, 2, 3)) for frames in (np.stack(seen), talking())]
    np.testing.assert_array_equal(*moves)


def test_a_shorter_prediction_is_compared_as_far_as_it_goes_and_said(tmp_path, true_video):
    short = write(tmp_path / "short.mkv", talking()[:7])
    scores, result = scores_of(short, true_video)
    assert scores["PSNR"] == math.inf and result.clips[0].num_frames == 7
    assert "0.12 s shorter: the last 3 of 10 true frames are left out" in to_text(result)
    scores, result = scores_of(true_video, short)
    assert scores["F-LD"] == 0 and "0.12 s longer: its last 3 of 10 frames are left out" in to_text(result)
    faster = write(tmp_path / "faster.mkv", talking(num_frames=21, fps=50), fps=50)
    scores, result = scores_of(faster, true_video)  # its last frame lies beside the last true one
    assert "longer:" not in to_text(result) and result.clips[0].num_frames == 10


def test_another_size_is_resized_and_said_another_shape_refused(tmp_path, true_video):
    large = write(tmp_path / "large.mkv", np.repeat(np.repeat(talking(), 2, axis=1), 2, axis=2))
    scores, result = scores_of(large, true_video)
    assert scores["PSNR"] == math.inf  # doubling and averaging are inverse
    assert "resized from 320x256 to 160x128" in to_text(result)
    square = write(tmp_path / "square.mkv", talking()[:, :, :128])
    with pytest.raises(InputError, match="square.mkv is 128x128, but .*160x128: not the same framing"):
        scores_of(square, true_video)


def test_frames_without_a_face_have_no_part_in_face_columns(true_video, tmp_path):
    frames = talking()
    frames[4] = 0
    present = np.arange(50) != 4
    instruments = replace(INSTRUMENTS, track=lambda path: track_of(path, present))
    scores, result = scores_of(write(tmp_path / "hole.mkv", frames), true_video, instruments)
    assert scores["PSNR"] == math.inf and scores["F-LD"] == 0 and scores["Jitter"] == 0
    assert "no face in 1 of 10 true frames" in to_text(result)
    instruments = replace(INSTRUMENTS, track=lambda path: track_of(path, np.zeros(50, bool)))
    with pytest.raises(InputError, match="clip.mkv: no face found. Try --crop full"):
        scores_of(true_video, true_video, instruments)


def test_lse_hears_the_sound_where_the_picture_has_it(true_video, tmp_path, monkeypatch):
    """The sound of the prediction begins 0.16 s after its picture: SyncNet gets that silence first."""
    heard = []
    monkeypatch.setattr("hdtalk.evaluate.lse", lambda faces, mfcc, *rest: heard.append((mfcc, rest[0])) or (8.0, 1.0))
    wave, rate = tone(0.24)
    prompt = write_wav(tmp_path / "prompt.wav", wave, rate)
    late = write_wav(tmp_path / "late.wav", np.pad(wave, ((0, 0), (2560, 0))), rate)
    for name, sound in (("prompt", prompt), ("late", late)):
        write(tmp_path / f"{name}.mkv", talking(), soundtrack=Soundtrack(sound))
    with av.open(str(tmp_path / "prompt.mkv")) as given, av.open(str(tmp_path / "moved.mkv"), "w") as moved:
        streams = [moved.add_stream_from_template(stream) for stream in given.streams]
        for packet in given.demux():
            if packet.size:
                packet.pts += 160 * (packet.stream.type == "audio")  # Matroska's times are milliseconds
                packet.dts, packet.stream = packet.pts, streams[packet.stream.index]
                moved.mux(packet)
    for name in ("late", "moved"):
        scores_of(tmp_path / f"{name}.mkv", true_video, replace(INSTRUMENTS, syncnet=object()))
    (_, expected_samples), (got, num_samples) = heard
    assert num_samples == pytest.approx(expected_samples, abs=32) and num_samples > 0.39 * 16000
    assert got[:14, 0].max() < 0 < got[18:, 0].max()  # log energy: digital silence, then the tone


def test_without_networks_the_pixel_columns_remain_and_the_rest_is_explained(true_video):
    scores, result = scores_of(true_video, true_video, PIXELS_ONLY, crop="full")
    assert set(scores) == {"PSNR", "SSIM"}
    assert "F-LD: not measured. Nothing is installed." in to_text(result)
    with pytest.raises(WeightsError, match="Nothing is installed. Try --crop full"):
        scores_of(true_video, true_video, PIXELS_ONLY, crop="face")


def test_face_box_is_a_square_of_the_stated_size():
    box = face_boxes(face_landmarks()[None], 1.3)[0]
    np.testing.assert_allclose(box, FACE_CENTRE + 26 * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]), atol=1e-5)


# ------------------------------------------------------------------------------------------- several methods


@pytest.fixture(scope="module")
def comparison(true_video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    mild, strong = write(folder / "mild.mkv", talking(noise=2)), write(folder / "strong.mkv", talking(noise=9))
    pairs = {"mild": [Pair("a", mild, true_video), Pair("b", true_video, true_video)]}
    pairs["str|ong"] = [Pair("a", strong, true_video)]
    return evaluate(pairs, INSTRUMENTS)


def test_methods_stand_side_by_side_and_the_better_one_is_marked(comparison):
    assert comparison.scores["mild"]["SSIM"] > comparison.scores["str|ong"]["SSIM"]
    assert comparison.best("SSIM") == comparison.scores["mild"]["SSIM"]
    assert comparison.best("LPIPS-demo") == comparison.scores["mild"]["LPIPS-demo"]
    header, mild, strong = to_text(comparison).splitlines()[:3]
    assert "PSNR↑" in header and "LPIPS-demo↓" in header
    assert mild.count("*") >= 5 and "*" not in strong
    assert "str|ong lacks b" in to_text(comparison)


def test_a_stand_in_is_named_and_defined_as_one(comparison):
    assert "LPIPS" not in comparison.columns and "LPIPS-demo" in comparison.columns
    assert comparison.definitions["FID-demo"].startswith("Not the FID of the literature")
    assert comparison.missing["LSE-C"] == "SyncNet is not installed."


def test_a_clips_mean_is_the_mean_over_clips(comparison):
    values = [clip.values["SSIM"] for clip in comparison.clips if clip.method == "mild"]
    assert values[1] == 1 and comparison.scores["mild"]["SSIM"] == pytest.approx(np.mean(values))


def test_clips_that_psnr_leaves_out_are_counted_in_a_note(comparison, true_video):
    note = "mild: 1 of 2 clips equal the ground truth in every frame (b); PSNR leaves them out"
    assert comparison.notes.count(note) == 1
    assert not any("str|ong:" in note for note in comparison.notes)
    alike = evaluate({"same": [Pair(clip, true_video, true_video) for clip in "ab"]}, PIXELS_ONLY, FULL)
    assert alike.scores["same"]["PSNR"] == math.inf and "leaves them out" not in to_text(alike)


def test_json_csv_and_markdown_hold_the_same_numbers(comparison):
    content = json.loads(to_json(comparison))
    assert content["scores"] == comparison.scores
    assert content["clips"][1]["PSNR"] == "inf" and "Infinity" not in to_json(comparison)
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    totals = {row["method"]: row for row in rows if row["clip"] == "*"}
    assert float(totals["mild"]["PSNR"]) == comparison.scores["mild"]["PSNR"]
    assert [row["clip"] for row in rows] == ["a", "b", "a", "*", "*"]
    assert rows[0]["FID-demo"] == "" and rows[1]["PSNR"] == "inf"
    lines = to_markdown(comparison).splitlines()
    assert lines[0].count("|") == lines[2].count("|") == len(comparison.columns) + 2
    assert f"**{comparison.scores['mild']['SSIM']:.4f}**" in lines[2] and lines[3].startswith("| str\\|ong |")


# --------------------------------------------------------------------------------------------- finding pairs


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_folders_are_paired_by_name_below_them(tmp_path, caplog):
    for name in ("ours/M003/front/001.mp4", "ours/M003/front/002.mov", "ours/notes.txt", "true/M003/front/001.mkv"):
        touch(tmp_path / name)
    pairs = find_pairs(tmp_path / "ours", tmp_path / "true")
    assert [(pair.clip, pair.ground_truth.suffix) for pair in pairs] == [("M003/front/001", ".mkv")]
    assert "M003/front/002" in caplog.text


def test_folders_that_do_not_fit_are_refused(tmp_path):
    touch(tmp_path / "ours" / "a.mp4")
    touch(tmp_path / "true" / "b.mp4")
    with pytest.raises(InputError, match="a against b"):
        find_pairs(tmp_path / "ours", tmp_path / "true")
    with pytest.raises(UsageError, match="not one of each"):
        find_pairs(tmp_path / "ours" / "a.mp4", tmp_path / "true")
    with pytest.raises(InputError, match="no such file or folder"):
        find_pairs(tmp_path / "nothing", tmp_path / "true")
    touch(tmp_path / "ours" / "a.mov")
    with pytest.raises(InputError, match="keep one of each name"):
        find_pairs(tmp_path / "ours", tmp_path / "true")


def test_a_csv_of_pairs_with_methods(tmp_path):
    for name in ("x.mp4", "y.mp4", "t.mp4"):
        touch(tmp_path / name)
    table = tmp_path / "pairs.csv"
    table.write_text("﻿Method,prediction,ground_truth\nA,x.mp4,t.mp4\nB,y.mp4,t.mp4\n\n", encoding="utf-8")
    methods = read_pairs(table)
    assert {name: [pair.prediction.name for pair in pairs] for name, pairs in methods.items()} == {
        "A": ["x.mp4"],
        "B": ["y.mp4"],
    }
    table.write_text("prediction,ground_truth\nx.mp4,gone.mp4\n")
    with pytest.raises(InputError, match="pairs.csv, line 2: there is no file .*gone.mp4"):
        read_pairs(table)
    table.write_text("prediction,ground_truth\nx.mp4,t.mp4\n\nx.mp4,\n")
    with pytest.raises(InputError, match="pairs.csv, line 4: the cell ground_truth is empty"):
        read_pairs(table)
    table.write_text("x.mp4,t.mp4\n")
    with pytest.raises(InputError, match="must name the columns"):
        read_pairs(table)
    table.write_text("prediction,ground_truth\n")
    with pytest.raises(InputError, match="holds no pairs"):
        read_pairs(table)


def clips_of(methods):
    return {name: [pair.clip for pair in pairs] for name, pairs in methods.items()}


def test_a_clip_is_named_by_as_much_of_its_truths_path_as_tells_it_apart(tmp_path):
    for name in ("p.mp4", "happy/001.mp4", "sad/001.mp4", "sad/001.mov", "sad/002.mp4"):
        touch(tmp_path / name)
    table = tmp_path / "pairs.csv"
    table.write_text(
        "method,prediction,ground_truth\nA,p.mp4,happy/001.mp4\nB,p.mp4,sad/001.mp4\nB,p.mp4,sad/002.mp4\n"
    )
    assert clips_of(read_pairs(table)) == {"A": ["happy/001"], "B": ["sad/001", "002"]}
    other = tmp_path / "sad" / "other.csv"  # the same truth under another path, and one beside it
    other.write_text("prediction,ground_truth\n../p.mp4,../happy/001.mp4\n../p.mp4,001.mov\n")
    named = clips_of(pairs_of_methods([table, other]))
    assert named == {"A": ["happy/001"], "B": ["sad/001.mp4", "002"], "other": ["happy/001", "sad/001.mov"]}


def test_clips_of_one_name_in_one_method_are_numbered(tmp_path):
    for name in ("p.mp4", "q.mp4", "t.mp4", "u.mp4"):
        touch(tmp_path / name)
    table = tmp_path / "pairs.csv"
    table.write_text("prediction,ground_truth,clip\np.mp4,t.mp4,\nq.mp4,t.mp4,\np.mp4,u.mp4,mine\nq.mp4,u.mp4,mine\n")
    assert clips_of(read_pairs(table)) == {"pairs": ["t", "t (2)", "mine", "mine (2)"]}


def test_a_csv_that_names_its_methods_leaves_none_to_name(tmp_path):
    touch(tmp_path / "x.mp4")
    table = tmp_path / "pairs.csv"
    table.write_text("prediction,ground_truth\nx.mp4,x.mp4\n")
    assert list(pairs_of_methods([table], ["Foo"])) == ["Foo"]
    table.write_text("method,prediction,ground_truth\nA,x.mp4,x.mp4\n")
    with pytest.raises(UsageError, match="pairs.csv: names the methods itself"):
        pairs_of_methods([table], ["Foo"])


def test_methods_take_the_names_given_or_their_own(tmp_path):
    for name in ("one/a.mp4", "two/a.mp4", "true/a.mp4"):
        touch(tmp_path / name)
    paths = [tmp_path / "one", tmp_path / "two", tmp_path / "true"]
    assert list(pairs_of_methods(paths)) == ["one", "two"]
    assert list(pairs_of_methods(paths, ["HDTalk", "Wav2Lip"])) == ["HDTalk", "Wav2Lip"]
    for folder in ("one", "two"):
        (tmp_path / folder).rename(tmp_path / f"run.{folder}")
    paths[:2] = tmp_path / "run.one", tmp_path / "run.two"
    assert list(pairs_of_methods(paths)) == ["run.one", "run.two"]
    with pytest.raises(UsageError, match="given 1 times for 2 predictions"):
        pairs_of_methods(paths, ["HDTalk"])
    with pytest.raises(UsageError, match="two methods are called run.one"):
        pairs_of_methods([paths[0], paths[0], paths[2]])
    with pytest.raises(UsageError, match="what shall it be compared with"):
        pairs_of_methods(paths[:1])
    with pytest.raises(UsageError, match="not both"):
        pairs_of_methods([*paths, "pairs.csv"])


# ------------------------------------------------------------------------------------------ the command line


def test_command_prints_the_table_and_writes_three_files(true_video, tmp_path):
    noisy = write(tmp_path / "noisy.mkv", talking(noise=5))
    files = [tmp_path / name for name in ("s.json", "s.csv", "s.md")]
    options = [
        part for option, file in zip(("--json", "--csv", "--markdown"), files, strict=True) for part in (option, file)
    ]
    arguments = ["evaluate", noisy, true_video, "--crop", "full", "--method", "Noise", "--device", "cpu", *options]
    result = CliRunner().invoke(hdtalk, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "Noise" in result.output and "PSNR↑" in result.output and "10 log10(255^2 / MSE)" in result.output
    scores = json.loads(files[0].read_text())["scores"]["Noise"]
    assert 30 < scores["PSNR"] < 37
    assert f"{scores['PSNR']:.2f}" in result.output and f"{scores['PSNR']:.2f}" in files[2].read_text()
    assert files[1].read_text().splitlines()[1].startswith("Noise,clip,10,")


def test_a_clip_that_cannot_be_scored_costs_no_other_its_scores(true_video, tmp_path):
    """The faces of two clips; the true video of another shows none."""
    faceless = write(tmp_path / "faceless.mkv", talking())
    tracks = {true_video: np.ones(50, bool), faceless: np.zeros(50, bool)}
    instruments = replace(INSTRUMENTS, track=lambda path: track_of(path, tracks[path]))
    noisy = write(tmp_path / "noisy.mkv", talking(noise=4))
    pairs = [Pair("none", noisy, faceless), Pair("some", noisy, true_video)]
    result = evaluate({"both": pairs, "none": pairs[:1], "some": pairs[1:]}, instruments)
    assert [clip.clip for clip in result.clips] == ["some", "some"] and set(result.scores) == {"both", "some"}
    assert result.scores["both"] == result.scores["some"]  # FID too: nothing of the other clip was counted
    assert [failure.partition(":")[0] for failure in result.failures] == ["both, none", "none, none"]
    assert "left out: none, none: " in to_text(result) and "faceless.mkv: no face found" in to_text(result)


def ruin(path):
    """Zeroes the pictures from the 13th on; what the container says of them stays."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in packets[12:]:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)


def write_seekable(path):
    return write_clip(path, talking(noise=3, num_frames=40), gop=4, container_options={"movflags": "faststart"})


def test_a_ruined_video_is_named_after_the_others_were_scored(tmp_path):
    for name in ("a", "b"):
        write_seekable(tmp_path / f"{name}.mp4")
    ruin(tmp_path / "a.mp4")
    truth = write(tmp_path / "truth.mkv", talking(num_frames=40))
    (tmp_path / "pairs.csv").write_text(f"prediction,ground_truth\na.mp4,{truth}\nb.mp4,{truth}\n")
    arguments = ["evaluate", tmp_path / "pairs.csv", "--crop", "full", "--device", "cpu", "--json", tmp_path / "s.json"]
    result = CliRunner().invoke(hdtalk, [str(argument) for argument in arguments])
    assert result.exit_code == 3 and "1 of 2 clips could not be scored" in result.stderr, result.output
    content = json.loads((tmp_path / "s.json").read_text())
    assert [clip["clip"] for clip in content["clips"]] == ["truth (2)"]
    assert "a.mp4: damaged" in content["failures"][0]


def test_a_ruined_truth_is_not_said_to_show_no_face(tmp_path, tiny_bundle_folder):
    ruined, whole = (write_seekable(tmp_path / name) for name in ("ruined.mp4", "whole.mp4"))
    ruin(ruined)
    networks = load_bundle(tiny_bundle_folder)
    instruments = replace(INSTRUMENTS, track=face_tracker(networks))
    prediction = write(tmp_path / "prediction.mkv", talking(num_frames=40))
    pairs = [Pair("first", prediction, ruined), Pair("second", prediction, whole)]
    with pytest.raises(InputError, match=r"ruined\.mp4: damaged.* 1 more"):
        evaluate({"ours": pairs}, instruments, EvaluateConfig(crop="face"))


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["gone.mp4", "true.mp4"], 3, "gone.mp4: there is no such file or folder"),
        (["true.mp4"], 2, "what shall it be compared with"),
        (["true.mp4", "true.mp4", "--json", "nowhere/s.json"], 2, "nowhere does not exist"),
        (["true.mp4", "true.mp4"], 3, "true.mp4: is not a video"),
        (["true.mp4", "true.mp4", "--bundle", "nowhere"], 4, "nowhere: no bundle there"),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(tmp_path, monkeypatch, arguments, code, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "true.mp4").write_bytes(b"not a video")
    result = CliRunner().invoke(hdtalk, ["evaluate", *arguments, "--crop", "full", "--device", "cpu"])
    assert result.exit_code == code, result.output
    assert line in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with a video under two names, another as a link, and a CSV of pairs."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.mkv", talking(num_frames=2))
    (tmp_path / "b.mkv").write_bytes((tmp_path / "a.mkv").read_bytes())
    (tmp_path / "link.mkv").symlink_to("b.mkv")
    (tmp_path / "pairs.csv").write_text("prediction,ground_truth\na.mkv,b.mkv\n")
    (tmp_path / "old.md").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.mkv", "b.mkv", "--csv", "b.mkv"], "b.mkv: the output would overwrite an input"),
        (["a.mkv", "b.mkv", "--markdown", "./a.mkv"], "a.mkv: the output would overwrite an input"),
        (["a.mkv", "b.mkv", "--json", "link.mkv"], "link.mkv: the output would overwrite an input"),
        (["pairs.csv", "--csv", "pairs.csv"], "pairs.csv: the output would overwrite an input"),
        (["pairs.csv", "--csv", "b.mkv"], "b.mkv: the output would overwrite an input"),
        (["a.mkv", "b.mkv", "--json", "x", "--csv", "./x"], "x: two outputs have this name"),
        (["a.mkv", "b.mkv", "--json", "new.json", "--csv", "nowhere/x.csv"], "nowhere does not exist"),
    ],
)
def test_outputs_never_replace_inputs_or_each_other(inputs, monkeypatch, arguments, line, overwrite):
    monkeypatch.setattr("hdtalk.instruments.installed_instruments", lambda *_: pytest.fail("the work has begun"))
    before = {path.name: path.read_bytes() for path in inputs.iterdir()}
    result = CliRunner().invoke(hdtalk, ["evaluate", *arguments, *overwrite, "--device", "cpu"])
    assert result.exit_code == 2, result.output
    assert line in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in inputs.iterdir()} == before


def test_an_output_that_is_there_is_replaced_only_when_asked(inputs, monkeypatch):
    monkeypatch.setattr("hdtalk.instruments.installed_instruments", lambda *_: PIXELS_ONLY)
    arguments = ["evaluate", "a.mkv", "b.mkv", "--crop", "full", "--device", "cpu", "--markdown", "old.md"]
    result = CliRunner().invoke(hdtalk, arguments)
    assert result.exit_code == 2 and "old.md exists already" in result.stderr and "--overwrite" in result.stderr
    assert (inputs / "old.md").read_text() == "mine"
    result = CliRunner().invoke(hdtalk, [*arguments, "--overwrite", "--json", "new.json"])
    assert result.exit_code == 0, result.output
    assert (inputs / "old.md").read_text().startswith("| method |")
    content = json.loads((inputs / "new.json").read_text(), parse_constant=pytest.fail)
    assert content["scores"]["a"]["PSNR"] == "inf"


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(inputs, monkeypatch):
    def read_only(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("hdtalk.outputs.tempfile.TemporaryFile", read_only)
    result = CliRunner().invoke(hdtalk, ["evaluate", "a.mkv", "b.mkv", "--json", "new.json"])
    assert result.exit_code == 2 and "not writable (Read-only file system)" in result.stderr


def test_stopping_promises_to_go_on_only_where_a_job_stays(inputs, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hdtalk.pairs.pairs_of_methods", stop)
    monkeypatch.setattr("hdtalk.pipeline.edit_video", stop)
    result = CliRunner().invoke(hdtalk, ["evaluate", "a.mkv", "b.mkv"])
    assert (result.exit_code, result.stderr) == (130, "hdtalk: stopped\n")
    result = CliRunner().invoke(hdtalk, ["edit", "a.mkv", "b.mkv"])
    assert result.exit_code == 130 and "run the same command again" in result.stderr
