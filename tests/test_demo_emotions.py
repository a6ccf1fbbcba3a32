"""The demo bundle's emotions on the sample shots: every one moves its feature further at every step of intensity."""

import numpy as np
import pytest

from hdtalk.audio import read_speech
from hdtalk.demo import sample_shots
from hdtalk.face_units import to_face_units
from hdtalk.speech_landmarks import predict_landmarks
from hdtalk.weights import demo_folder, load_bundle
from hdtalk.windows import num_video_frames

STEPS = 5


def corner_height(face):
    """How far the mouth's corners lie above its middle, mean over `[T,68,2]`."""
    return float((face[:, [51, 57], 1].mean(1) - face[:, [48, 54], 1].mean(1)).mean())


def brow_height(face):
    """How far the brows lie above the corners of the eyes."""
    return float((face[:, [36, 39, 42, 45], 1].mean(1) - face[:, 17:27, 1].mean(1)).mean())


EFFECTS = {
    "happy": (corner_height, 1),
    "sad": (corner_height, -1),
    "angry": (brow_height, -1),
    "surprised": (brow_height, 1),
}


@pytest.mark.parametrize("emotion", EFFECTS)
@pytest.mark.parametrize("name", ["anna", "ben"])
def test_more_of_an_emotion_shows_more_of_it(name, emotion):
    model, folder, shot = load_bundle("demo").speech, demo_folder() / "samples", sample_shots()[name]
    speech = read_speech(folder / shot["other_video"])
    track_px = np.load(folder / shot["landmarks"])["landmarks_px"][: num_video_frames(speech, 25)]

    def faces(wanted):
        return to_face_units(predict_landmarks(speech, track_px, 25, model=model, emotion=wanted))[0]

    measure, sign = EFFECTS[emotion]
    steps = [faces(f"{emotion}:{k / (STEPS - 1)}") for k in range(STEPS)]
    np.testing.assert_array_equal(steps[0], faces("neutral"))
    assert (np.diff([sign * measure(face) for face in steps]) > 0).all()
    jaw = [np.linalg.norm(face[:, 0] - face[:, 16], axis=-1).mean() for face in steps]
    np.testing.assert_allclose(jaw, jaw[0], rtol=0.02)  # the head itself stays as wide as it is
