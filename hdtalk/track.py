"""From a part of a video to its tracked face, with a bundle's networks."""

from collections.abc import Callable, Iterator

import numpy as np

from hdtalk.config import EditConfig
from hdtalk.data import FaceTrack, VideoInfo
from hdtalk.face_landmarks import track_face
from hdtalk.media import read_frames
from hdtalk.weights import Bundle


def track_video(
    video: VideoInfo,
    first: int,
    stop: int,
    bundle: Bundle,
    config: EditConfig | None = None,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> FaceTrack:
    """`track_face` on the frames of a file from `first` to before `stop`. `name`: what errors call it, by default the
    file's."""
    config = config or EditConfig()

    def read(start: int, end: int) -> Iterator[np.ndarray]:
        return read_frames(video.path, first + start, first + end, config.media)

    networks = bundle.detector, bundle.landmarker
    name = name or str(video.path)
    return track_face(read, stop - first, float(video.fps), *networks, config.faces, name, progress, first)
