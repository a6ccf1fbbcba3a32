import json
from dataclasses import replace

import numpy as np
import pytest
from heads.dataset import still, write_shards
from heads.landmarks import HeadLandmarks
from heads.params import HAIR_CHANCES, SPLITS, aligned, sample_identity, sample_still, split_of
from heads.render import render
from script_module import load_script

SIZE = 64
pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def stills(head_assets):
    return [still(head_assets, 9, "train", number, SIZE)[0] for number in range(20, 26)]


def middle(labels, *wanted):
    rows, columns = np.nonzero(np.isin(labels, wanted))
    return np.array([columns.mean(), rows.mean()]) + 0.5


def test_landmarks_lie_in_the_picture_and_on_their_labels(stills):
    for s in stills:
        points = s["landmarks_px"]
        assert points.shape == (68, 2) and points.min() > -0.02 * SIZE and points.max() < 1.08 * SIZE
        mouth = middle(s["labels"], 11, 12, 13)
        assert np.hypot(*(mouth - points[48:60].mean(0))) < 0.05 * SIZE
        assert np.hypot(*(middle(s["labels"], 10) - points[27:36].mean(0))) < 0.08 * SIZE


def test_left_and_right_are_the_subjects_own(stills):
    seen = 0
    for s in stills:
        if (s["labels"] == 4).any() and (s["labels"] == 5).any():
            seen += 1
            assert middle(s["labels"], 4)[0] > middle(s["labels"], 5)[0]
            assert np.hypot(*(middle(s["labels"], 4) - s["landmarks_px"][42:48].mean(0))) < 0.05 * SIZE
    assert seen


def test_the_same_number_gives_the_same_still_and_another_one_another(head_assets, stills):
    again, _ = still(head_assets, 9, "train", 21, SIZE)
    np.testing.assert_array_equal(again["image"], stills[1]["image"])
    np.testing.assert_array_equal(again["params"], stills[1]["params"])
    assert np.abs(stills[0]["image"].astype(int) - stills[1]["image"]).mean() > 5


def test_four_stills_in_a_row_show_one_person_in_different_shots(head_assets):
    group = [still(head_assets, 9, "train", number, 32) for number in (0, 3, 4)]
    (first, layout), (second, _), (other, _) = group
    shape, expression = (next(e for e in layout if e["name"] == name) for name in ("identity", "expression"))
    columns = slice(shape["start"], shape["stop"])
    np.testing.assert_array_equal(first["params"][columns], second["params"][columns])
    assert first["identity"] == second["identity"] != other["identity"]
    assert np.abs(first["params"][columns] - other["params"][columns]).max() > 0.5
    columns = slice(expression["start"], expression["stop"])
    assert np.abs(first["params"][columns] - second["params"][columns]).max() > 0.2


def test_pairs_of_skin_and_hair_belong_to_one_split(head_assets):
    pairs = {}
    for split in SPLITS:
        people = [sample_identity(np.random.default_rng([4, k]), head_assets, split) for k in range(60)]
        pairs[split] = {(person.skin, person.hair) for person in people}
    assert not (pairs["train"] & pairs["test"] or pairs["train"] & pairs["validation"])
    assert not pairs["validation"] & pairs["test"]
    everyone = {split_of(skin, hair, head_assets) for skin in head_assets.skins for hair in HAIR_CHANCES}
    assert everyone == set(SPLITS)


def test_an_aligned_camera_puts_eyes_and_mouth_where_ffhq_does(head_assets):
    rng = np.random.default_rng(8)
    p, _ = sample_still(rng, head_assets, sample_identity(rng, head_assets, "test"))
    p = aligned(p, head_assets.landmarks)
    plane = head_assets.landmarks.project(
        p.identity, p.expression, p.pose, p.translation, p.camera.distance, p.body_follow
    )[0]
    frame = np.asarray(p.camera.frame)
    points = plane @ frame[:, :2].T + frame[:, 2]
    eyes = points[36:48].mean(0)
    mouth = (points[48] + points[54]) / 2
    np.testing.assert_allclose(eyes + 0.1 * (mouth - eyes), 0.5, atol=1e-5)
    assert 0.35 < eyes[1] < 0.5 < mouth[1] < 0.8


def test_landmarks_alone_agree_with_the_renderer(assets_folder, head_assets, stills):
    rng = np.random.default_rng([9, 0, 1, 0 * 31 + 3 + 20 - 12])
    person = sample_identity(rng, head_assets, "train")
    p, _ = sample_still(np.random.default_rng([9, 0, 2, 20]), head_assets, person)
    plane = HeadLandmarks(assets_folder).project(
        p.identity, p.expression, p.pose, p.translation, p.camera.distance, p.body_follow
    )[0]
    frame = np.asarray(p.camera.frame) * SIZE
    np.testing.assert_allclose(plane @ frame[:, :2].T + frame[:, 2], stills[0]["landmarks_px"], atol=0.02)


def test_the_far_jaw_slides_along_the_visible_outline(assets_folder):
    model = HeadLandmarks(assets_folder)
    front = model.project(np.zeros(100), np.zeros(57), np.zeros(3))[0]
    turned = model.project(np.zeros(100), np.zeros(57), np.array([0.5, 0, 0]))[0]
    # the head turns to the image's right: that side's points stay at the outermost skin, which is nearer the nose
    width = lambda points: (points[30, 0] - points[:5, 0].mean(), points[12:17, 0].mean() - points[30, 0])  # noqa: E731
    (left, right), (turned_left, turned_right) = width(front), width(turned)
    assert abs(left - right) < 0.3
    assert turned_left > left and 0.2 * right < turned_right < 0.75 * right
    assert (np.diff(turned[8:17, 1]) < 0).all()  # still ordered from the chin up to the ear


def test_shards_hold_what_a_still_gives_whatever_renders_them(assets_folder, head_assets, tmp_path):
    from hdtalk.training.rendered import load_stills

    write_shards(assets_folder, tmp_path, 3, 9, "validation", workers=1, size=32)
    data = load_stills(tmp_path)
    expected, layout = still(head_assets, 9, "validation", 2, 32)
    assert len(data) == 3 and data.layout == layout
    np.testing.assert_array_equal(data.label(2), expected["labels"])
    np.testing.assert_array_equal(data.landmarks_px[2], expected["landmarks_px"])
    np.testing.assert_allclose(data.part("background")[2], data.background[2].ravel() / 63.75 - 2, atol=1e-6)
    assert np.abs(data.image(2).astype(int) - expected["image"]).mean() < 4
    before = (tmp_path / "shard_00000.npz").stat().st_mtime_ns
    for count in (3, 2):
        write_shards(assets_folder, tmp_path, count, 9, "validation", workers=1, size=32)
        assert (tmp_path / "shard_00000.npz").stat().st_mtime_ns == before
    write_shards(assets_folder, tmp_path, 4, 9, "validation", workers=1, size=32)
    longer = load_stills(tmp_path)
    assert len(longer) == 4
    np.testing.assert_array_equal(longer.params[:3], data.params)


@pytest.mark.parametrize("other", [{"seed": 8}, {"split": "train"}, {"size_px": 64}], ids=str)
def test_a_folder_of_other_stills_is_refused_and_stays(tmp_path, monkeypatch, capsys, other):
    made = {"seed": 9, "split": "validation", "size_px": 32}
    (tmp_path / "meta.json").write_text(json.dumps(made))
    (tmp_path / "head.npz").touch()
    (tmp_path / "shard_00000.npz").touch()
    seed, split, size = (made | other).values()
    command = ["render_heads", "--assets", tmp_path, "--out", tmp_path, "--resume"]
    command += ["--seed", seed, "--split", split, "--size", size]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit, match="2"):
        load_script("render_heads").main()
    ((name, wanted),) = other.items()
    expected = f"{tmp_path}: holds stills of {name} {made[name]} and not {wanted}."
    assert expected in capsys.readouterr().err.splitlines()[-1]
    assert json.loads((tmp_path / "meta.json").read_text()) == made


def test_two_takes_differ_at_the_mouth_alone(head_assets):
    from heads.sequences import perform, render_take, sample_scene, take_landmarks

    rng = np.random.default_rng(2)
    person = replace(sample_identity(rng, head_assets, "test"), hair="short01")
    scene = sample_scene(rng, head_assets, person, 96, 64, emotion="happy")
    takes = [perform(scene, phones, head_assets, 25, 0.4) for phones in ([("a", 0.0, 0.4)], [("u", 0.0, 0.4)])]
    np.testing.assert_array_equal(takes[0].pose, takes[1].pose)
    first, second = (
        next(render_take(scene, type(take)(*(track[6:] for track in take)), head_assets, 1)) for take in takes
    )
    alone = take_landmarks(scene, takes[0], head_assets)
    assert alone.shape == (10, 68, 2)
    np.testing.assert_allclose(alone[6], first["landmarks_px"], atol=1e-3)
    moved = np.abs(first["landmarks_px"] - second["landmarks_px"]).max(1)
    assert moved[48:].max() > 0.5 and moved[17:27].max() < 0.05
    difference = np.abs(first["image"].astype(int) - second["image"]).max(-1)
    brows = int(first["landmarks_px"][17:27, 1].max())
    assert (difference[:brows] > 6).mean() < 0.01
    mouth = first["landmarks_px"][48:].mean(0).astype(int)
    assert difference[mouth[1] - 2 : mouth[1] + 3, mouth[0] - 2 : mouth[0] + 3].max() > 20


def test_brows_and_glasses_are_labelled_as_regions(head_assets):
    import cv2

    for alpha, region in zip(head_assets.brows, head_assets.brow_regions, strict=True):
        pieces = cv2.connectedComponents(region)[0] - 1
        assert 2 <= pieces <= 4  # a brow each, and hardly a stray piece
        assert alpha[region > 0].sum() > 0.6 * alpha.sum(dtype=np.int64)
    person = sample_identity(np.random.default_rng(4), head_assets, "train")
    params, _ = sample_still(np.random.default_rng(5), head_assets, replace(person, glasses="round", hair="none"))
    params = replace(params, pose=np.zeros(3))
    worn = render(params, head_assets, 128)
    bare = render(replace(params, glasses="none"), head_assets, 128)
    eyes = np.isin(bare["labels"], (4, 5))
    assert eyes.sum() > 20 and (worn["labels"][eyes] == 6).all()
    assert (bare["labels"] == 6).sum() == 0
