"""The tables' scripts on a made-up test set: baselines against their definition, listings, and a whole small table."""

import json
import runpy
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from clips import tone, write_clip, write_wav

from hdtalk.audio import read_audio
from hdtalk.errors import InputError, UsageError
from hdtalk.job import array_hash
from hdtalk.media import probe, read_frames
from hdtalk.options import resolve

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from scripts.tables.baselines import paste_mouth, similarity, write_mouth_paste, write_unedited  # noqa: E402
from scripts.tables.runner import Bench, options_of_row, ours, run_table, unedited  # noqa: E402
from scripts.tables.testset import Item, is_filmed, read_items, write_listing, write_take  # noqa: E402


def test_similarity_recovers_turn_scale_and_shift():
    points = np.random.default_rng(0).normal(size=(9, 2))
    turn = 1.3 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    np.testing.assert_allclose(
        similarity(points, points @ turn.T + [5, -2]), np.column_stack([turn, [5, -2]]), atol=1e-12
    )


def test_pasting_a_frames_own_mouth_changes_nothing_and_another_only_the_mouth(tiny_shot):
    video, track, _ = tiny_shot
    frames = list(read_frames(video))
    np.testing.assert_array_equal(paste_mouth(frames[1], track[1], frames[1], track[1]), frames[1])
    pasted = paste_mouth(frames[1], track[1], frames[5], track[5])
    np.testing.assert_array_equal(pasted[:12], frames[1][:12])  # far above the mouth
    x, y = track[1, 62:67].mean(axis=0).round().astype(int)
    assert np.abs(pasted.astype(int) - frames[1])[y - 3 : y + 4, x - 5 : x + 6].max() > 20


def test_mouth_paste_takes_the_source_mouth_nearest_to_the_target(tiny_shot, tmp_path):
    """Asked for the source's own landmarks in order, every frame keeps its own mouth."""
    video, track, speech = tiny_shot
    write_unedited(video, speech, tmp_path / "unedited.mp4")
    write_mouth_paste(video, speech, tmp_path / "own.mp4", track, track)
    write_mouth_paste(video, speech, tmp_path / "other.mp4", track, track[::-1].copy())
    plain, own, other = (
        np.stack(list(read_frames(tmp_path / f"{name}.mp4"))).astype(int) for name in ("unedited", "own", "other")
    )
    np.testing.assert_array_equal(own, plain)
    assert np.abs(other - plain).max() > 20
    assert probe(tmp_path / "own.mp4").has_audio


def test_baselines_hold_few_frames_however_long_the_shot(tiny_shot, tmp_path):
    _, track, speech = tiny_shot
    frames = np.zeros((80, 240, 320, 3), np.uint8)
    source = write_clip(tmp_path / "long.mp4", frames, Fraction(25), pixel_format="yuv420p")
    track = np.concatenate([track] * 8)
    write_unedited(source, speech, tmp_path / "warm.mp4")  # what is read once is not counted
    for write in (write_unedited, lambda *paths: write_mouth_paste(*paths, track, track[::-1])):
        tracemalloc.start()
        write(source, speech, tmp_path / "made.mp4")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(frames) / 2 * frames[0].nbytes


def test_listings_survive_and_damage_is_named(tiny_shot, tmp_path):
    for name in ("s.mp4", "t.wav", "u.mp4", "a.npz"):
        (tmp_path / name).write_bytes(b"x")
    item = Item("one", tmp_path / "s.mp4", tmp_path / "t.wav", tmp_path / "u.mp4", "happy:0.5", tmp_path / "a.npz")
    write_listing(tmp_path, [item, item], "a test")
    assert read_items(tmp_path) == [item, item] and read_items(tmp_path, 1) == [item]
    other = replace(item, clip="T001_sad")
    write_listing(tmp_path, [item, other, item], "tiny")
    assert read_items(tmp_path, patterns=["T00[15]_*"]) == [other]
    assert read_items(tmp_path, 2, [item.clip, "T00[15]_*"]) == [item, other]
    with pytest.raises(UsageError, match=r"--clips \*happy: no clip of .* for example " + item.clip):
        read_items(tmp_path, patterns=["T001_sad", "*happy"])
    assert (
        "a.npz" in (tmp_path / "testset.json").read_text()
        and str(tmp_path) not in (tmp_path / "testset.json").read_text()
    )
    (tmp_path / "u.mp4").unlink()
    with pytest.raises(InputError, match="u.mp4 is missing"):
        read_items(tmp_path)
    (tmp_path / "testset.json").write_text('{"items": [{"clip": 3}]}')
    with pytest.raises(InputError, match="testset.json: damaged"):
        read_items(tmp_path)


def test_takes_are_kept_only_where_the_arguments_are_the_same(tmp_path):
    points = tmp_path / "set/T000/landmarks/front/happy/level_2/002.npz"
    facts = {"seed": 0, "size": 360, "level": 2, "duration_s": 3.44, "fps": 25}
    assert not is_filmed(points, facts)
    points.parent.mkdir(parents=True)
    points.with_suffix(".part.npz").write_bytes(b"broken off")
    assert not is_filmed(points, facts)
    write_take(points, np.zeros((2, 68, 2), np.float32), 25.0, facts)
    assert is_filmed(points, facts) and [path.name for path in points.parent.iterdir()] == ["002.npz"]
    for name, value in {"seed": 1, "size": 512, "level": 3, "duration_s": 3.48, "fps": 30}.items():
        with pytest.raises(UsageError, match=rf"/set: T000.*002.npz .*\({name} .*, not {value}\).*another --out"):
            is_filmed(points, facts | {name: value})
    np.savez(points, landmarks_px=np.zeros((2, 68, 2)), fps=25.0)
    with pytest.raises(UsageError, match="seed unknown, not 0"):
        is_filmed(points, facts)


def test_mead_takes_are_edited_out_of_the_actors_first_neutral_one(tmp_path):
    for take in [*(f"neutral/level_1/{n:03d}" for n in range(1, 13)), *(f"sad/level_2/{n:03d}" for n in range(1, 8))]:
        for path in (f"M003/video/front/{take}.mp4", f"M003/audio/{take}.m4a"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"x")
    items = read_items(tmp_path)
    assert len(items) == 10 + 6 and {item.source.name for item in items} == {"001.mp4"}
    sad = next(item for item in items if "sad" in item.clip)
    assert sad.emotion == "sad:0.78" and sad.truth.parts[-3:] == ("sad", "level_2", "002.mp4")


def test_mead_takes_without_a_front_view_do_not_move_the_test_set(tmp_path):
    """What training holds out is told by all takes; of these, those that can be scored are."""
    for number in range(1, 31):
        view = "front" if number < 29 else "left_30"
        for path in (f"audio/neutral/level_1/{number:03d}.m4a", f"video/{view}/neutral/level_1/{number:03d}.mp4"):
            path = tmp_path / "M003" / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    assert {item.truth.stem for item in read_items(tmp_path)} == {f"{number:03d}" for number in range(21, 29)}


def test_hdtf_clips_say_their_own_words(tmp_path):
    (tmp_path / "RD").mkdir()
    (tmp_path / "RD" / "A_0.mp4").write_bytes(b"x")
    rows = [{"clip": "A_0", "path": "RD/A_0.mp4"}, {"clip": "A_1", "path": "", "reason": "gone"}]
    (tmp_path / "hdtf.json").write_text(json.dumps(rows))
    (item,) = read_items(tmp_path)
    assert item.source == item.speech == item.truth == tmp_path / "RD" / "A_0.mp4"


@pytest.fixture
def small_set(tiny_shot, tmp_path):
    """One item: the tiny shot shall move its mouth as its reversed track does; the truth is the shot reversed."""
    video, track, speech = tiny_shot
    data = tmp_path / "set"
    data.mkdir()
    frames = np.stack(list(read_frames(video)))
    for name, pictures, points in (("source", frames, track), ("truth", frames[::-1], track[::-1])):
        write_clip(data / f"{name}.mp4", pictures, Fraction(25), pixel_format="yuv420p")
        np.savez(data / f"{name}.npz", landmarks_px=points, fps=25.0)
    write_wav(data / "speech.wav", *tone(0.4))
    paths = (data / name for name in ("source.mp4", "speech.wav", "truth.mp4"))
    item = Item("one", *paths, None, data / "source.npz", data / "truth.npz")
    write_listing(data, [item], "tiny")
    return data


def test_a_whole_table_scores_every_method_and_keeps_what_is_made(small_set, tiny_bundle_folder, tmp_path):
    items = read_items(small_set)
    small = (("invert", {"steps": 2, "refine_steps": 1}), ("optimise", {"steps": 1, "anchors": 0}))
    bench = Bench(tmp_path / "out", str(tiny_bundle_folder), "cpu", exact=True, options=(*small, ("stitch.steps", 1)))
    methods = {"unedited": unedited, "ours": ours(**{"optimise.smoothness": "none"})}
    result = run_table(methods, items, bench, {"other's": small_set}, crop="full")
    assert list(result.scores) == ["unedited", "ours"]  # the other method has no clip of that name
    assert all(np.isfinite(row["PSNR"]) for row in result.scores.values())
    made = tmp_path / "out" / "ours" / "one.mp4"
    stamp = made.stat().st_mtime_ns
    (small_set / "one.mp4").write_bytes((small_set / "truth.mp4").read_bytes())
    again = run_table(methods, items, bench, {"other's": small_set}, crop="full")
    assert made.stat().st_mtime_ns == stamp
    assert again.scores["other's"]["PSNR"] == np.inf and again.scores["ours"] == result.scores["ours"]


def test_settings_of_the_user_leave_a_row_what_it_is_named_after(tmp_path):
    bench = Bench(tmp_path, options=(("invert.steps", 20), ("stitch.steps", 3), ("seed", 5)))
    bare = resolve(options_of_row({"invert.steps": 0, "invert.passes": 0}, bench))
    assert (bare.invert.steps, bare.stitch.steps, bare.seed) == (0, 3, 5)
    paper = resolve(options_of_row({"preset": "paper", "invert": {"passes": 0, "batch_size": 7}}, bench))
    assert (paper.preset, paper.invert.passes, paper.invert.batch_size, paper.invert.steps) == ("paper", 0, 7, 20)


def test_of_some_frames_the_papers_procedure_makes_only_these(small_set, tiny_bundle_folder, tmp_path):
    """They are edited to the whole clip's landmarks, and all methods are scored on the same frames."""
    items = read_items(small_set)
    options = {"invert": {"passes": 1}, "optimise": {"steps": 1}, "stitch": {"steps": 1}}
    bench = Bench(tmp_path / "out", str(tiny_bundle_folder), "cpu", exact=True, options=tuple(options.items()))
    span = replace(bench, frames=(2, 5))
    methods = {"unedited": unedited, "paper": ours(preset="paper")}
    frames = [np.stack(list(read_frames(path))) for path in (items[0].source, items[0].truth)]
    other = tmp_path / "other"
    other.mkdir()
    wrong_elsewhere = np.where(np.isin(np.arange(len(frames[1])), [2, 3, 4])[:, None, None, None], frames[1], 0)
    write_clip(other / "one.mp4", wrong_elsewhere, Fraction(25), pixel_format="yuv420p")
    table = run_table(methods, items, span, {"theirs": other}, crop="full")
    assert {clip.num_frames for clip in table.clips} == {3}
    assert table.scores["theirs"]["PSNR"] > 35 > table.scores["unedited"]["PSNR"]
    made = json.loads((tmp_path / "out" / "paper" / "one.json").read_text())
    assert probe(tmp_path / "out" / "paper" / "one.mp4").num_frames == 3
    with np.load(items[0].target) as file:
        assert made["inputs"]["landmarks"]["sha256"] == array_hash(file["landmarks_px"][2:5].astype(np.float32))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["jobs", "paper", "unedited"]
    with pytest.raises(UsageError, match=r"out/paper: .*\(frames; .*another --out"):
        run_table(methods, items, bench, {}, crop="full")
    far = replace(bench, out=tmp_path / "far", frames=(8, 11))
    with pytest.raises(InputError, match="source.mp4: 10 frames, and --frames ends at 11"):
        run_table(methods, items, far, {}, crop="full")
    assert not far.out.exists()
    sound = read_audio(tmp_path / "out" / "jobs" / "one_2_5.wav")
    np.testing.assert_allclose(sound, read_audio(items[0].speech)[1280:3200], atol=1e-6)


def test_videos_of_other_settings_are_not_scored(small_set, tiny_bundle_folder, tmp_path):
    items, made = read_items(small_set), []
    bench = Bench(tmp_path / "out", str(tiny_bundle_folder), "cpu")

    def run(bench, **options):
        return run_table({"ours": partial(method, **options)}, items, bench, {}, crop="full")

    def method(bench, item, output, options=None):
        made.append(bench)
        output.write_bytes(item.truth.read_bytes())

    assert run(bench).scores["ours"]["PSNR"] == np.inf
    run(bench)
    settings = tmp_path / "out" / "ours" / "settings.json"
    had = json.loads(settings.read_text())
    had["bundle"]["sha256"]["landmarker_eval"] = "another judge, on which no picture depends"
    settings.write_text(json.dumps(had))
    run(bench)
    assert made == [bench]
    other_bundle = shutil.copytree(tiny_bundle_folder, tmp_path / "other")
    listing = (other_bundle / "bundle.json").read_text()
    (other_bundle / "bundle.json").write_text(listing.replace('"sha256": "', '"sha256": "0'))
    changes = {"exact": True, "label": False, "bundle": str(other_bundle), "options": (("stitch.steps", 1),)}
    for name, value in changes.items():
        with pytest.raises(UsageError, match=rf"out/ours: .*\({name}; .*another --out"):
            run(replace(bench, **{name: value}))
    with pytest.raises(UsageError, match="method"):
        run(bench, options={"preset": "paper"})
    (tmp_path / "out" / "ours" / "settings.json").unlink()
    with pytest.raises(UsageError, match="out/ours"):
        run(bench)
    (tmp_path / "out" / "ours" / "one.mp4").unlink()
    run(replace(bench, exact=True))
    assert made == [bench, replace(bench, exact=True)]


def test_videos_of_another_test_set_are_not_scored(small_set, tiny_bundle_folder, tmp_path):
    """Test sets name their clips alike; more clips of the same set are welcome."""
    (item,) = read_items(small_set)
    bench = Bench(tmp_path / "out", str(tiny_bundle_folder), "cpu")

    def run(*items):
        return run_table({"unedited": unedited}, list(items), bench, {}, crop="full")

    run(item)
    more = replace(item, clip="two", speech=item.source.with_name("other.wav"))
    write_wav(more.speech, *tone(0.36))
    assert len(run(item, more).clips) == 2
    with pytest.raises(UsageError, match="out/unedited: one was made of other files"):
        run(replace(item, speech=more.speech))
    (bench.out / "unedited" / "one.mp4").unlink()
    run(replace(item, speech=more.speech), more)


def test_other_methods_videos_are_found_by_name_and_kind(small_set, tiny_bundle_folder, tmp_path):
    """Beside a manifest, and with a name that a glob would not take as it is."""
    (item,) = read_items(small_set)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("one [1].json", "one [1].txt", "one [1].x.mp4"):
        (other / name).write_text("{}")
    shutil.copy(item.truth, other / "one [1].mp4")
    bench = Bench(tmp_path / "out", str(tiny_bundle_folder), "cpu")
    items = [replace(item, clip="one [1]")]
    assert run_table({}, items, bench, {"theirs": other}, crop="full").scores["theirs"]["PSNR"] == np.inf
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        run_table({}, items, bench, {"theirs": tmp_path / "nowhere"})


def test_script_writes_method_column_value(small_set, tiny_bundle_folder, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "table1"), str(small_set), "--out", str(tmp_path / "out")]
    command += ["--only", "unedited", "--only", "mouth paste", "--exact", "--crop", "full", "--device", "cpu"]
    command += ["--bundle", str(tiny_bundle_folder), "--json", str(tmp_path / "t.json")]
    command += ["--markdown", str(tmp_path / "t.md")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    table = json.loads((tmp_path / "t.json").read_text())
    assert list(table) == ["unedited", "mouth paste"]
    assert table["mouth paste"]["PSNR"] > table["unedited"]["PSNR"]  # its mouths are the right ones
    assert "| mouth paste |" in (tmp_path / "t.md").read_text() and "PSNR↑" in run.stdout


@pytest.mark.parametrize("mistake", [["--set", "optimise.stepz=3"], ["--set", "steps"], ["--frames", "5:3"]])
def test_mistakes_end_in_one_line_before_any_work(small_set, tiny_bundle_folder, tmp_path, mistake):
    command = [sys.executable, str(ROOT / "scripts" / "table1"), str(small_set), "--out", str(tmp_path / "out")]
    run = subprocess.run([*command, "--bundle", str(tiny_bundle_folder), *mistake], capture_output=True, text=True)
    assert run.returncode == 2 and mistake[1].removeprefix("optimise.").partition("=")[0] in run.stderr
    assert "Traceback" not in run.stderr and not (tmp_path / "out").exists()


def test_both_tables_share_our_videos():
    """They may write into one folder, as the README does: what HDTalk makes there is the same for both."""
    tables = [runpy.run_path(str(ROOT / "scripts" / name))["METHODS"]["HDTalk"] for name in ("table1", "table2")]
    assert tables[0].keywords == tables[1].keywords
