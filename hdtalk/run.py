"""The stages of a run on their artefacts: each method finds its result in the job or computes it there."""

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hdtalk
from hdtalk import audio, crop, face_landmarks, invert, media, optimise, regions, speech_landmarks, stitch
from hdtalk.ahead import read_ahead
from hdtalk.artefacts import Crops, Followed, Inversion, Patch, Stitched, Targets, pack
from hdtalk.config import EditConfig
from hdtalk.data import FaceTrack, SpeechFeatures, VideoInfo
from hdtalk.descent import tunable_weights
from hdtalk.domain import judge_domain
from hdtalk.errors import NoFaceError
from hdtalk.face_units import lip_gap
from hdtalk.files import file_hash, write_atomically
from hdtalk.follow import Follower
from hdtalk.images import shrink, to_crops, to_images
from hdtalk.inputs import PathLike, background_level_db, emotion_source
from hdtalk.job import Job, Stage, array_hash
from hdtalk.landmark_codes import shot_codes, shot_sample
from hdtalk.latent_space import latent_space
from hdtalk.metrics.ssim import ssim
from hdtalk.outputs import comparison_path, manifest_path, report_path
from hdtalk.plan import CROP_CHUNK, Plan, used_frames
from hdtalk.soundtrack import Soundtrack
from hdtalk.track import track_video
from hdtalk.weights import Bundle

log = logging.getLogger(__name__)

INVERSION_SCORES = ("encoder_psnr_db", "encoder_ssim", "encoder_lpips", "psnr_db", "ssim", "lpips")
STAGES = ("faces", "crops", "encoding", "pivots", "tuning", "speech", "optimisation", "stitching", "details")

Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass
class Run:
    """One run's inputs and surroundings, and its stages as methods in the order of the work."""

    config: EditConfig
    video: Path
    speech_path: Path | None
    speech: SpeechFeatures | None
    output: Path
    job_folder: Path
    info: VideoInfo
    first: int  # first source frame used
    num_source: int
    order: np.ndarray
    bundle: Bundle
    device: torch.device
    dtype: torch.dtype
    landmarks_px: np.ndarray | None
    track_px: np.ndarray | None
    report: Progress
    plan: Plan
    seconds: dict[str, float]
    video_hash: str = ""
    job: Job = dataclasses.field(init=False, repr=False)  # set where the folder is locked
    emotion: str | None = None
    emotion_from: PathLike | None = None
    emotion_speech: SpeechFeatures | None = None  # of `emotion_from`
    heard_hashes: dict[str, str] = dataclasses.field(default_factory=dict)  # of the files of both, as they were read
    emotion_note: dict[str, Any] | None = None  # in their place, where `landmarks_px` hold an emotion
    names: dict[str, str] = dataclasses.field(default_factory=dict)  # of landmarks_px and track_px: where they are from

    def find_face(self) -> FaceTrack:
        """Landmarks of the person in every used source frame."""
        self.video_hash = file_hash(self.video)
        with self._timed("faces"):
            inputs = {"video": self.video_hash, "frames": f"{self.first} {self.num_source}"}
            if self.track_px is not None:
                inputs["track"] = array_hash(self.track_px)
            inputs |= self._hashes("detector", "landmarker")
            stage = self.job.stage("faces", inputs=inputs, config=self.config.faces, version=2)
            if not stage.complete:
                track = self._track_faces()
                arrays = {"landmarks_px": track.landmarks_px, "present": track.present}
                stage.save(0, {name: np.asarray(array) for name, array in arrays.items()})
                stage.finish({"cuts": list(track.cuts), "num_faces": track.num_faces})
            arrays = stage.load(0)
        self.report("faces", self.num_source, self.num_source)
        cuts, num_faces = tuple(stage.table["cuts"]), stage.table["num_faces"]
        return FaceTrack(arrays["landmarks_px"], arrays["present"].astype(bool), None, cuts, num_faces)

    def cut_crops(self, face: FaceTrack) -> Crops:
        """Aligned crops of all frames that show the face, on disk."""
        rows = np.flatnonzero(face.present)
        if not len(rows):
            raise NoFaceError(
                f"{self.video}: no face in any frame. Expected one talking head; try --face, or another clip."
            )
        if not face.present[self.order].any():
            seen = self.first + rows[0]
            raise NoFaceError(
                f"{self.video}: no face in the {len(np.unique(self.order))} frames that the speech lasts; the first is "
                f"in frame {seen}. Try --trim-start {seen / float(self.info.fps):.2f}."
            )
        track = crop.crop_track(face, self.bundle.resolution, self.config.crop)
        inputs = {"video": self.video_hash, "quads": array_hash(track.quads_px), "rows": array_hash(rows)}
        inputs["frames"] = f"{self.first} {self.bundle.resolution}"
        with self._timed("crops"):
            stage = self.job.stage("crops", inputs=inputs)
            chunks = _split(rows, CROP_CHUNK)
            missing = [number for number in range(len(chunks)) if number not in stage.chunks]
            for number in missing:
                span = self.first + chunks[number][0], self.first + chunks[number][-1] + 1
                frames = enumerate(
                    read_ahead(media.read_frames(self.video, *span, self.config.media)), chunks[number][0]
                )
                shown = (frame for row, frame in frames if face.present[row])
                made = crop.crop_faces(shown, track.quads_px[chunks[number]], track.resolution)
                stage.save(number, {"crops": made})
                self.report("crops", int(chunks[number][-1]) + 1, self.num_source)
            if not stage.complete:
                stage.finish()
        return Crops(track, rows, stage)

    def invert(self, face: FaceTrack, crops: Crops) -> Inversion:
        """Pivots by the encoder, refined; then one generator tuned to all of them; then how well that went."""
        config, bundle = self.config.invert, self.bundle
        with self._timed("pivots"):
            inputs = {"crops": crops.stage.content_hash, "precision": str(self.dtype), "seed": str(self.config.seed)}
            inputs |= self._hashes("generator", "encoder", "perceptual")
            encoded, pivots, content_hash = self._find_pivots(face, crops, inputs)
        with self._timed("tuning"):
            inputs["landmarks"] = array_hash(face.landmarks_px)
            still = config.lambda_mouths > 0 and bundle.has("mouth_codes") and self._lips_are_still(crops, face)
            if still:
                config = dataclasses.replace(config, steps=min(config.steps, config.still_steps))
                inputs |= self._hashes("mouth_codes")
            tuning = self.job.stage("tuning", inputs={"pivots": content_hash, **inputs}, config=config, version=3)
            if not tuning.complete:
                made = invert.tune_generator(
                    bundle.generator, bundle.perceptual, pivots.to(self.device), crops.read, config,
                    read_weights=self._mouth_weights(crops, face),
                    mouth_offsets=bundle.mouth_codes.offsets() if still else None, dtype=self.dtype,
                    seed=self.config.seed, checkpoints=_Checkpoints(tuning),
                    progress=lambda done, total: self.report("tuning", done, total),
                )  # fmt: skip
                scores = self._score_inversion(crops, encoded, made.pivots.cpu(), made.generator)
                weights = {
                    f"weight.{name}": p.detach().cpu().numpy() for name, p in tunable_weights(made.generator).items()
                }
                tuning.save(_Checkpoints.FINAL, {"pivots": made.pivots.cpu().numpy(), **weights})
                tuning.finish({"losses": made.losses, **scores})
            for number in set(tuning.chunks) - {_Checkpoints.FINAL}:
                tuning.drop(number)
            arrays = tuning.load(_Checkpoints.FINAL)
            pivots = torch.from_numpy(arrays["pivots"])
            generator = _with_weights(bundle.generator, arrays)
            self.report("tuning", 1, 1)
        scores = {name: tuning.table[name] for name in INVERSION_SCORES}
        in_domain, notice = judge_domain(scores, bundle.files["encoder"][1].quality, bundle.name, self.video.name)
        return Inversion(pivots, generator, tuning.content_hash, scores, in_domain, notice)

    def speak(self, face: FaceTrack) -> Targets:
        """Target landmarks of every output frame."""
        source_px = face.landmarks_px[self.order]
        jumps = np.flatnonzero(np.abs(np.diff(self.order)) > 1) + 1
        shots = np.searchsorted(np.array(face.cuts, int), self.order, side="right")
        cuts = tuple(sorted({*jumps.tolist(), *(np.flatnonzero(np.diff(shots)) + 1).tolist()}))
        with self._timed("speech"):
            if self.landmarks_px is not None:
                landmarks_px = self.landmarks_px[: len(self.order)].astype(np.float32)
            else:
                inputs = {"speech": self.heard_hashes["speech"], "source": array_hash(source_px)}
                inputs |= {"fps": str(self.info.fps), "emotion": str(self.emotion), **self._hashes("speech")}
                inputs["shot"] = f"{self.video_hash} {self.first} {self.num_source}"
                if self.emotion_from is not None:
                    inputs["emotion_from"] = self.heard_hashes["emotion_from"]
                stage = self.job.stage("speech", inputs=inputs, config=self.config.speech, version=6)
                if not stage.complete:
                    stage.save(0, {"landmarks_px": self._predict_landmarks(source_px)})
                    stage.finish()
                landmarks_px = stage.load(0)["landmarks_px"]
            self.report("speech", len(self.order), len(self.order))
        return Targets(landmarks_px, source_px, face.landmarks_px, cuts, array_hash(landmarks_px))

    def follow(self, crops: Crops, inversion: Inversion, targets: Targets) -> Followed:
        """Codes whose pictures have the target landmarks, chunk by chunk; the anchors' solutions are chunk 0."""
        config, bundle = self.config.optimise, self.bundle
        outputs = np.flatnonzero(np.isin(self.order, crops.rows))
        place = np.searchsorted(crops.rows, self.order[outputs])  # of each edited output among the crops
        quads = crops.track.quads_px[self.order[outputs]]
        source_px, target_px = (
            crop.landmarks_to_crop(px[outputs], quads, crops.track.resolution)
            for px in (targets.source_px, targets.landmarks_px)
        )
        sample, shot_px = _sample(crops, targets)
        space = latent_space(bundle.generator, config, inversion.pivots[sample], self.config.seed)

        others = bundle.mouth_codes if bundle.has("mouth_codes") else None
        codes = shot_codes(space, shot_px, inversion.pivots[sample], crops.track.resolution, config, others)
        too_short = codes is None and config.latent_space == "shot" != space.name  # then codes stay near the pivots

        def frames(rows: np.ndarray) -> optimise.Frames:
            pivots, shown_px = inversion.pivots[place[rows]].to(self.device), source_px[rows] if too_short else None
            return optimise.Frames(crops.read(place[rows]), pivots, source_px[rows], target_px[rows], shown_px)

        networks = inversion.generator, bundle.landmarker, bundle.perceptual
        solve = partial(optimise.optimise_frames, *networks, space, config=config, dtype=self.dtype)
        displacements = ((target_px - source_px) / crops.track.resolution).reshape(len(outputs), -1)
        follower = Follower(solve, frames, displacements, config, codes, from_pivots=too_short)

        inputs = {"inversion": inversion.content_hash, **self._landmark_hashes(targets), "precision": str(self.dtype)}
        inputs |= {"seed": str(self.config.seed), **self._hashes("landmarker", "perceptual", "mouth_codes")}
        with self._timed("optimisation"):
            stage = self.job.stage("optimisation", inputs=inputs, config=self.config.optimise)
            groups = [(part, run) for run in _runs(outputs, targets.cuts) for part in _split(run, config.chunk_frames)]
            done = len(follower.anchor_rows)
            anchors, total = None, done + len(outputs)
            if done:
                if 0 not in stage.chunks:
                    solution = follower.solve_anchors(self._part_of("optimisation", 0, total))
                    stage.save(0, {"coordinates": solution.coordinates.cpu().numpy(), **_loss_arrays(solution)})
                anchors = torch.from_numpy(stage.load(0)["coordinates"]).to(self.device)
            for number, (rows, run) in enumerate(groups, 1):
                if number not in stage.chunks:
                    begins = rows[0] == run[0]
                    before = None if begins else torch.from_numpy(stage.load(number - 1)["ws"][-1]).to(self.device)
                    progress = self._part_of("optimisation", done, total)
                    solution, fields = follower.solve_chunk(rows, run, anchors, before, progress)
                    bent = {} if fields is None else {"fields": fields}
                    stage.save(number, {"ws": solution.ws.cpu().numpy(), **bent, **_loss_arrays(solution)})
                done += len(rows)
                self.report("optimisation", done, total)
            if not stage.complete:
                losses = {name: f"loss.{name}" for name in ("total", "start", "lpips", "landmarks")}
                stage.finish(_means(stage, {number: len(rows) for number, (rows, _) in enumerate(groups, 1)}, losses))
        scores = {
            f"objective_{name}" if name in ("total", "start") else f"loss_{name}": v for name, v in stage.table.items()
        }
        beyond = float(too_short) if codes is None else float(codes.beyond_reach(target_px).mean())
        if beyond > 0.5 and others is None:
            log.warning(
                "%s: %.0f %% of the wanted mouths are beyond what the shot shows of this mouth, and come out soft. "
                "A shot in which the person speaks gives better ones.",
                *(self.video, 100 * beyond),
            )
        if codes is not None or too_short:  # otherwise codes do not start from what the shot shows
            scores["mouths_beyond_shot"] = round(beyond, 4)
        return Followed(outputs, stage, [outputs[rows] for rows, _ in groups], scores)

    def stitch(self, crops: Crops, inversion: Inversion, targets: Targets, followed: Followed) -> Stitched:
        """Edited crops whose boundary meets the frame, and what of them to paste."""
        lower_face = self._lower_face(crops, targets)
        sample, shot_px = _sample(crops, targets)
        side, shot_pivots = crops.track.resolution, inversion.pivots[sample]
        inputs = {"optimisation": followed.stage.content_hash, "crops": crops.stage.content_hash}
        inputs |= {"inversion": inversion.content_hash, "precision": str(self.dtype), **self._hashes("parser")}
        inputs |= self._landmark_hashes(targets)
        with self._timed("stitching"):
            stage = self.job.stage("stitching", inputs=inputs, config=self.config.stitch, version=2)
            done, total = 0, len(followed.outputs)
            for number, outputs in enumerate(followed.chunks):
                if number not in stage.chunks:
                    place = np.searchsorted(crops.rows, self.order[outputs])
                    solved = followed.stage.load(number + 1)
                    quads_px = crops.track.quads_px[self.order[outputs]]
                    target_px = crop.landmarks_to_crop(targets.landmarks_px[outputs], quads_px, side)
                    lenders = stitch.find_lenders(
                        lambda rows: crops.read(sample[rows]), shot_pivots, shot_px, target_px, side, self.config.stitch
                    )
                    made = stitch.stitch_frames(
                        inversion.generator, self.bundle.parser, crops.read(place),
                        inversion.pivots[place].to(self.device), torch.from_numpy(solved["ws"]).to(self.device),
                        self.config.stitch, lower_face=None if lower_face is None else lower_face(outputs),
                        fields=solved.get("fields"), lenders=lenders, dtype=self.dtype,
                        progress=self._part_of("stitching", done, total),
                    )  # fmt: skip
                    arrays = {f"crop.{i}": pack(c.transpose(1, 2, 0)) for i, c in enumerate(made.crops)}
                    arrays |= {f"alpha.{i}": pack(a) for i, a in enumerate(made.alpha)}
                    if lenders is not None:
                        arrays |= {"lenders": sample[lenders.rows], "lent_fields": lenders.fields}
                        arrays |= {f"lent.{i}": pack(share) for i, share in enumerate(made.lent)}
                    stage.save(number, arrays | {"border": made.border, "border_before": made.border_before})
                done += len(outputs)
                self.report("stitching", done, total)
            if not stage.complete:
                borders = {name: name for name in ("border_before", "border")}
                stage.finish(_means(stage, dict(enumerate(map(len, followed.chunks))), borders))
            details = self._finer_details(crops, stage)
        return Stitched(stage, details, followed.chunks, dict(stage.table))

    def write(self, crops, stitched: Stitched | None, inversion) -> tuple[int, dict[str, list[int]]]:
        """The output video: source frames with the edited (or reconstructed) faces pasted in."""
        config, num_edited, kept = self.config, 0, []
        patches = iter(stitched if stitched is not None else self._reconstructions(crops, inversion))
        patch = next(patches, None)
        with self._timed("writing"):
            writer = media.VideoWriter(self.output, self.info, self._soundtrack(), config.overwrite, config.media)
            with writer:
                frames = media.read_frames_in_order(self.video, self.first + self.order, config=config.media)
                for output, frame in enumerate(read_ahead(frames)):
                    if patch is not None and patch.output == output:
                        quad_px = crops.track.quads_px[self.order[output]]
                        frame = crop.paste_back(frame, patch.picture, patch.alpha, quad_px, config.crop, patch.loan)
                        patch, num_edited = next(patches, None), num_edited + 1
                    else:
                        kept.append(output)
                    writer.write(frame)
                    self.report("writing", output + 1, len(self.order))
        self.job.claim(self.output)
        return num_edited, {"no face": kept} if kept else {}

    def compare(self, targets: Targets) -> Path:
        """OUT_compare: original, landmarks and edited side by side."""
        from hdtalk import compare

        path = comparison_path(self.output)
        with self._timed("comparison"):
            compare.write_comparison(
                self.video, self.output, path, targets.landmarks_px, self.first + self.order, media=self.config.media
            )
        self.job.claim(path)
        return path

    def write_manifest(self, scores, inversion: Inversion, kept, num_edited: int) -> Path:
        """OUT.json: what was done, with what, how long it took and how good it is."""
        inputs = {"video": {"path": str(self.video), "sha256": self.video_hash}}
        for name, path in (("speech", self.speech_path), ("emotion_from", self.emotion_from)):
            if path is not None:
                inputs[name] = {"path": str(path), "sha256": self.heard_hashes[name]}
        for name, px in (("landmarks", self.landmarks_px), ("track", self.track_px)):
            if px is not None:
                inputs[name] = {"path": self.names[name], "sha256": array_hash(px)}
        content = {
            "hdtalk": hdtalk.__version__,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "inputs": inputs,
            "output": {"path": str(self.output), "frames": len(self.order), "fps": str(self.info.fps)},
            "emotion": self.emotion_note or emotion_source(self.emotion, self.emotion_from),
            "bundle": {"name": self.bundle.name, "resolution": self.bundle.resolution, "sha256": self.bundle.hashes},
            "device": str(self.device),
            "precision": str(self.dtype).removeprefix("torch."),
            "configuration": dataclasses.asdict(self.config),
            "frames": {"edited": num_edited, "kept": kept},
            "scores": scores,
            "domain": {"inside": inversion.in_domain, "notice": inversion.domain_notice},
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
        }
        path = manifest_path(self.output)
        write_atomically(path, (json.dumps(content, indent=1, default=str) + "\n").encode())
        self.job.claim(path)
        return path

    def write_report(self, manifest: Path, targets: Targets) -> Path:
        """OUT_report.html: the run on one page."""
        from hdtalk import report

        return report.write_report(
            report_path(self.output),
            json.loads(manifest.read_text()),
            self.job_folder,
            self.video,
            self.output,
            self.first + self.order,
            targets.source_px,
            targets.landmarks_px,
            self.config.media,
        )

    # ------------------------------------------------------------------------------------- parts of stages

    def _find_pivots(self, face: FaceTrack, crops: Crops, inputs) -> tuple[torch.Tensor, torch.Tensor, str]:
        """The encoder's codes, the pivots [n, num_ws, 512] made of them (both on the CPU), and the latter's hash."""
        config, bundle, count = self.config.invert, self.bundle, len(crops.rows)
        chunks = [part for run in _runs(crops.rows, face.cuts) for part in _split(run, config.chunk_frames)]
        encoding = self.job.stage("encoding", inputs=inputs, config=config.chunk_frames, version=2)
        for number, indices in enumerate(chunks):
            if number not in encoding.chunks:
                ws = invert.encode_pivots(bundle.encoder, crops.read(indices), config.batch_size, self.dtype)
                encoding.save(number, {"ws": ws.cpu().numpy()})
        if not encoding.complete:
            encoding.finish()
        encoded = torch.from_numpy(np.concatenate([encoding.load(number)["ws"] for number in range(len(chunks))]))
        stage = self.job.stage(
            "pivots", inputs={"encoding": encoding.content_hash, **inputs}, config=_pivot_settings(config), version=2
        )
        networks = (bundle.generator, bundle.perceptual)
        if 0 not in stage.chunks:
            offset = invert.shared_offset(
                *networks, encoded.to(self.device), crops.read, config, self.dtype, self.config.seed
            )
            stage.save(0, {"offset": offset.cpu().numpy()})
        offset = torch.from_numpy(stage.load(0)["offset"])
        for number, indices in enumerate(chunks, 1):
            if number not in stage.chunks:
                start = (encoded[indices] + offset).to(self.device)
                ws = invert.refine_pivots(*networks, crops.read(indices), start, config, self.dtype)
                stage.save(number, {"ws": ws.cpu().numpy()})
            self.report("pivots", int(indices[-1]) + 1, count)
        if not stage.complete:
            stage.finish()
        pivots = torch.from_numpy(np.concatenate([stage.load(number)["ws"] for number in range(1, len(chunks) + 1)]))
        return encoded, pivots, stage.content_hash

    def _track_faces(self) -> FaceTrack:
        if self.track_px is not None:
            return face_landmarks.known_track(self.track_px)
        return track_video(
            self.info, self.first, self.first + self.num_source, self.bundle, self.config, self._looked_at(),
            lambda done, total: self.report("faces", done, total),
        )  # fmt: skip

    def _looked_at(self) -> str:
        """The video's name, and which part of it, where that is not all that was asked for."""
        end = used_frames(self.info, self.config)[1]
        last = self.first + self.num_source
        return str(self.video) if last == end else f"{self.video}, frames {self.first} to {last - 1} (see --trim-start)"

    def _part_of(self, stage: str, done: int, total: int) -> Callable[[int, int], None]:
        """Progress of a part of a stage that begins when `done` of `total` are."""
        return lambda n, _: self.report(stage, done + n, total)

    def _predict_landmarks(self, source_px: np.ndarray) -> np.ndarray:
        assert self.speech is not None
        return speech_landmarks.predict_landmarks(
            self.speech,
            source_px,
            self.info.fps,
            model=self.bundle.speech,
            emotion=self.emotion,
            emotion_from=self.emotion_speech,
            shot_speech=self.shot_speech(),
            config=self.config.speech,
            progress=lambda done, total: self.report("speech", done, total),
        )

    def shot_speech(self) -> SpeechFeatures | None:
        """What the used part of the shot says itself."""
        fps = float(self.info.fps)
        return audio.read_shot_speech(self.video, self.first / fps, (self.first + self.num_source) / fps)

    def _mouth_weights(self, crops: Crops, face: FaceTrack):
        """Pixel weights of equation (4)'s L2 by the frames' places among the crops, or None when all weigh the same."""
        weight, side = self.config.invert.mouth_pixels, crops.track.resolution
        if weight == 1:
            return None

        def read(indices: np.ndarray) -> np.ndarray:
            rows = crops.rows[indices]
            landmarks_px = crop.landmarks_to_crop(face.landmarks_px[rows], crops.track.quads_px[rows], side)
            return 1 + (weight - 1) * regions.mouth_mask(landmarks_px, side)

        return read

    def _lips_are_still(self, crops: Crops, face: FaceTrack) -> bool:
        """Whether the shot hardly shows the mouth open: its generator would forget how mouths do."""
        quads_px, side = crops.track.quads_px[crops.rows], crops.track.resolution
        gaps = lip_gap(crop.landmarks_to_crop(face.landmarks_px[crops.rows], quads_px, side)) / side
        return float(np.subtract(*np.percentile(gaps, [95, 5]))) < self.config.invert.still_lips

    def _lower_face(self, crops: Crops, targets: Targets) -> Callable[[np.ndarray], np.ndarray] | None:
        """Masks of mouth and jaw by output frame where only they are pasted (region lower, or auto decides so)."""
        config, side = self.config.stitch, crops.track.resolution
        quads = crops.track.quads_px[self.order]
        source_px, target_px = (
            crop.landmarks_to_crop(px, quads, side) for px in (targets.source_px, targets.landmarks_px)
        )
        if not stitch.lower_face_alone(source_px, target_px, side, config):
            return None
        return lambda outputs: regions.lower_face_mask(source_px[outputs], target_px[outputs], side)

    def _score_inversion(self, crops: Crops, encoded, pivots, generator) -> dict[str, float]:
        """PSNR, SSIM and LPIPS of reconstructed crops, before tuning (by the encoder alone) and after, on at most 48
        frames."""
        chosen = np.unique(np.linspace(0, len(crops.rows) - 1, 48).round().astype(int))
        sums = dict.fromkeys(INVERSION_SCORES, 0.0)
        for index in chosen:
            source = crops.read(np.array([index]))
            target = to_images(source, self.device)
            side = self.config.invert.perceptual_side
            for prefix, network, ws in (("encoder_", self.bundle.generator, encoded), ("", generator, pivots)):
                made = invert.reconstruct(network, ws[index : index + 1].to(self.device), 1, self.dtype)
                error = ((made - target) / 2).square().mean().clamp_min(1e-10)
                sums[f"{prefix}psnr_db"] += float(-10 * error.log10())
                sums[f"{prefix}ssim"] += float(ssim(*(x.transpose(0, 2, 3, 1) for x in (to_crops(made), source)))[0])
                with torch.no_grad():
                    sums[f"{prefix}lpips"] += float(self.bundle.perceptual(shrink(made, side), shrink(target, side)))
        return {name: round(total / len(chosen), 4) for name, total in sums.items()}

    def _soundtrack(self):
        start_s = float(self.first / self.info.fps)
        if self.speech_path is None:
            own = Soundtrack(self.video, config=self.config.media, start_s=start_s)
            return own if self.info.has_audio else None
        background_db = background_level_db(self.config.audio_mix)
        if background_db is None or not self.info.has_audio:
            return Soundtrack(self.speech_path, config=self.config.media)
        length_s = float(self.num_source / self.info.fps)
        return Soundtrack(self.speech_path, self.video, background_db, start_s, self.config.media, None, length_s)

    def _finer_details(self, crops: Crops, stitching: Stage) -> Stage:
        """What the frames that lend have finer than their crops show, in one pass over the video."""
        inputs = {"stitching": stitching.content_hash, "crops": crops.stage.content_hash}
        config = {"back_projections": self.config.crop.back_projections}
        stage = self.job.stage("details", inputs=inputs, config=config)
        if stage.complete:
            return stage
        lenders = {int(place) for number in stitching.chunks for place in stitching.load(number).get("lenders", ())}
        quads_px, side = crops.track.quads_px, crops.track.resolution
        wanted = {crops.rows[place]: place for place in lenders if crop.side_px(quads_px[crops.rows[place]]) > side}
        if wanted:
            span = self.first + min(wanted), self.first + max(wanted) + 1
            for row, frame in enumerate(media.read_frames(self.video, *span, self.config.media), min(wanted)):
                detail = crop.finer_detail(frame, quads_px[row], side, self.config.crop) if row in wanted else None
                if detail is not None:
                    stage.save(wanted[row], {"picture": pack(detail.picture), "quad_px": detail.quad_px})
        stage.finish()
        return stage

    def _reconstructions(self, crops: Crops, inversion: Inversion) -> Iterator[Patch]:
        side = crops.track.resolution
        position = np.minimum(np.arange(side), np.arange(side)[::-1]) / max(1, side * 0.06)
        alpha = (np.minimum(1, np.minimum.outer(position, position)) * 255).astype(np.uint8)
        for index in range(0, len(crops.rows), 8):
            made = invert.reconstruct(
                inversion.generator, inversion.pivots[index : index + 8].to(self.device), 4, self.dtype
            )
            for row, picture in zip(crops.rows[index : index + 8], to_crops(made), strict=True):
                yield Patch(int(row), picture, alpha)

    def _hashes(self, *roles: str) -> dict[str, str]:
        found = self.bundle.hashes
        return {role: found.get(role) or "none" for role in roles}

    def _landmark_hashes(self, targets: Targets) -> dict[str, str]:
        source = array_hash(targets.face_px)
        return {"targets": targets.content_hash, "source": source, "order": array_hash(self.order)}

    def _timed(self, stage: str):
        return _Timed(self.seconds, stage)


class _Timed:
    def __init__(self, seconds: dict[str, float], stage: str):
        self.seconds, self.stage = seconds, stage

    def __enter__(self) -> None:
        self.started = time.monotonic()
        log.info("%s ...", self.stage)

    def __exit__(self, *_) -> None:
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.monotonic() - self.started


class _Checkpoints:
    """The tuning stage's chunks as checkpoints: numbered by their step, the newest one kept."""

    FINAL = 0  # the first checkpoint is that after step 1

    def __init__(self, stage: Stage):
        self.stage = stage

    def load(self) -> tuple[int, dict[str, np.ndarray]] | None:
        numbers = [number for number in self.stage.chunks if number != self.FINAL]
        return (numbers[-1], self.stage.load(numbers[-1])) if numbers else None

    def save(self, step: int, arrays: dict[str, np.ndarray]) -> None:
        older = self.stage.chunks
        self.stage.save(step, arrays)
        for number in older:
            self.stage.drop(number)


def _pivot_settings(config) -> dict[str, Any]:
    """The settings that the pivots depend on."""
    names = ["chunk_frames", "batch_size", "shared_steps", "refine_steps", "refine_every", "refine_rate"]
    names += ["refine_pull", "lambda_l2", "lambda_lpips", "perceptual_side"]
    return {name: getattr(config, name) for name in names}


def _with_weights(generator, arrays: dict[str, np.ndarray]):
    import copy

    tuned = copy.deepcopy(generator)
    with torch.no_grad():
        for name, parameter in tunable_weights(tuned).items():
            parameter.copy_(torch.from_numpy(arrays[f"weight.{name}"]))
    return tuned


def _means(stage: Stage, sizes: Mapping[int, int], names: Mapping[str, str]) -> dict[str, float]:
    """Name -> mean of an array over these chunks (number -> frames), of which nothing else is read."""

    def values(array: str) -> np.ndarray:
        return np.concatenate([stage.read_rows(number, array, np.arange(size)) for number, size in sizes.items()])

    return {name: float(values(array).mean()) for name, array in names.items()}


def _loss_arrays(solution: optimise.Solution) -> dict[str, np.ndarray]:
    return {**{f"loss.{name}": values for name, values in solution.losses.items()}, "steps": solution.steps}


def _runs(frames: np.ndarray, cuts: tuple[int, ...]) -> list[np.ndarray]:
    """Rows of `frames` as runs of consecutive ones that no cut parts; `cuts` are counted as the frames are."""
    breaks = [r for r in range(1, len(frames)) if frames[r] != frames[r - 1] + 1 or int(frames[r]) in cuts]
    return np.split(np.arange(len(frames)), breaks)


def _split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _sample(crops: Crops, targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """Frames that stand for the shot, by their place among the crops, and their landmarks in them, `[N, 68, 2]`."""
    sample = shot_sample(len(crops.rows))
    rows = crops.rows[sample]
    return sample, crop.landmarks_to_crop(targets.face_px[rows], crops.track.quads_px[rows], crops.track.resolution)
