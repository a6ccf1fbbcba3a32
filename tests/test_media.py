"""Reading and writing video: grid, orientation, colours, damage, refusals, and nothing half-written."""

import logging
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import ffmpeg_frames, numbered_frames, oriented_picture, read_sound, tone, write_clip, write_wav
from PIL import Image

from hdtalk.config import MediaConfig
from hdtalk.data import ColourTags
from hdtalk.errors import HDTalkError, InputError, UsageError
from hdtalk.media import VideoWriter, check_encoder, probe, read_frames, read_frames_in_order
from hdtalk.soundtrack import Soundtrack
from hdtalk.tonemap import tone_map

NTSC = Fraction(30000, 1001)
ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", numbered_frames(50), fps=NTSC)


@pytest.fixture(scope="module")
def frames(clip):
    return list(read_frames(clip))


def test_probe_is_exact(clip, frames):
    info = probe(clip)
    assert (info.fps, info.num_frames, info.width, info.height) == (NTSC, 50, 128, 96)
    assert info.duration_s == pytest.approx(50 * 1001 / 30000)
    assert not info.has_audio and not info.variable_rate and not info.hdr
    assert len(frames) == 50


def test_decoded_frames_are_the_encoded_ones(frames):
    for got, sent in zip(frames, numbered_frames(50), strict=True):
        assert got.dtype == np.uint8
        assert np.abs(got.astype(int) - sent).mean() < 3


@pytest.mark.parametrize("start, stop", [(0, 1), (1, 2), (11, 14), (12, 13), (13, 40), (49, 50), (30, 30)])
def test_reading_restarts_at_any_frame(clip, frames, start, stop):
    part = list(read_frames(clip, start, stop))
    assert len(part) == stop - start
    for got, expected in zip(part, frames[start:stop], strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "order", [[], [7], [3, 4, 5, 4, 3, 2], [9, 9, 9, 10], [48, 49, 48, 47], list(range(40, 0, -1)), [0, 20, 5, 5, 30]]
)
def test_reading_in_any_order(clip, frames, order):
    got = list(read_frames_in_order(clip, np.array(order, int), block=8))
    assert len(got) == len(order)
    for frame, number in zip(got, order, strict=True):
        np.testing.assert_array_equal(frame, frames[number])


def test_range_outside_the_video_is_refused(clip):
    with pytest.raises(UsageError, match="51"):
        next(read_frames(clip, 0, 51))


def test_frames_given_out_are_independent(clip):
    reader = read_frames(clip, 0, 2)
    first = next(reader)
    first[:] = 0
    assert next(reader).max() > 0


def test_reading_does_not_collect_frames(tmp_path):
    path = write_clip(tmp_path / "long.mp4", numbered_frames(150, 120, 160), options={"preset": "ultrafast"})
    probe(path)
    tracemalloc.start()
    for _ in read_frames(path):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 120 * 160 * 3


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("hflip", [False, True])
def test_display_matrix_is_honoured(tmp_path, degrees, hflip):
    picture = oriented_picture()
    path = write_clip(tmp_path / "turned.mp4", [picture] * 3, rotation_degrees=degrees, hflip=hflip)
    info = probe(path)
    assert (info.height, info.width) == (picture.shape[:2] if degrees % 180 == 0 else picture.shape[1::-1])
    shown = ffmpeg_frames(path, info.height, info.width)[0]
    assert np.abs(next(read_frames(path)).astype(int) - shown).mean() < 2
    if (degrees, hflip) == (180, False):
        assert np.abs(shown.astype(int) - picture[::-1, ::-1]).mean() < 4


def test_pixel_aspect_turns_with_the_picture_and_is_noticed(tmp_path, caplog):
    path = write_clip(
        tmp_path / "wide.mp4", [oriented_picture()] * 2, rotation_degrees=90, pixel_aspect=Fraction(16, 15)
    )
    assert probe(path).pixel_aspect == Fraction(15, 16)
    assert "pixels are 0.938 times as wide as high" in caplog.text


def source_numbers(frames, step=8):
    """Which of `numbered_frames` each frame shows, read from its grey level."""
    return [round((float(np.median(frame)) - 16) / step) for frame in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_rate_takes_the_nearest_frame(tmp_path, suffix):
    rng = np.random.default_rng(5)
    times = np.concatenate([[0], np.cumsum(rng.uniform(0.01, 0.09, 24))])
    path = write_clip(
        tmp_path / f"vfr.{suffix}", numbered_frames(25), times_s=times.tolist(), time_base=Fraction(1, 1000)
    )
    info = probe(path)
    assert info.variable_rate and abs(info.num_frames - 25) <= 1
    assert info.duration_s == pytest.approx(times[-1] + 0.045, abs=0.05)
    stored = np.round(times * 1000) / 1000
    expected = [int(np.abs(stored - k / float(info.fps)).argmin()) for k in range(info.num_frames)]
    got = source_numbers(read_frames(path))
    assert sum(a != b for a, b in zip(got, expected, strict=True)) == 0
    assert source_numbers(read_frames(path, 11, 15)) == got[11:15]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_dropped_frames_keep_the_rate(tmp_path, suffix):
    kept = [k for k in range(28) if k not in (5, 20)]
    path = write_clip(
        tmp_path / f"dropped.{suffix}",
        numbered_frames(28)[kept],
        times_s=[Fraction(k) / NTSC for k in kept],
        fps=NTSC,
        time_base=Fraction(1, 90000),
    )
    info = probe(path)
    assert (info.fps, info.num_frames, info.variable_rate) == (NTSC, 28, False)
    got = source_numbers(read_frames(path))
    assert [got[k] for k in kept] == kept and got[5] in (4, 6) and got[20] in (19, 21)


@pytest.mark.parametrize("suffix, codec", [("mkv", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")])
def test_other_containers_count_and_restart(tmp_path, suffix, codec):
    options = {"b": "2M", "qmin": "1", "auto-alt-ref": "1", "lag-in-frames": "16"} if codec != "libx264" else None
    path = write_clip(
        tmp_path / f"clip.{suffix}", numbered_frames(28), fps=NTSC, codec=codec, pixel_format="yuv420p", options=options
    )
    info = probe(path)
    assert (info.fps, info.num_frames) == (NTSC, 28)
    everything = list(read_frames(path))
    assert source_numbers(everything) == list(range(28))
    np.testing.assert_array_equal(next(read_frames(path, 17, 18)), everything[17])


def binary_frames(count):
    """Frames that show their own number as ten black or white bars, the lowest bit on the left."""
    bits = np.arange(count)[:, None] >> np.arange(10) & 1
    bars = np.repeat(np.where(bits, 230, 20).astype(np.uint8), 8, axis=1)
    return np.broadcast_to(bars[:, None, :, None], (count, 48, 80, 3))


def binary_number(frame):
    bars = frame[16:32, 4::8].mean(axis=(0, 2)) > 128
    return int((bars << np.arange(10)).sum())


@pytest.mark.parametrize(
    "suffix, codec, may_seek",
    [
        ("avi", "libx264", False),  # B-frames: the pts are in the order of the packets
        ("wmv", "libx264", False),
        ("mpg", "mpeg2video", False),  # after a seek the pts are guessed
        ("mpg", "libx264", False),  # most pictures have no pts
        ("avi", "mpeg4", True),
        ("ts", "libx264", True),
        ("ts", "mpeg2video", True),
        ("ts", "mpeg4", True),  # a seek lands midway, and the decoder shows broken pictures until the key frame
    ],
)
def test_a_frame_is_what_its_number_says_wherever_reading_starts(tmp_path, caplog, suffix, codec, may_seek):
    options = {"bf": "2", "b": "4M"}
    path = write_clip(
        tmp_path / f"clip.{suffix}", binary_frames(240), codec=codec, pixel_format="yuv420p", options=options
    )
    with caplog.at_level(logging.WARNING):
        info = probe(path)
        assert [binary_number(frame) for frame in read_frames(path)] == list(range(240))
        for start in range(0, 240, 11):
            assert binary_number(next(read_frames(path, start, start + 1))) == start
    assert (info.fps, info.num_frames, info.variable_rate) == (25, 240, False)
    assert ("damaged" not in caplog.text) and (("decoded from the start" in caplog.text) != may_seek)


@pytest.mark.parametrize(
    "codec, pixel_format, size",
    [
        ("libx264", "yuv420p10le", (96, 128)),
        ("libx265", "yuv420p10le", (96, 128)),
        ("libx264", "yuv444p", (97, 129)),
        ("libx264", "yuv422p", (96, 128)),
        ("ffv1", "yuv444p16le", (97, 129)),
        ("ffv1", "bgr0", (97, 129)),
        ("ffv1", "gray", (96, 128)),
    ],
)
def test_sizes_and_sample_formats(tmp_path, codec, pixel_format, size):
    sent = numbered_frames(4, *size, step=40)
    options = {"x265-params": "log-level=none"} if codec == "libx265" else None
    path = write_clip(tmp_path / "clip.mkv", sent, codec=codec, pixel_format=pixel_format, options=options)
    got = list(read_frames(path))
    assert got[0].shape == (*size, 3)
    assert max(abs(int(np.median(a)) - int(np.median(b))) for a, b in zip(got, sent, strict=True)) <= 2


@pytest.mark.parametrize("matrix, luma_of_red", [(1, 63), (5, 81), (9, 74)])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_survive_reading_and_writing(tmp_path, matrix, luma_of_red, full_range):
    colour = (matrix, matrix, matrix, 2 if full_range else 1)
    colour = (colour[0], 1, *colour[2:])
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    path = write_clip(tmp_path / "red.mp4", [red] * 3, colour=colour)
    assert np.abs(next(read_frames(path)).astype(int) - red).max() <= 4
    info = probe(path)
    assert (info.colour.primaries, info.colour.transfer, info.colour.matrix, info.colour.range) == colour

    out = tmp_path / "out.mp4"
    write_video(out, info, [red] * 3)
    assert probe(out).colour == info.colour
    assert np.abs(next(read_frames(out)).astype(int) - red).max() <= 4
    with av.open(str(out)) as container:
        luma = next(container.decode(video=0)).to_ndarray()[20, 20]
    assert luma == pytest.approx((luma_of_red - 16) * 255 / 219 if full_range else luma_of_red, abs=2)


def test_untagged_hd_is_read_as_bt709(tmp_path):
    green = np.zeros((720, 64, 3), np.uint8)
    green[..., 1] = 200
    path = write_clip(tmp_path / "hd.mp4", [green] * 2, colour=(2, 2, 1, 1))
    data = path.read_bytes()
    untagged = write_video(tmp_path / "untagged.mp4", replace(probe(path), colour=ColourTags()), [green] * 2)
    assert data and probe(untagged).colour.matrix == 2
    assert np.abs(next(read_frames(untagged)).astype(int) - green).max() <= 4
    with av.open(str(untagged)) as container:
        luma = next(container.decode(video=0)).to_ndarray()[20, 20]
    assert luma == pytest.approx(16 + 219 * 0.7152 * 200 / 255, abs=2)


def pq_code(nits):
    power = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def test_hdr_is_tone_mapped_with_a_notice(tmp_path, caplog):
    nits = np.array([0.0, 1.0, 20.0, 203.0, 400.0, 1000.0, 4000.0])
    picture = np.repeat(np.round(pq_code(nits) * 65535).astype(np.uint16), 16)[None, :, None].repeat(64, 0).repeat(3, 2)
    path = write_clip(
        tmp_path / "hdr.mkv",
        [picture] * 2,
        codec="libx265",
        pixel_format="yuv420p10le",
        colour=(9, 16, 9, 1),
        source_format="rgb48le",
        options={"x265-params": "log-level=none"},
    )
    with caplog.at_level(logging.WARNING):
        info = probe(path)
    assert info.hdr and "HDR" in caplog.text
    shown = next(read_frames(path))[32, 8::16].astype(int)
    assert np.ptp(shown, axis=1).max() <= 3  # grey stays grey
    levels = shown[:, 1]
    assert levels[0] == 0 and (np.diff(levels) >= 0).all() and levels[-1] == 255
    assert 205 <= levels[3] <= 245  # diffuse white
    assert levels[2] == pytest.approx(255 * (20 / 203) ** (1 / 2.4), abs=4)  # below the knee nothing is bent
    assert levels[4] > levels[3] + 4  # highlights keep detail
    out = write_video(tmp_path / "out.mp4", info, list(read_frames(path)))
    assert probe(out).colour.transfer == 1 and not probe(out).hdr


def test_two_runs_do_not_write_one_file(tmp_path):
    frames = numbered_frames(3)
    info = probe(write_clip(tmp_path / "in.mp4", frames))
    out = tmp_path / "out.mp4"
    with VideoWriter(out, info) as first:
        first.write(frames[0])
        with pytest.raises(HDTalkError, match=r"out\.mp4: another run is writing it"), VideoWriter(out, info):
            pass
        first.write(frames[1])
    assert probe(out).num_frames == 2 and sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_dark_hdr_has_no_steps_of_its_own():
    code = np.arange(65536, dtype=np.uint16)[None, :, None].repeat(3, 2)
    shown = np.unique(tone_map(code, 16, 1))
    assert shown[0] == 0 and np.diff(shown[:40].astype(int)).max() <= 3  # black is where the curve is steepest


def test_interlaced_is_read_with_a_notice(tmp_path, caplog):
    path = write_clip(
        tmp_path / "interlaced.mp4", numbered_frames(6), pixel_format="yuv420p", options={"x264-params": "tff=1"}
    )
    with caplog.at_level(logging.WARNING):
        assert probe(path).interlaced
    assert "interlaced" in caplog.text and len(list(read_frames(path))) == 6


def playlist(path, clip):
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n")


def concat_script(path, clip):
    path.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")


def no_index(path, clip):
    data = clip.read_bytes()
    start = data.index(b"moov") - 4
    assert start > data.index(b"mdat")
    path.write_bytes(data[:start])


def header_only(path, clip):
    data = write_clip(path.with_name("fast.mp4"), numbered_frames(9), container_options=FAST).read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 100])


def sound_only(path, clip):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 16000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def still_picture(path, clip):
    Image.fromarray(oriented_picture()).save(path, "PNG")


def cover_only(path, clip):
    sound_only(path, clip)
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"zzzz"))


FAST = {"movflags": "+faststart"}
BAD_INPUTS = {
    "missing": lambda path, clip: None,
    "folder": lambda path, clip: path.mkdir(),
    "pipe": lambda path, clip: os.mkfifo(path),
    "device": lambda path, clip: path.symlink_to("/dev/zero"),
    "dangling link": lambda path, clip: path.symlink_to("nowhere.mp4"),
    "empty": lambda path, clip: path.touch(),
    "text": lambda path, clip: path.write_text("not a video\n" * 100),
    "noise": lambda path, clip: path.write_bytes(np.random.default_rng(0).bytes(20000)),
    "html": lambda path, clip: path.write_text("<!doctype html><title>404</title>"),
    "playlist": playlist,
    "concat script": concat_script,
    "no index": no_index,
    "header only": header_only,
    "sound only": sound_only,
    "unknown codec": cover_only,
    "picture": still_picture,
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_inputs_are_refused_in_one_line(tmp_path, clip, kind):
    path = tmp_path / "input.mp4"
    BAD_INPUTS[kind](path, clip)
    if kind in ("playlist", "concat script"):
        (tmp_path / clip.name).write_bytes(clip.read_bytes())
    for call in (probe, lambda p: next(read_frames(p))):
        with pytest.raises(InputError) as caught:
            call(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    if kind == "no index":
        assert "moov" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a 'quoted\" name.mp4", "gesicht-\u4f60\u597d.mp4", "%03d.mp4", "http:x.mp4"]
)
def test_odd_file_names(tmp_path, monkeypatch, clip, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(clip.read_bytes())
    info = probe(name)
    out = Path("out-" + name)
    write_video(out, info, list(read_frames(name, 0, 3)))
    assert probe(out).num_frames == 3
    write_video(Path(name.replace("mp4", "mov")), info, list(read_frames(name, 0, 3)))


def test_cut_off_file_gives_its_readable_frames(tmp_path, caplog):
    whole = write_clip(tmp_path / "whole.mp4", numbered_frames(28), container_options=FAST, gop=7)
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    cut.write_bytes(data[: ends[17] - 20])
    with caplog.at_level(logging.WARNING):
        info = probe(cut)
    assert 8 < info.num_frames < 26 and "cut off" in caplog.text
    got = list(read_frames(cut))
    assert len(got) == info.num_frames
    assert source_numbers(got)[:-2] == list(range(28))[: info.num_frames - 2]


def test_damage_counts_by_what_is_read(tmp_path):
    """A long hole is refused, however long the video is; a scratch is not, however short the part."""
    whole = write_clip(tmp_path / "whole.mp4", numbered_frames(900), container_options=FAST, gop=8)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packets = sorted((p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size)
    for first, count in ((104, 16), (504, 80)):
        for _, position, size in packets[first : first + count]:
            data[position : position + size] = bytes(size)
    (tmp_path / "holes.mp4").write_bytes(data)
    assert len(list(read_frames(tmp_path / "holes.mp4", 96, 128))) == 32
    with pytest.raises(InputError, match="damaged: too many frames"):
        list(read_frames(tmp_path / "holes.mp4", 496, 560))


def test_damage_keeps_the_count_or_is_refused(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", numbered_frames(40), container_options=FAST, gop=8)
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packets = [(p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size]
    for pts, position, size in packets:
        if pts == packets[20][0]:
            data[position + 4 : position + size] = bytes(size - 4)
    (tmp_path / "scratched.mp4").write_bytes(data)
    assert len(list(read_frames(tmp_path / "scratched.mp4"))) == 40

    for _, position, size in packets[8:]:
        data[position : position + size] = bytes(size)
    (tmp_path / "ruined.mp4").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        list(read_frames(tmp_path / "ruined.mp4"))


def write_video(path, info, frames, soundtrack=None, **options):
    with VideoWriter(path, info, soundtrack, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("fps", [NTSC, Fraction(25), Fraction(24000, 1001), Fraction(2670, 91)])
def test_written_video_keeps_rate_size_and_count(tmp_path, clip, frames, suffix, fps):
    info = replace(probe(clip), fps=fps, pixel_aspect=Fraction(16, 15))
    out = write_video(tmp_path / f"out.{suffix}", info, frames[:20])
    written = probe(out)
    if suffix == "mkv" and fps == Fraction(2670, 91):  # Matroska names its rates in nanoseconds
        assert float(written.fps) == pytest.approx(float(fps), rel=1e-6)
    else:
        assert written.fps == fps
    assert (written.num_frames, written.width, written.height) == (20, 128, 96)
    assert (written.pixel_aspect, written.pixel_format) == (Fraction(16, 15), "yuv420p")
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]
    if suffix != "mkv":
        data = out.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sizes_are_kept(tmp_path):
    source = write_clip(tmp_path / "odd.mp4", numbered_frames(3, 97, 131))
    out = write_video(tmp_path / "out.mp4", probe(source), list(read_frames(source)))
    written = probe(out)
    assert (written.width, written.height, written.pixel_format) == (131, 97, "yuv444p")
    assert np.abs(next(read_frames(out)).astype(int) - next(read_frames(source))).mean() < 3


@pytest.mark.parametrize("codec", ["libx264", "h264", "hevc", "libsvtav1", "libvpx-vp9"])
def test_quality_reaches_every_encoder_that_has_one(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"FFmpeg was built without {codec}")
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 128, 3), np.uint8)
    info = probe(write_clip(tmp_path / "in.mp4", noise))
    fine, rough = (
        write_video(tmp_path / f"{crf}.mp4", info, noise, config=MediaConfig(codec=codec, crf=crf)) for crf in (10, 45)
    )
    assert fine.stat().st_size > 1.5 * rough.stat().st_size


def test_lossless_codec_is_exact(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 97, 131, 3), np.uint8)
    info = replace(probe(write_clip(tmp_path / "odd.mp4", noise)), colour=ColourTags(1, 1, 1, 1))
    out = write_video(tmp_path / "out.mkv", info, noise, config=MediaConfig(codec="ffv1"))
    np.testing.assert_array_equal(np.stack(list(read_frames(out))), noise)


@pytest.mark.parametrize("height, width", [(118, 170), (96, 128)])
def test_same_frames_give_the_same_file(tmp_path, height, width):
    """Bit for bit, whatever the memory held before: x264's AVX-512 code takes over some of it."""
    source = write_clip(tmp_path / "in.mp4", numbered_frames(30, height, width), pixel_format="yuv420p")
    frames, info = list(read_frames(source)), probe(source)
    random = np.random.default_rng(0)
    files = set()
    for _ in range(10):
        garbage = [random.bytes(size) for size in random.integers(1, 400_000, 20)]
        del garbage
        out = write_video(tmp_path / "out.mp4", info, frames, overwrite=True)
        files.add(out.read_bytes())
    assert len(files) == 1
    assert np.stack(list(read_frames(out))).shape == np.stack(frames).shape


def test_an_existing_output_is_left_alone(tmp_path, clip, frames):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        write_video(out, probe(clip), frames[:2])
    assert out.read_bytes() == b"precious"
    write_video(out, probe(clip), frames[:2], overwrite=True)
    assert probe(out).num_frames == 2


def test_an_output_that_appears_meanwhile_is_left_alone(tmp_path, clip, frames):
    out = tmp_path / "out.mp4"
    with pytest.raises(UsageError, match="appeared"), VideoWriter(out, probe(clip)) as writer:
        writer.write(frames[0])
        out.write_bytes(b"precious")
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"] and out.read_bytes() == b"precious"


@pytest.mark.parametrize("path", ["nowhere/out.mp4", "out.xyz", "out"])
def test_impossible_outputs_are_refused_first(tmp_path, clip, path):
    with pytest.raises(UsageError):
        VideoWriter(tmp_path / path, probe(clip))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path, clip, frames, error):
    with pytest.raises(error), VideoWriter(tmp_path / "out.mp4", probe(clip), overwrite=True) as writer:
        writer.write(frames[0])
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.zeros((96, 130, 3), np.uint8), np.zeros((96, 128, 3), np.float32)])
def test_a_frame_of_another_kind_is_refused(tmp_path, clip, bad):
    with pytest.raises(InputError, match="expected uint8 96x128x3"):
        write_video(tmp_path / "out.mp4", probe(clip), [bad])
    assert not list(tmp_path.iterdir())


def test_no_frames_at_all_is_an_error(tmp_path, clip):
    with pytest.raises(InputError):
        write_video(tmp_path / "out.mp4", probe(clip), [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, clip, existing):
    """The kernel's file size limit stands in for the disk: writes fail part way, as they do when it is full."""
    out = tmp_path / "out.mp4"
    if existing:
        out.write_bytes(b"precious")
    program = (
        "import resource, signal, sys\n"
        "import numpy as np\n"
        "from hdtalk.errors import ResourceError\n"
        "from hdtalk.media import VideoWriter, probe\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))\n"
        "noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)\n"
        "try:\n"
        "    with VideoWriter(sys.argv[2], probe(sys.argv[1]), overwrite=True) as writer:\n"
        "        for k in range(40): writer.write(np.roll(noise, 7 * k, 0))\n"
        "except ResourceError as error:\n"
        "    sys.exit(5)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(clip), str(out)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 5, run.stderr
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("out.mp4", b"precious")] if existing else [])


@pytest.mark.parametrize(
    "codec, suffix, options, cure",
    [
        ("prores_ks", "mov", {}, "pixel_format=yuv422p10le"),
        ("dnxhd", "mov", {}, "pixel_format="),
        ("mjpeg", "mp4", {}, "codec=libx264"),
        ("libvpx-vp9", "mov", {}, "codec=libx264"),
        ("gif", "mp4", {}, "pixel_format="),
        ("libx264", "mp4", {"preset": "hasty"}, "preset=medium"),
        ("libx264", "mp4", {"pixel_format": "pink"}, "pixel_format=yuv420p"),
    ],
)
def test_an_encoder_that_would_fail_is_refused_before_the_work(
    tmp_path, clip, monkeypatch, codec, suffix, options, cure
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = MediaConfig(codec=codec, **options)
    with pytest.raises(UsageError) as caught:
        check_encoder(config, f"out.{suffix}", probe(clip))
    for part in (f"'{codec}'", f".{suffix}", "128x96", cure):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_the_real_size_decides_and_a_good_encoder_leaves_nothing(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    even, odd = probe(clip), replace(probe(clip), width=129)
    for suffix in ("mp4", "mov", "mkv"):
        check_encoder(path=f"out.{suffix}", like=even)
        check_encoder(path=f"out.{suffix}", like=odd)
    with pytest.raises(UsageError, match="129x96 yuv420p"):
        check_encoder(MediaConfig(pixel_format="yuv420p"), "out.mp4", odd)
    assert not list(tmp_path.iterdir())
    check_encoder()
    with pytest.raises(UsageError, match="no_such_codec"):
        check_encoder(MediaConfig(codec="no_such_codec"))


def rms(samples):
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 1), (22050, 2), (44100, 2), (48000, 1)])
def test_speech_keeps_rate_channels_and_length(tmp_path, clip, frames, rate, channels):
    samples, _ = tone(1.0, rate, channels=channels)
    speech = write_wav(tmp_path / "speech.wav", samples, rate)
    out = write_video(tmp_path / "out.mp4", probe(clip), frames, Soundtrack(speech))
    got, got_rate = read_sound(out)
    assert (got_rate, got.shape[0]) == (rate, channels)
    assert got.shape[1] / rate == pytest.approx(1.0, abs=1100 / rate + 0.001)
    middle = slice(rate // 4, rate * 3 // 4)
    assert rms(got[:, middle]) == pytest.approx(rms(samples[:, middle]), rel=0.05)
    onset = np.flatnonzero(np.abs(got[0]) > 0.1)[0]
    assert onset / rate < 0.01  # the encoder's delay is compensated


def test_sound_ends_with_the_picture(tmp_path, clip, frames):
    speech = write_wav(tmp_path / "speech.wav", *tone(3.0))
    out = write_video(tmp_path / "out.mp4", probe(clip), frames[:30], Soundtrack(speech))
    got, rate = read_sound(out)
    assert got.shape[1] / rate == pytest.approx(30 / float(NTSC), abs=0.065)


def test_aac_speech_is_copied_bit_for_bit(tmp_path, clip, frames):
    with_sound = write_clip(tmp_path / "speech.mp4", numbered_frames(30), audio=tone(1.0, 44100, channels=2))
    out = write_video(tmp_path / "out.mp4", probe(clip), frames, Soundtrack(with_sound))

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    assert packets(out) == packets(with_sound)


@pytest.mark.parametrize("gain_db", [-6.0, -20.0])
def test_background_is_mixed_at_its_level(tmp_path, clip, frames, gain_db):
    speech = write_wav(tmp_path / "speech.wav", *tone(0.8, 16000, 500, 0.3))
    background = write_clip(tmp_path / "bg.mp4", numbered_frames(50), audio=tone(2.0, 44100, 1500, 0.4, 2), fps=NTSC)
    out = write_video(tmp_path / "out.mp4", probe(clip), frames, Soundtrack(speech, background, gain_db))
    got, rate = read_sound(out)
    assert rate == 16000 and got.shape[1] / rate == pytest.approx(50 / float(NTSC), abs=0.065)

    def level(start_s, hertz):
        part = got[0, int(start_s * rate) : int(start_s * rate) + rate // 4]
        carrier = np.exp(2j * np.pi * hertz * np.arange(len(part)) / rate)
        return 2 * abs((part * carrier).mean())

    assert level(0.3, 500) == pytest.approx(0.3, rel=0.05)
    for start_s in (0.3, 1.1):  # under the speech and after it
        assert level(start_s, 1500) == pytest.approx(0.4 * 10 ** (gain_db / 20), rel=0.1)
    assert level(1.1, 500) < 0.01


@pytest.mark.parametrize("kind", ["missing", "text", "no sound"])
def test_bad_speech_is_refused_and_nothing_written(tmp_path, clip, frames, kind):
    speech = tmp_path / "speech.wav"
    if kind == "text":
        speech.write_text("hello\n" * 50)
    elif kind == "no sound":
        speech.write_bytes(clip.read_bytes())
    with pytest.raises(InputError, match="speech.wav"):
        write_video(tmp_path / "out.mp4", probe(clip), frames[:3], Soundtrack(speech))
    assert {p.name for p in tmp_path.iterdir()} <= {"speech.wav"}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the developers' media are not beside this checkout")
@pytest.mark.parametrize("name, size, fps, count", [("clip_a", 590, 25, 75), ("clip_b", 512, 30, 91)])
def test_real_footage(tmp_path, name, size, fps, count):
    path = SHARED / f"{name}.mp4"
    info = probe(path)
    assert (info.width, info.height, info.fps, info.num_frames) == (size, size, fps, count)
    everything = list(read_frames(path))
    np.testing.assert_array_equal(next(read_frames(path, 40, 41)), everything[40])
    out = write_video(tmp_path / "out.mp4", info, everything[:30], Soundtrack(SHARED / "speech_jfk.wav"))
    error = np.mean((np.stack(list(read_frames(out))).astype(np.float32) - np.stack(everything[:30])) ** 2)
    assert 10 * np.log10(255**2 / error) > 42
