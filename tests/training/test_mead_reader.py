"""MEAD's layout with its irregularities, the landmark cache, dynamic time warping, and the warps of landmarks."""

import json

import numpy as np
import pytest

from hdtalk.errors import InputError
from hdtalk.face_units import lip_gap
from hdtalk.training.dtw import dtw_path, warp_rows, warp_rows_of
from hdtalk.training.landmark_warp import warp_expression
from hdtalk.training.mead import cache_landmarks, official_test, read_landmarks, read_mead


def put(root, path, content=b"x"):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def mead(tmp_path):
    for number in ("001", "002"):
        put(tmp_path, f"M003/audio/neutral/level_1/{number}.m4a")
        put(tmp_path, f"M003/video/front/neutral/level_1/{number}.mp4")
        put(tmp_path, f"M003/video/left_30/neutral/level_1/{number}.mp4")
    put(tmp_path, "M003/audio/happy/level_3/007.m4a")
    put(tmp_path, "M003/video/front/happy/level_3/007.mp4")
    put(tmp_path, "M003/video/front/happy/level_3/._007.mp4")  # stray files
    put(tmp_path, "M003/video/.DS_Store")
    put(tmp_path, "M003/audio/happy/level_3/008.m4a", b"")  # empty
    put(tmp_path, "M003/video/front/happy/level_3/009.mp4")  # no sound
    put(tmp_path, "M042/audio/angry/level_1/020.m4a")  # parts beside each other
    put(tmp_path, "M042/video_1/front/angry/level_1/020.mp4")
    put(tmp_path, "M042/video_2/top/angry/level_1/020.mp4")
    put(tmp_path, "W021/audio/disgusted/level_2/031.m4a")  # parts inside
    put(tmp_path, "W021/video/1/front/disgusted/level_2/031.mp4")
    put(tmp_path, "W021/video/2/down/disgusted/level_2/031.mp4")
    put(tmp_path, "W017/audio/sad/level_1/001.m4a")  # one view only
    put(tmp_path, "W017/video/down/sad/level_1/001.mp4")
    return tmp_path


def test_irregular_actors_are_read(mead):
    clips = {clip.name: clip for clip in read_mead(mead)}
    assert sorted(clips) == [
        "M003/happy/level_3/007",
        "M003/neutral/level_1/001",
        "M003/neutral/level_1/002",
        "M042/angry/level_1/020",
        "W017/sad/level_1/001",
        "W021/disgusted/level_2/031",
    ]
    assert set(clips["M003/neutral/level_1/001"].videos) == {"front", "left_30"}
    assert set(clips["M042/angry/level_1/020"].videos) == {"front", "top"}
    assert set(clips["W021/disgusted/level_2/031"].videos) == {"front", "down"}
    assert set(clips["W017/sad/level_1/001"].videos) == {"down"}


def test_left_out_clips_are_named(mead, caplog):
    read_mead(mead)
    assert "008.m4a" in caplog.text
    assert "M003/happy/level_3/009" in caplog.text


def test_no_clip_is_an_error(tmp_path):
    with pytest.raises(InputError, match="MEAD's layout"):
        read_mead(tmp_path)


def test_landmarks_are_detected_once(mead, tmp_path):
    seen = []

    def detect(path):
        seen.append(path)
        if "left_30" in str(path):
            raise InputError("no face")
        return np.full((4, 68, 2), 7.0), 30.0

    cache = tmp_path / "cache"
    assert cache_landmarks(read_mead(mead), cache, detect) == 2
    again = read_mead(mead, cache)
    cached = next(clip for clip in again if clip.name == "M042/angry/level_1/020")
    landmarks, fps = read_landmarks(cached.landmarks["top"])
    assert (landmarks.shape, fps, landmarks[0, 0, 0]) == ((4, 68, 2), 30.0, 7.0)
    count = len(seen)
    cache_landmarks(again, cache, detect)
    assert len(seen) == count + 2  # only those without a face are tried again


def test_landmarks_that_come_with_the_corpus_stay_beside_detected_ones(mead, tmp_path):
    put(mead, "M003/landmarks/front/neutral/level_1/001.npz")
    cache = tmp_path / "cache"
    asked = []
    detect = lambda path: asked.append(path) or (np.zeros((4, 68, 2)), 30.0)  # noqa: E731
    assert cache_landmarks(read_mead(mead, cache), cache, detect) == 0
    clip = next(clip for clip in read_mead(mead, cache) if clip.name == "M003/neutral/level_1/001")
    assert clip.landmarks["front"].is_relative_to(mead / "M003") and clip.landmarks["left_30"].is_relative_to(cache)
    assert not any("front/neutral/level_1/001" in str(path) for path in asked)


def test_same_words_come_from_the_table(mead):
    table = {"M003": {"neutral/level_1/002": "she had", "happy/level_3/007": "she had"}}
    (mead / "sentences.json").write_text(json.dumps(table))
    said = {clip.name: clip.sentence for clip in read_mead(mead)}
    assert {name for name, sentence in said.items() if sentence == "she had"} == {
        "M003/happy/level_3/007",
        "M003/neutral/level_1/002",
    }
    assert said["M003/neutral/level_1/001"] is None


def test_official_test_clips(tmp_path):
    for number in range(1, 13):
        put(tmp_path, f"M003/audio/neutral/level_1/{number:03d}.m4a")
        put(tmp_path, f"M003/audio/sad/level_2/{number:03d}.m4a")
    test = official_test(read_mead(tmp_path))
    assert sorted(name for name in test if "neutral" in name)[0] == "M003/neutral/level_1/003"
    assert sorted(name for name in test if "sad" in name)[0] == "M003/sad/level_2/007"


def test_dtw_of_equal_sequences_is_the_diagonal():
    values = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_array_equal(dtw_path(values, values), np.repeat(np.arange(9)[:, None], 2, 1))


def test_dtw_finds_a_known_stretch():
    values = np.arange(6.0)[:, None]
    stretched = np.repeat(values, [1, 3, 1, 2, 1, 2], 0)
    path = dtw_path(values, stretched)
    np.testing.assert_array_equal(values[path[:, 0]], stretched[path[:, 1]])
    np.testing.assert_array_equal(warp_rows(values, stretched), [0, 2, 4, 5, 7, 8])


def test_dtw_cost_equals_the_textbook_recursion():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(7, 2)), rng.normal(size=(11, 2))
    total = np.full((8, 12), np.inf)
    total[0, 0] = 0
    for i in range(7):
        for j in range(11):
            best = min(total[i, j], total[i, j + 1], total[i + 1, j])
            total[i + 1, j + 1] = np.abs(first[i] - second[j]).sum() + best
    path = dtw_path(first, second)
    assert np.abs(first[path[:, 0]] - second[path[:, 1]]).sum() == pytest.approx(total[7, 11])
    assert (np.diff(path, axis=0).max(1) == 1).all()
    assert tuple(path[0]) == (0, 0)
    assert tuple(path[-1]) == (6, 10)


def test_warps_hide_the_expression_and_keep_the_pose():
    rng = np.random.default_rng(2)
    local = np.repeat(rng.normal(0, 0.3, (1, 68, 2)), 400, 0).astype(np.float32)
    local[:, [61, 62, 63], 1], local[:, [67, 66, 65], 1] = 0.8, np.linspace(0.8, 1.2, 400)[:, None]
    warped = warp_expression(local, rng)
    fixed = [*range(27, 36), 36, 39, 42, 45, 0, 16]
    np.testing.assert_array_equal(warped[:, fixed], local[:, fixed])
    assert abs(np.corrcoef(lip_gap(local), lip_gap(warped))[0, 1]) < 0.6
    assert np.abs(warped - local)[:, 48:].mean() > 0.03


def test_many_pairs_are_warped_as_one_by_one():
    rng = np.random.default_rng(5)
    pairs = [tuple(rng.normal(size=(rng.integers(1, 30), 4)).astype(np.float32) for _ in "ab") for _ in range(300)]
    for pair, warp in zip(pairs, warp_rows_of(pairs), strict=True):
        np.testing.assert_array_equal(warp, warp_rows(*pair))
