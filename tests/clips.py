"""Small synthetic clips for tests, written with PyAV: every property that real footage may have, on demand."""

import subprocess
import wave
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
from av.video.reformatter import VideoReformatter


def write_clip(
    path,
    frames,
    fps=Fraction(25),
    codec="libx264",
    pixel_format="yuv444p",
    colour=(2, 2, 2, 0),  # primaries, transfer, matrix, range
    rotation_degrees=None,
    hflip=False,
    times_s=None,
    time_base=None,
    gop=12,
    options=None,
    container_options=None,
    pixel_aspect=None,
    audio=None,  # float32 [channels, samples], rate
    audio_codec="aac",
    source_format="rgb24",
    container_format=None,
):
    """`frames`: uint8 [T,H,W,3] (uint16 for rgb48le). `times_s`: one time per frame for variable rates."""
    with av.open(str(path), "w", container_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "4", "g": str(gop), **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        context = stream.codec_context
        context.pix_fmt, context.thread_count = pixel_format, 1
        context.time_base = time_base or 1 / fps
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = colour
        if pixel_aspect:
            context.sample_aspect_ratio = pixel_aspect
        if rotation_degrees is not None:
            stream.set_display_rotation(rotation_degrees, hflip=hflip)
        sound = container.add_stream(audio_codec, rate=audio[1], layout=_layout(audio)) if audio else None
        reformatter = VideoReformatter()
        for index, array in enumerate(frames):
            picture = reformatter.reformat(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(array), source_format),
                format=pixel_format,
                dst_colorspace=colour[2] if colour[2] in (1, 5, 9) else 5,
                dst_color_range=colour[3] or 1,
            )
            picture.time_base = context.time_base
            picture.pts = index if times_s is None else round(Fraction(times_s[index]) / context.time_base)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio:
            _write_sound(container, sound, *audio)
    return path


def numbered_frames(count, height=96, width=128, step=8):
    """Frames that can be told apart after coding: a flat grey of `step` levels per frame (cyclic) and a moving bar."""
    frames = np.empty((count, height, width, 3), np.uint8)
    for index in range(count):
        frames[index] = 16 + (index * step) % 224
        frames[index, :, (index * 5) % width] = 255
    return frames


def oriented_picture(height=96, width=128):
    """A picture without any symmetry: red top left, green top right, blue bottom left, grey bottom right."""
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[: height // 2, : width // 2] = (200, 40, 40)
    picture[: height // 2, width // 2 :] = (40, 200, 40)
    picture[height // 2 :, : width // 2] = (40, 40, 200)
    return picture


def tone(seconds, rate=16000, hertz=440.0, amplitude=0.5, channels=1):
    """float32 [channels, samples] of a sine, and its rate."""
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1)), rate


def write_wav(path, samples, rate):
    """16-bit PCM from float32 [channels, samples]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples.T, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def read_sound(path):
    """float32 [channels, samples] and rate of a file's first audio stream, decoded independently of HDTalk."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp")
        blocks, rate = [], None
        for frame in container.decode(audio=0):
            rate = frame.rate
            blocks += [block.to_ndarray() for block in resampler.resample(frame)]
    return np.concatenate(blocks, 1), rate


def ffmpeg_frames(path, height, width):
    """uint8 [T,H,W,3] as the ffmpeg program shows the file (it turns pictures upright by itself): a second opinion."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def _layout(audio):
    return {1: "mono", 2: "stereo"}[audio[0].shape[0]]


def _write_sound(container, stream, samples, rate):
    for start in range(0, samples.shape[1], 1024):
        block = np.ascontiguousarray(samples[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(block, "fltp", stream.layout.name)
        frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
