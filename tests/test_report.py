"""The report page of a small made-up run: its pictures, charts and tables hold what the run holds, and nothing else."""

import base64
import re
from fractions import Fraction
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from clips import write_clip

from hdtalk.job import Job
from hdtalk.report import write_report

NUM_FRAMES = 12


class Page(HTMLParser):
    """Collects what a browser would see; unbalanced tags fail."""

    VOID = {"meta", "img", "br", "line"}

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.images, self.polylines, self.headings, self.links = [], [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if name in attributes]
        if tag == "img":
            data = base64.b64decode(attributes["src"].removeprefix("data:image/jpeg;base64,"))
            self.images.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
        if tag == "polyline":
            self.polylines.append([tuple(map(float, p.split(","))) for p in attributes["points"].split()])
        if tag == "tr":
            self.rows.append([])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.rows and self.open and self.open[-1] in ("th", "td"):
            self.rows[-1].append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(source, output, order, landmarks, job folder, manifest) of a run that shows the source backwards, in red."""
    folder = tmp_path_factory.mktemp("run")
    grey = np.stack([np.full((64, 96, 3), 20 * index, np.uint8) for index in range(NUM_FRAMES)])
    order = np.arange(NUM_FRAMES)[::-1].copy()
    red = grey[order].copy()
    red[..., 0] = 255
    source = write_clip(folder / "source.mp4", grey, Fraction(25))
    output = write_clip(folder / "out <b>.mp4", red, Fraction(25))
    points = np.random.default_rng(0).uniform([40, 20], [60, 40], (NUM_FRAMES, 68, 2)).astype(np.float32)
    with Job(folder / "job") as job:
        tuning = job.stage("tuning", inputs={})
        tuning.finish({"losses": [1.0, 0.1, float("inf"), 0.01, 0.001]})
        optimisation = job.stage("optimisation", inputs={})
        optimisation.save(0, {"loss.start": np.full(3, 99, np.float32), "coordinates": np.zeros((3, 1, 2), np.float32)})
        for number, base in ((1, 4.0), (2, 6.0)):
            values = np.array([base, base + 1], np.float32)
            names = ("loss.start", "loss.total", "loss.lpips", "loss.landmarks")
            optimisation.save(number, {name: values / (k + 1) for k, name in enumerate(names)})
        optimisation.finish({})
    manifest = {
        "inputs": {"video": {"path": "/home/x/source.mp4"}, "speech": {"path": "speech.wav"}},
        "output": {"frames": NUM_FRAMES},
        "bundle": {"name": "demo", "resolution": 256, "sha256": {"generator": "abc"}},
        "frames": {"edited": 8, "kept": {"no face": [3, 4, 5, 9]}},
        "seconds": {"tuning": 30.0, "optimisation": 10.0},
        "scores": {"psnr_db": 31.234567, "brand_new_score": 2.0},
        "configuration": {"seed": 7, "optimise": {"steps": 40}},
        "domain": {"inside": False, "notice": "outside <the> domain"},
    }
    return source, output, order, points, folder / "job", manifest


@pytest.fixture(scope="module")
def text(run, tmp_path_factory):
    source, output, order, points, job, manifest = run
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(path, manifest, job, source, output, order, points, points).read_text()


def test_the_page_is_whole_and_asks_nothing_of_the_network(text):
    page = Page(text)
    assert page.headings[:4] == ["Frames", "Losses", "Time", "Scores"]
    assert all(link.startswith("data:") for link in page.links)
    assert "http" not in re.sub(r"base64,[^']*", "", text) and "<script" not in text


def test_names_are_escaped(text):
    assert "out &lt;b&gt;.mp4" in text and "out <b>" not in text
    assert "outside &lt;the&gt; domain" in text and "notice bad" in text


def test_the_film_strip_shows_source_target_and_edited_frames_in_order(text):
    images = Page(text).images
    assert len(images) == 24
    for column, index in enumerate(np.linspace(0, 11, 8).round().astype(int)):
        source, target, edited = images[column], images[8 + column], images[16 + column]
        assert abs(source.mean() - 20 * (11 - index)) < 4  # the output shows the source backwards
        assert edited[..., 0].mean() > 240 and abs(edited[..., 1].mean() - 20 * (11 - index)) < 6
        assert target[..., 1].max() > 150  # the pen is green


def test_curves_have_the_losses_shape(text):
    """The tuning curve falls by a decade per step, so on a log axis it is straight; its infinite value is a gap."""
    first, second, *others = Page(text).polylines
    assert [len(first), len(second)] == [2, 2]
    slope = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in ((first[0], first[1]), (second[0], second[1]))]
    assert slope[0] == pytest.approx(slope[1], rel=0.01) and slope[0] > 0  # downwards on the screen
    before, after = others[0], others[1]
    assert len(before) == len(after) == 4  # chunks 1 and 2 joined, the anchors of chunk 0 left out
    assert all(low[1] > high[1] for low, high in zip(after, before, strict=True))
    assert text.count("<figure>") == 3  # nothing about stitching, which this run does not have


def test_tables_hold_times_scores_kept_frames_and_settings(text):
    rows = Page(text).rows
    assert ["tuning", "30.0 s"] in rows and "width:75.0%" in text
    assert ["inversion after tuning, PSNR (dB)", "31.235"] in rows and ["brand_new_score", "2"] in rows
    assert ["no face", "4", "3-5, 9"] in rows
    assert ["seed", "7"] in rows and ["steps", "40"] in rows and ["generator", "abc"] in rows


def test_a_run_without_landmarks_or_job_still_gets_its_page(run, tmp_path):
    source, output, order, _, _, _ = run
    text = write_report(tmp_path / "r.html", {}, tmp_path / "gone", source, output, order).read_text()
    page = Page(text)
    assert len(page.images) == 16 and page.images[0].shape[:2] == (64, 96)
    assert page.polylines == [] and "every frame was edited" in text


def test_edit_writes_the_report_of_a_real_run(tiny_bundle_folder, tiny_shot, tmp_path):
    from hdtalk.pipeline import edit_video

    video, track, speech = tiny_shot
    result = edit_video(
        video, speech, tmp_path / "out.mp4", bundle=str(tiny_bundle_folder), landmarks=track[::-1].copy(), track=track,
        report=True, precision="float32", invert={"steps": 4, "refine_steps": 1},
        optimise={"steps": 2, "warm_steps": 1, "anchors": 2}, stitch={"steps": 1},
    )  # fmt: skip
    page = Page((tmp_path / "out_report.html").read_text())
    assert len(page.images) == 24 and len(page.polylines) >= 4
    losses = next(line for line in page.polylines if len(line) == 10)  # one point per edited frame
    assert all(np.diff([x for x, _ in losses]) > 0)
    assert ["optimisation", f"{result.seconds['optimisation']:.1f} s"] in page.rows
