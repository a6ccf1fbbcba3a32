"""Masks drawn from landmarks."""

from hdtalk.regions import lower_face_mask, mouth_mask


def test_lower_face_mask_covers_mouth_and_chin_but_not_the_eyes(tiny_shot):
    track = tiny_shot[1][:1]
    mask = lower_face_mask(track, track + (0, 2), 80)[0, 0]
    at = lambda point: mask[round(float(point[1])), round(float(point[0]))]  # noqa: E731
    assert at(track[0, 62]) == 1 and at(track[0, 8]) > 0.5 and at(track[0, 8] + (0, 2)) > 0.5
    assert max(at(p) for p in track[0, 36:48]) == 0 and mask[:10].max() == 0


def test_mouth_mask_lies_within_the_lower_face(tiny_shot):
    track = tiny_shot[1][:2]
    mouth, lower = mouth_mask(track, 80, margin=0.0), lower_face_mask(track, track, 80)
    assert mouth.shape == (2, 1, 80, 80) and 0 < mouth.sum() < 0.4 * lower.sum()
    assert (lower[mouth > 0] > 0).all()
