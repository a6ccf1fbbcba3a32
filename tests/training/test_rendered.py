import json

import cv2
import numpy as np
import pytest
import torch

from hdtalk.errors import InputError
from hdtalk.training.rendered import DeviceStills, load_stills


def write_shard(folder, number, count):
    rng = np.random.default_rng(number)
    images = [np.full((16, 16, 3), [10 * number + k, 60, 200], np.uint8) for k in range(count)]
    labels = [rng.integers(0, 19, (16, 16), np.uint8) for _ in range(count)]
    blobs = {
        "image": [
            cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].ravel() for image in images
        ],
        "label": [cv2.imencode(".png", label)[1].ravel() for label in labels],
    }
    arrays = {
        "landmarks_px": rng.random((count, 68, 2), np.float32),
        "params": rng.random((count, 5), np.float32),
        "background": np.zeros((count, 6, 6, 3), np.uint8),
        "identity": np.arange(count) + 100 * number,
        "emotion": np.zeros(count, np.int16),
        "viseme": np.zeros(count, np.int16),
        "attributes": np.zeros((count, 6), np.int16),
    }
    for name, parts in blobs.items():
        arrays[name + "_bytes"] = np.concatenate(parts)
        arrays[name + "_offsets"] = np.cumsum([0] + [len(part) for part in parts])
    np.savez(folder / f"shard_{number:05d}.npz", **arrays)
    return images, labels, arrays


@pytest.fixture
def folder(tmp_path):
    layout = [
        {"name": "pose", "start": 0, "stop": 3, "kind": "gaussian"},
        {"name": "skin", "start": 3, "stop": 5, "kind": "onehot", "values": ["a", "b"]},
    ]
    (tmp_path / "meta.json").write_text(json.dumps({"size_px": 16, "layout": layout}))
    return tmp_path


def test_shards_are_joined_in_order_and_decoded(folder):
    _, labels_b, arrays_b = write_shard(folder, 2, 2)
    images_a, labels_a, arrays_a = write_shard(folder, 1, 3)
    data = load_stills(folder)
    assert len(data) == 5 and data.identity.tolist() == [100, 101, 102, 200, 201]
    images, labels = data.pictures(range(5)), data.label_maps(range(5))
    np.testing.assert_array_equal(labels, labels_a + labels_b)
    assert np.abs(images[:3].astype(int) - np.stack(images_a)).max() <= 3  # red stays red
    np.testing.assert_array_equal(data.part("skin")[3:], arrays_b["params"][:, 3:])


def test_a_limit_cuts_within_a_shard(folder):
    write_shard(folder, 0, 3)
    write_shard(folder, 1, 3)
    data = load_stills(folder, limit=4)
    assert len(data) == len(data.images) == len(data.params) == 4 and data.identity[-1] == 100


def test_a_folder_without_shards_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="render_heads"):
        load_stills(tmp_path)


def test_batches_are_the_table_as_tensors(folder):
    images, labels, arrays = write_shard(folder, 0, 4)
    data = DeviceStills(folder, "cpu")
    chosen = np.array([2, 0])
    batch = data.images(chosen)
    assert batch.shape == (2, 3, 16, 16) and batch.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(batch[0, :, 0, 0], np.array(images[2][0, 0]) / 127.5 - 1, atol=0.03)
    np.testing.assert_array_equal(data.labels(chosen), [labels[2], labels[0]])
    np.testing.assert_array_equal(data.params(chosen), arrays["params"][chosen])


def test_watched_folders_grow(folder, monkeypatch):
    write_shard(folder, 0, 2)
    monkeypatch.setattr("hdtalk.training.rendered.LOOK_AGAIN_S", 0.0)
    watched, still = DeviceStills(folder, "cpu", watch=True), DeviceStills(folder, "cpu")
    images, _, arrays = write_shard(folder, 1, 3)
    for data in (watched, still):
        assert data.draw(np.random.default_rng(0), 100).max() == len(data) - 1
    assert len(watched) == 5 and len(still) == 2
    np.testing.assert_array_equal(watched.params(np.array([4])), arrays["params"][2:])
    assert abs(watched.images(np.array([4]))[0, 0, 0, 0].item() - (images[2][0, 0, 0] / 127.5 - 1)) < 0.03
