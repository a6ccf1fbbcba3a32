"""The FFHQ quad, the crop, and the exactness of its inverse."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from hdtalk.config import CropConfig
from hdtalk.crop import (
    Loan,
    crop_face,
    crop_faces,
    crop_track,
    ffhq_quads,
    finer_detail,
    landmarks_to_crop,
    landmarks_to_frame,
    paste_back,
)
from hdtalk.data import FaceTrack


def face(centre=(100.0, 80.0), eye_distance=40.0, mouth_drop=45.0, degrees=0.0):
    """68 landmarks of which only the alignment's own are meaningful: eyes and mouth corners."""
    points = np.zeros((68, 2))
    points[36:42] = (-eye_distance / 2, 0)
    points[42:48] = (eye_distance / 2, 0)
    points[48], points[54] = (-12, mouth_drop), (12, mouth_drop)
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return points @ rotation.T + centre


def square(centre, side, degrees=0.0):
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * side / 2
    return corners @ rotation.T + centre


@pytest.fixture(scope="module")
def smooth_frame():
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(240, 320, 3)), (4, 4, 0))
    return np.clip(128 + noise * 900, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def noise_frame():
    return np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)


def test_quad_of_an_upright_face():
    """Worked by hand: eyes 40 apart, mouth 45 below: axis 40 - -(45) -> along x; half side max(2*40, 1.8*45) = 81."""
    quad = ffhq_quads(face()[None])[0]
    centre = np.array([100, 80 + 4.5])
    np.testing.assert_allclose(quad, centre + np.array([[-81, -81], [-81, 81], [81, 81], [81, -81]]), atol=1e-9)


def test_wide_eyes_take_over():
    quad = ffhq_quads(face(eye_distance=60)[None])[0]
    assert quad[3, 0] - quad[0, 0] == pytest.approx(2 * 2 * 60)


@pytest.mark.parametrize("degrees", [-70, -15, 30, 179])
def test_quad_turns_with_the_head_and_stays_square(degrees):
    quad = ffhq_quads(face(degrees=degrees)[None])[0]
    right, down = quad[3] - quad[0], quad[1] - quad[0]
    assert right @ down == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(right) == pytest.approx(np.linalg.norm(down)) == pytest.approx(162)
    assert np.degrees(np.arctan2(right[1], right[0])) == pytest.approx(degrees, abs=1e-6)
    np.testing.assert_allclose(quad[0] + quad[2], quad[1] + quad[3], atol=1e-9)


def track(landmarks, **fields):
    return FaceTrack(np.asarray(landmarks, np.float32), np.ones(len(landmarks), bool), **fields)


def test_smoothing_of_centre_and_axes():
    rng = np.random.default_rng(2)
    landmarks = np.stack([face(centre=rng.normal(100, 5, 2), degrees=rng.normal(0, 4)) for _ in range(40)])
    raw = ffhq_quads(landmarks.astype(np.float32))
    quads = crop_track(track(landmarks), 256).quads_px
    np.testing.assert_allclose(quads.mean(1), gaussian_filter1d(raw.mean(1), 1, axis=0), atol=1e-6)
    axis, raw_axis = (quads[:, 3] - quads[:, 0]) / 2, (raw[:, 3] - raw[:, 0]) / 2
    np.testing.assert_allclose(axis, gaussian_filter1d(raw_axis, 3, axis=0), atol=1e-6)


def test_smoothing_has_no_lag():
    landmarks = np.stack([face(centre=(100 + 2 * t, 80)) for t in range(40)])
    centres = crop_track(track(landmarks), 256).quads_px.mean(1)
    np.testing.assert_allclose(centres[8:-8, 0], 100 + 2 * np.arange(40)[8:-8], atol=1e-5)


def test_smoothing_stops_at_a_cut():
    landmarks = np.stack([face(centre=(60, 60))] * 10 + [face(centre=(200, 120), eye_distance=70)] * 10)
    quads = crop_track(track(landmarks, cuts=(10,)), 256).quads_px
    np.testing.assert_allclose(quads, ffhq_quads(landmarks.astype(np.float32)), atol=1e-5)


def test_scale_and_single_frames():
    config = CropConfig(scale=1.5, centre_sigma_frames=0, axes_sigma_frames=0)
    quad = crop_track(track(face()[None]), 64, config).quads_px[0]
    assert quad[3, 0] - quad[0, 0] == pytest.approx(1.5 * 162)


def test_crop_of_a_pixel_aligned_square_is_the_frame_itself(noise_frame):
    """quad corners are borders in index positions: [19.5, 83.5) holds the pixels 20 ... 83."""
    quad = square((51.5, 41.5), 64)
    crop = crop_face(noise_frame, quad, 64)
    expected = noise_frame[10:74, 20:84].transpose(2, 0, 1) / 127.5 - 1
    assert crop.dtype == np.float32 and crop.shape == (3, 64, 64)
    np.testing.assert_allclose(crop, expected, atol=1e-4)


def test_whole_factor_reduction_is_the_area_mean(noise_frame):
    crop = crop_face(noise_frame, square((83.5, 83.5), 128), 32)
    expected = noise_frame[20:148, 20:148].reshape(32, 4, 32, 4, 3).mean((1, 3)).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(crop, expected, atol=1e-4)


@pytest.mark.parametrize("degrees, side, resolution", [(0, 90, 96), (23, 100, 128), (-160, 75, 128)])
def test_crop_agrees_with_opencv(smooth_frame, degrees, side, resolution):
    quad = square((150.0, 110.0), side, degrees)
    target = np.array([[-0.5, -0.5], [-0.5, resolution - 0.5], [resolution - 0.5, resolution - 0.5]], np.float32)
    matrix = cv2.getAffineTransform(quad[:3].astype(np.float32), target)
    expected = cv2.warpAffine(smooth_frame.astype(np.float32), matrix, (resolution, resolution), flags=cv2.INTER_LINEAR)
    got = (crop_face(smooth_frame, quad, resolution).transpose(1, 2, 0) + 1) * 127.5
    assert np.abs(got - expected).max() < 1.0


def test_outside_the_frame_is_mirrored(noise_frame):
    quad = square((0.0, 0.0), 41)  # centred on the first pixel: index positions -20.5 ... 20.5
    crop = (crop_face(noise_frame, quad, 41).transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(crop, np.pad(noise_frame[:21, :21], ((20, 0), (20, 0), (0, 0)), "reflect"), atol=0.01)


def test_a_quad_far_outside_still_crops(noise_frame):
    crop = crop_face(noise_frame, square((-900.0, 2000.0), 300, 40), 64)
    assert np.isfinite(crop).all() and crop.std() > 0


def test_antialiasing_removes_what_cannot_be_shown():
    stripes = np.zeros((240, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = crop_face(stripes, square((160.3, 120.2), 200, 7), 50)
    assert crop.std() < 0.05 and crop.mean() == pytest.approx(0, abs=0.02)


QUADS = [
    (square((150.2, 110.7), 120, 12), 64),
    (square((150.2, 110.7), 120, 12), 128),
    (square((150.2, 110.7), 120, -80), 512),
    (square((10.0, 230.0), 150, 5), 128),  # leaves the frame
    (square((-400.0, 90.0), 100), 64),  # wholly outside
]


@pytest.mark.parametrize("quad, resolution", QUADS)
def test_round_trip_without_edit_is_the_frame_bit_for_bit(noise_frame, quad, resolution):
    crop = crop_face(noise_frame, quad, resolution)
    result = paste_back(noise_frame, crop, np.ones((resolution, resolution)), quad)
    assert result is not noise_frame
    np.testing.assert_array_equal(result, noise_frame)


@pytest.mark.parametrize("quad, resolution", QUADS)
def test_rounded_crops_round_trip_too(noise_frame, quad, resolution):
    crop = crop_faces([noise_frame], quad[None], resolution)
    assert crop.dtype == np.uint8 and crop.shape == (1, 3, resolution, resolution)
    np.testing.assert_allclose(crop[0] / 127.5 - 1, crop_face(noise_frame, quad, resolution), atol=0.51 / 127.5)
    result = paste_back(noise_frame, crop[0], np.full((resolution, resolution), 255, np.uint8), quad)
    np.testing.assert_array_equal(result, noise_frame)


@pytest.mark.parametrize("quad, resolution", QUADS[:4])
def test_pixels_outside_the_mask_are_the_sources(noise_frame, quad, resolution):
    rng = np.random.default_rng(3)
    edited = rng.uniform(-1, 1, (3, resolution, resolution)).astype(np.float32)
    mask = np.zeros((1, resolution, resolution), np.float32)
    quarter = resolution // 4
    mask[:, quarter:-quarter, quarter:-quarter] = 1
    result = paste_back(noise_frame, edited, mask, quad)
    changed = (result != noise_frame).any(-1)
    inner = np.zeros(changed.shape, np.uint8)
    centre = quad.mean(0)
    grown = centre + (quad - centre) * (0.5 + 3 / resolution + 3 / np.linalg.norm(quad[3] - quad[0]))
    cv2.fillConvexPoly(inner, np.round(grown).astype(np.int32), 1)
    assert changed.any() and not changed[inner == 0].any()
    np.testing.assert_array_equal(paste_back(noise_frame, edited, mask * 0, quad), noise_frame)


@pytest.mark.parametrize("resolution", [100, 256, 700])
def test_an_edit_lands_where_it_was_made(smooth_frame, resolution):
    quad = square((150.2, 110.7), 120, 12)
    target = 255 - smooth_frame  # edit: the same place in another frame
    edited = crop_face(target, quad, resolution)
    result = paste_back(smooth_frame, edited, np.ones((resolution, resolution)), quad).astype(int)
    inner = np.zeros(result.shape[:2], np.uint8)
    cv2.fillConvexPoly(inner, np.round(quad.mean(0) + (quad - quad.mean(0)) * 0.95).astype(np.int32), 1)
    strong = np.abs(255 - 2 * smooth_frame.astype(int)).min(-1) > 60  # elsewhere the old detail is kept on purpose
    error = np.abs(result - target)[(inner == 1) & strong]
    assert len(error) > 500 and error.mean() < 1.5 and np.quantile(error, 0.99) < 6


def test_detail_finer_than_the_crop_stays_where_nothing_changed_and_goes_where_it_did(noise_frame):
    quad = square((159.5, 119.5), 192)
    crop = crop_face(noise_frame, quad, 48)  # 4 frame pixels per crop pixel
    edited = crop.copy()
    edited[:, :, 24:] = 0.9
    result = paste_back(noise_frame, edited, np.ones((48, 48)), quad)
    np.testing.assert_array_equal(result[30:210, 70:148], noise_frame[30:210, 70:148])
    painted = result[40:200, 176:250].astype(float)
    assert painted.std() < 4 and painted.mean() == pytest.approx(0.95 * 255, abs=3)


@pytest.mark.parametrize("degrees, side, resolution", [(0, 150, 64), (12, 130, 96), (-40, 140, 50)])
def test_the_frame_with_the_edit_gives_the_edit_when_it_is_cropped_again(noise_frame, degrees, side, resolution):
    quad = square((150.2, 110.7), side, degrees)
    edited = crop_face(np.ascontiguousarray(np.rot90(noise_frame, 2)), quad, resolution) * 0.5
    errors = []
    for rounds in (0, 1, 3):
        config = CropConfig(back_projections=rounds, keep_detail_below=1e-6)
        result = paste_back(noise_frame, edited, np.ones((resolution, resolution)), quad, config)
        errors.append(np.abs(crop_face(result, quad, resolution) - edited)[:, 4:-4, 4:-4].mean())
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.35 * errors[0]


def loan(frame, quad, resolution, shift=(0.0, 0.0), share=255):
    field = np.broadcast_to(np.float32(shift)[:, None, None], (2, 64, 64)).copy()
    return Loan(finer_detail(frame, quad, resolution), field, np.full((resolution, resolution), share, np.uint8))


def test_a_frame_lends_the_detail_that_no_crop_shows(noise_frame):
    """An edit that shows what another frame shows becomes that frame, pixel for pixel, wherever its crop is there."""
    other = np.ascontiguousarray(np.rot90(noise_frame, 2)) // 2 + 64
    here, there, resolution = square((150.2, 110.7), 128), square((167.2, 121.7), 128), 64
    edited, mask = crop_face(other, there, resolution), np.ones((resolution, resolution))
    frame = np.where(noise_frame < 128, noise_frame // 8, 255 - noise_frame // 8)  # all of it is changed
    expected = other[130:165, 126:200]  # 17 and 11 pixels further to the right and down than in the frame
    with_it, half, without = (
        paste_back(frame, edited, mask, here, CropConfig(keep_detail_below=1e-6), given)[119:154, 109:183].astype(int)
        for given in (loan(other, there, resolution), loan(other, there, resolution, share=128), None)
    )
    assert np.abs(with_it - expected).max() <= 2
    missing = expected - without
    assert np.abs(missing).mean() > 10
    np.testing.assert_allclose(expected - half, missing / 2, atol=2)


def test_lent_detail_is_carried_by_its_field(noise_frame):
    quad, resolution = square((150.2, 110.7), 128), 64
    mask, frame = np.ones((resolution, resolution)), np.full_like(noise_frame, 10)
    edited = np.full((3, resolution, resolution), 0.2, np.float32)
    plain, moved = (
        paste_back(frame, edited, mask, quad, CropConfig(), loan(noise_frame, quad, resolution, shift))
        for shift in ((0.0, 0.0), (8 / 128, -4 / 128))
    )
    np.testing.assert_allclose(moved[126:160, 118:190].astype(int), plain[130:164, 110:182], atol=1)
    assert plain[130:164, 110:182].std() > 20


def test_a_crop_as_fine_as_its_frame_has_nothing_to_lend(noise_frame):
    assert finer_detail(noise_frame, square((150.2, 110.7), 120), 128) is None
    assert finer_detail(noise_frame, square((-400.0, 90.0), 100), 64) is None  # outside of the frame


def test_half_a_mask_is_half_an_edit():
    frame = np.full((200, 200, 3), 100, np.uint8)
    quad = square((99.5, 99.5), 100)
    edited = np.full((3, 50, 50), 180 / 127.5 - 1, np.float32)
    result = paste_back(frame, edited, np.full((50, 50), 0.25), quad)
    assert (result[60:140, 60:140] == 120).all()
    assert (result[:48] == 100).all()


def test_the_frame_given_is_not_changed(noise_frame):
    before = noise_frame.copy()
    paste_back(noise_frame, np.zeros((3, 64, 64), np.float32), np.ones((64, 64)), square((150, 100), 90))
    np.testing.assert_array_equal(noise_frame, before)


def test_landmarks_follow_the_picture():
    """A bright dot in the frame appears in the crop where landmarks_to_crop says, and comes back."""
    quad, resolution = square((150.2, 110.7), 120, 25), 256
    point = np.array([171.0, 95.0])
    rows, columns = np.mgrid[:240, :320]
    dot = np.exp(-((columns - point[0]) ** 2 + (rows - point[1]) ** 2) / 8) * 255
    crop = crop_face(np.repeat(dot[..., None], 3, 2).astype(np.uint8), quad, resolution)[0] + 1
    rows, columns = np.mgrid[:resolution, :resolution]
    seen = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    expected = landmarks_to_crop(point[None, None], quad[None], resolution)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(expected[0, 0], seen, atol=0.05)


def test_landmark_transforms_are_inverse():
    rng = np.random.default_rng(4)
    quads = np.stack([square(rng.uniform(50, 200, 2), rng.uniform(60, 200), rng.uniform(-180, 180)) for _ in range(5)])
    points = rng.uniform(0, 300, (5, 68, 2)).astype(np.float32)
    np.testing.assert_allclose(landmarks_to_frame(landmarks_to_crop(points, quads, 256), quads, 256), points, atol=1e-3)
    corners = landmarks_to_crop(quads, quads, 256)
    np.testing.assert_allclose(corners, [[[-0.5, -0.5], [-0.5, 255.5], [255.5, 255.5], [255.5, -0.5]]] * 5, atol=1e-3)
