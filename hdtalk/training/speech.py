"""Trains the speech networks in the four stages: emotion classifier, cross-reconstruction, alignment, predictor.

Every stage is a `Task` of the common loop, so it is seeded, resumable and leaves curves. Batches are drawn and worsened
on the training device (speech_bank.py, row_augment.py). Under torchrun each process draws its own batches and gradients
are averaged.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hdtalk.data import SpeechFeatures
from hdtalk.emotion import own_voice
from hdtalk.errors import InputError
from hdtalk.face_units import LIPS_INNER_LOWER, LIPS_INNER_UPPER, lip_gap, mouth_width
from hdtalk.models.speech import (
    EMOTIONS,
    VOICED_ABOVE,
    SpeechModel,
    freed_of_voice,
    relative_to_voice,
    spoken_rows,
    voices_of,
)
from hdtalk.models.speech_decoder import SpeechDecoder
from hdtalk.training.dtw import warp_rows_of
from hdtalk.training.landmark_warp import distort, warp_expression
from hdtalk.training.loop import Task, TrainConfig
from hdtalk.training.mead import LEVEL_STRENGTH
from hdtalk.training.row_augment import RowAugment
from hdtalk.training.speech_bank import SpeechBank, ViewBank, rows_of
from hdtalk.training.speech_data import FPS, Take
from hdtalk.windows import STRETCH_ROWS, WINDOW_ROWS, num_video_frames, silent_frames, stretch_of_rows

CROP_FRAMES = 50  # two seconds of a take per item of stage 4
MARGIN_ROWS = 80  # heard on both sides of a stretch, so that its mean and loudness are about the recording's
EMOTION_FRAMES = 100  # of stages 1 and 2, for the emotion: most takes from end to end, as endings tell much
STRETCH_FRAMES = 12  # of stage 2, for the content


class SpeechTask(Task):
    """Shared by the stages: the model, its takes, and averaging of gradients over processes."""

    averaged = ("model",)

    def __init__(self, config: TrainConfig, model: SpeechModel, takes: list[Take], validation: list[Take]):
        super().__init__(config)
        if reason := why_not(self.name, takes, validation):
            raise InputError(reason)
        self.model, self.takes, self.validation = model.to(self.device), takes, validation
        self.worsen = RowAugment(self.device)
        self.timbre = torch.tensor([5.0] * 4 + [3.0] * 4 + [1.5] * 4, device=self.device)
        self.rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.networks = {"model": self.model}

    def optimise(self, *networks: nn.Module) -> None:
        parameters = [p for network in networks for p in network.parameters()]
        for parameter in self.model.parameters():
            parameter.requires_grad_(any(parameter is p for p in parameters))
        rate = self.config.learning_rate
        self.optimisers = {"main": torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)}

    def share_gradients(self, parameters):
        if torch.distributed.is_initialized():
            for parameter in parameters:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad, torch.distributed.ReduceOp.AVG)

    def own(self, rng: np.random.Generator) -> np.random.Generator:
        """The step's generator of this process; torch's is seeded alike."""
        rng = np.random.default_rng((int(rng.integers(1 << 62)), self.rank))
        if self.rank:
            torch.manual_seed(int(rng.integers(1 << 62)))
        return rng

    def hear(self, bank: SpeechBank, sounds, start_frame, num_frames: int, amount: float):
        """Rows `[N, 4F + 24 + 2 M, 18]` of stretches with a margin of M rows on both sides, worsened in `amount` of
        them, and where they hold speech, bool `[N, 4F + 24 + 2 M]`."""
        first = STRETCH_ROWS * start_frame + bank.first_of_window - MARGIN_ROWS
        rows, silent = bank.stretch(sounds, first, rows_of(num_frames) + 2 * MARGIN_ROWS)
        if not amount:
            return rows, ~silent
        rows, silent = self.worsen(rows, silent, bank.level_db[sounds], amount)
        return rows, ~silent

    def words(self, rows: torch.Tensor, speaking: torch.Tensor) -> torch.Tensor:
        """What the content encoder sees of rows `[N, R, 18]`; while it learns, their energy is as louder or softer
        recordings, more or less compressed, have it."""
        heard = freed_where_spoken(rows, speaking)
        if self.model.training:
            span = torch.exp(0.15 * torch.randn(len(rows), 1, 1, device=self.device))
            level = 0.1 * torch.randn(len(rows), 1, 1, device=self.device)
            heard = torch.cat([heard[..., :12], heard[..., 12:] * span + level], -1)
        return heard[..., : self.model.content_encoder.num_features]

    def voice_codes(self, bank: SpeechBank, takes: torch.Tensor, amount: float = 0.6):
        """Emotion codes `[N, F, e]` of a random stretch of each take, worsened, of other pitch and timbre, as of other
        people; and weights `[N, F]` that leave its pauses out of a mean."""
        sounds, n = bank.draw_sounds(takes), len(takes)
        spare = bank.num_rows[sounds] // STRETCH_ROWS - EMOTION_FRAMES  # negative: the take fits in
        start = spare.clamp(max=0) + (torch.rand(n, device=self.device) * (spare.abs() + 1)).long()
        rows, speaking = self.hear(bank, sounds, start, EMOTION_FRAMES, amount)
        voiced = rows[..., 13:14] > VOICED_ABOVE
        timbre = torch.randn(n, 1, 12, device=self.device) * self.timbre
        pitch = torch.randn(n, 1, 1, device=self.device) * voiced * 0.25
        rows = rows + torch.cat([timbre.expand(-1, rows.shape[1], -1), pitch, torch.zeros_like(rows[..., 13:])], -1)
        voice = voices_of(rows, speaking)
        rows, speaking = rows[:, MARGIN_ROWS:-MARGIN_ROWS], speaking[:, MARGIN_ROWS:-MARGIN_ROWS]
        with self.autocast():
            codes = self.model.emotion(rows, voice).float()
        centre = STRETCH_ROWS * torch.arange(EMOTION_FRAMES, device=self.device) + WINDOW_ROWS // 2
        weights = speaking[:, centre] + 1e-3
        return codes, weights / weights.sum(1, keepdim=True)

    def tensor(self, array) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array, np.float32)).to(self.device)


class EmotionTask(SpeechTask):
    """Stage 1: the emotion encoder learns to tell the emotion of a stretch of speech from the mean of its codes."""

    name = "emotion"

    def __init__(self, config, model, takes, validation):
        super().__init__(config, model, takes, validation)
        self.bank = SpeechBank(takes, self.device)
        self.places = emotion_targets(model, takes)
        self.optimise(model.emotion_encoder)

    def step(self, step, progress, rng):
        self.own(rng)
        self.model.train()
        takes = self.bank.draw_takes(self.config.batch_size)
        codes, weights = self.voice_codes(self.bank, takes)
        classify = self.model.emotion_encoder.classifier
        mean = (codes * weights[..., None]).sum(1)
        labels = self.bank.emotion[takes]
        whole = functional.cross_entropy(classify(mean), labels, label_smoothing=0.05)
        single = functional.cross_entropy(classify(codes).flatten(0, 1), labels.repeat_interleave(codes.shape[1]))
        place = functional.mse_loss(mean, self.places[takes])
        self.update(whole + 0.2 * single + 10 * place)
        return {"cross_entropy": whole, "per_window": single, "place": place}

    def validate(self, averages):
        codes = take_codes(averages["model"], self.validation, self.device)
        guess = averages["model"].emotion_encoder.classifier(codes).argmax(-1).cpu().numpy()
        return {"accuracy": float(np.mean(guess == [take.emotion for take in self.validation]))}, None


class DisentangleTask(SpeechTask):
    """Stage 2: cross-reconstruction (EVP, the consistent reading). Content comes from x(c1,e1) and its time-warped twin
    x(c1,e2), emotion from x(c2,e1) and x(c3,e2); the four combinations must give x(c1,e1) or x(c1,e2). A classifier
    that tries to read the emotion from the content codes pushes it out of them (gradient reversal): the paper's recipe
    alone leaves more of it there."""

    name = "disentangle"

    def __init__(self, config, model, takes, validation, decoder: SpeechDecoder, adversary_weight: float = 0.3):
        super().__init__(config, model, takes, validation)
        self.decoder, self.adversary_weight = decoder.to(self.device), adversary_weight
        self.adversary = Adversary(model.landmark_predictor.content_size).to(self.device)
        self.networks |= {"decoder": self.decoder, "adversary": self.adversary}
        self.optimise(model.content_encoder, model.emotion_encoder, self.decoder, self.adversary)
        self.bank = SpeechBank(takes, self.device)
        self.places = emotion_targets(model, takes)
        self._match()

    def step(self, step, progress, rng):
        self.own(rng)
        self.model.train()
        pair, inputs, targets = self._pairs(self.config.batch_size)
        targets = targets.unfold(2, WINDOW_ROWS, STRETCH_ROWS).transpose(-1, -2)  # [N, 2, F, 28, 12]
        with self.autocast():
            content = self.model.content_encoder.over_rows(inputs.flatten(0, 1)).float().unflatten(0, (-1, 2))
        lent = self._other_words(pair.T.flatten())  # takes that lend their emotion
        codes, weights = self.voice_codes(self.bank, lent)
        emotion = (codes * weights[..., None]).sum(1)  # [2 N, e]
        emotions = emotion.unflatten(0, (2, -1))
        loss_reconstruction = torch.zeros((), device=self.device)
        for k in (0, 1):  # content of (c1, e1), of (c1, e2)
            for e in (0, 1):
                spread = emotions[e][:, None].expand(-1, content.shape[2], -1)
                with self.autocast():
                    rebuilt = self.decoder(content[:, k].flatten(0, 1), spread.flatten(0, 1)).float()
                loss_reconstruction = loss_reconstruction + functional.l1_loss(rebuilt, targets[:, e].flatten(0, 1))
        loss_content = functional.l1_loss(content[:, 0], content[:, 1])
        labels = self.bank.emotion[lent]
        loss_emotion = functional.cross_entropy(self.model.emotion_encoder.classifier(emotion), labels)
        loss_place = functional.mse_loss(emotion, self.places[lent])
        found = self.adversary(content.transpose(0, 1).flatten(0, 1), self.adversary_weight)
        loss_leak = functional.cross_entropy(found, self.bank.emotion[pair.T.flatten()])
        self.update(loss_reconstruction + loss_content + 2 * loss_emotion + 20 * loss_place + loss_leak)
        return {
            "reconstruction": loss_reconstruction / 4,
            "content": loss_content,
            "emotion": loss_emotion,
            "leak": loss_leak,
        }

    def _match(self) -> None:
        """Which rows of two takes of one sentence belong together: all takes of a group on one take's time."""
        groups = _groups(self.takes)
        place = {id(take): k for k, take in enumerate(self.takes)}
        members: list[list[int]] = []
        timelines: list[int] = []
        warps: list[np.ndarray] = []
        first_warp: list[int] = []
        calm = [[normalised(take.sounds[0])[::4] for take in group] for group in groups]  # every fourth row is enough
        matched = iter(warp_rows_of([(rows[0], other) for rows in calm for other in rows]))
        for group in groups:
            for take in group:
                warp = (next(matched)[:, None] * 4 + np.arange(4)).ravel()
                first_warp.append(first_warp[-1] + len(warps[-1]) if warps else 0)
                warps.append(np.minimum(warp, len(take.sounds[0].mfcc) - 1))
            members.append([place[id(take)] for take in group])
            timelines.append(len(warps[-1]))
        first = iter(first_warp)
        width = max(map(len, members))
        self.group_size = torch.tensor([len(group) for group in members], device=self.device)
        self.members = self._table(members, width)
        self.first_warp = self._table([[next(first) for _ in group] for group in members], width)
        self.timelines = torch.tensor(timelines, device=self.device)
        self.warps = torch.from_numpy(np.concatenate(warps)).to(self.device)
        by_voice: dict[tuple, list[int]] = {}
        for k, take in enumerate(self.takes):
            by_voice.setdefault((take.clip.actor, take.emotion), []).append(k)
        voices = [by_voice[take.clip.actor, take.emotion] for take in self.takes]
        self.voice_size = torch.tensor([len(voice) for voice in voices], device=self.device)
        self.voices = self._table(voices, max(map(len, voices)))

    def _table(self, rows: list[list[int]], width: int) -> torch.Tensor:
        return torch.tensor([row + row[:1] * (width - len(row)) for row in rows], device=self.device)

    def _pairs(self, count: int):
        """Indices `[N, 2]` of takes of one sentence, what the content encoder hears of them, `[N, 2, rows, features]`,
        and what the decoder must give, `[N, 2, rows, 12]`, on one time."""
        length = rows_of(STRETCH_FRAMES) + 2 * MARGIN_ROWS
        group = torch.randint(len(self.group_size), (count,), device=self.device)
        size = self.group_size[group]
        one = (torch.rand(count, device=self.device) * size).long() % size
        two = (one + 1 + (torch.rand(count, device=self.device) * (size - 1)).long()) % size
        member = torch.stack([one, two], 1)
        takes, first_warp = self.members[group[:, None], member], self.first_warp[group[:, None], member]
        longest = (self.timelines[group] - rows_of(STRETCH_FRAMES)).clamp(min=1)
        start = (torch.rand(count, device=self.device) * longest).long() - MARGIN_ROWS
        time = start[:, None] + torch.arange(length, device=self.device)
        time = torch.minimum(time.clamp(min=0), self.timelines[group, None] - 1)
        rows = self.warps[first_warp[..., None] + time[:, None]].flatten(0, 1)  # [2 N, length]
        clean = self.bank.first_sound[takes.flatten()]
        heard = self.bank.draw_sounds(takes.flatten())
        where = [self.bank.first_row[sound][:, None] + rows for sound in (clean, heard)]
        plain = (self.bank.rows[where[0]][..., :12] - self.model.feature_mean[:12]) / self.model.feature_scale[:12]
        quiet = self.bank.silent[where[1]]
        worse, quiet = self.worsen(self.bank.rows[where[1]], quiet, self.bank.level_db[heard], 0.5)
        worse = self.words(worse, ~quiet)
        inner = slice(MARGIN_ROWS, -MARGIN_ROWS)
        return takes, *(x[:, inner].unflatten(0, (-1, 2)) for x in (worse, plain))

    def _other_words(self, takes: torch.Tensor) -> torch.Tensor:
        """Another sentence of the same speaker in the same emotion, mostly."""
        size = self.voice_size[takes]
        return self.voices[takes, (torch.rand(len(takes), device=self.device) * size).long() % size]

    def validate(self, averages):
        model = averages["model"]
        accuracy = probe_accuracy(
            content_statistics(model, self.takes[:: max(1, len(self.takes) // 200)], self.device),
            content_statistics(model, self.validation, self.device),
        )
        codes = take_codes(model, self.validation, self.device)
        guess = model.emotion_encoder.classifier(codes).argmax(-1).cpu().numpy()
        found = float(np.mean(guess == [take.emotion for take in self.validation]))
        return {"emotion_accuracy": found, "content_leak_accuracy": accuracy}, None


class AlignmentTask(SpeechTask):
    """Stage 3, equations (2) and (3): two views of one moment; the pose view, its expression warped, must be restored
    from the other view's expression."""

    name = "alignment"

    def __init__(self, config, model, takes, validation):
        takes = [take for take in takes if len(take.views) > 1]
        super().__init__(config, model, takes, [take for take in validation if len(take.views) > 1])
        self.views = ViewBank(self.takes)
        self.optimise(model.alignment)

    def step(self, step, progress, rng):
        rng = self.own(rng)
        pose, face = self.views.pairs(self.config.batch_size, rng)
        target = self.tensor(pose)
        pose = warp_expression(pose, rng) + rng.normal(0, 0.004, pose.shape) * rng.random((len(pose), 1, 1))
        face = face + rng.normal(0, 0.004, face.shape) * rng.random((len(face), 1, 1))
        aligned = self.model.alignment(self.tensor(pose), self.tensor(face))
        loss = ((aligned - target) ** 2 * self.tensor(LANDMARK_WEIGHTS)[:, None]).mean()
        self.update(100 * loss)
        return {"loss": loss}

    def validate(self, averages):
        rng = np.random.default_rng(3)
        pose, face = ViewBank(self.validation).pairs(2048, rng)
        aligned = averages["model"].alignment(self.tensor(warp_expression(pose, rng)), self.tensor(face)).cpu().numpy()
        error = np.linalg.norm(aligned - pose, axis=-1)
        eyes = np.linalg.norm(pose[:, 36] - pose[:, 45], axis=-1)
        return {
            "error_percent": float(100 * (error.mean(-1) / eyes).mean()),
            "mouth": float(error[:, 48:].mean()),
        }, None


class PredictorTask(SpeechTask):
    """Stage 4: displacements from content, emotion and the neutral face, judged directly and after the frozen alignment
    network on distorted pose landmarks. The content encoder goes on learning, still kept free of emotion. What is
    heard in noise is also compared with what the same words give when heard clean: more can be learnt from that than
    from the truth, which no sound tells entirely."""

    name = "predictor"

    def __init__(
        self,
        config,
        model,
        takes,
        validation,
        aligned: bool = True,
        heard: bool = True,
        adversary_weight: float = 0.1,
    ):
        """`aligned`: the alignment network is trained, and judges too; a copy, so resuming cannot undo it. `heard`: the
        emotion encoder is trained: half of the codes are its own, with the mistakes that it makes."""
        takes = [take for take in takes if take.displacement is not None]
        super().__init__(config, model, takes, [take for take in validation if take.displacement is not None])
        self.alignment = copy.deepcopy(model.alignment).requires_grad_(False) if aligned else None
        self.adversary_weight, self.heard_share = adversary_weight, 0.5 if heard else 0.0
        self.adversary = Adversary(model.landmark_predictor.content_size).to(self.device)
        self.networks["adversary"] = self.adversary
        self.bank, self.views = SpeechBank(takes, self.device), ViewBank(takes)
        self.places = emotion_targets(model, takes)
        self.optimise(model.content_encoder, model.landmark_predictor, self.adversary)

    def step(self, step, progress, rng):
        rng = self.own(rng)
        self.model.train()
        self.model.emotion_encoder.eval()
        n, bank = self.config.batch_size, self.bank
        chosen = bank.draw_by_speaker(n, rng)
        takes = torch.from_numpy(chosen).to(self.device)
        start = bank.draw_starts(chosen, CROP_FRAMES, rng)
        starts, sounds = torch.from_numpy(start).to(self.device), bank.draw_sounds(takes)
        rows, speaking = self.hear(bank, sounds, starts, CROP_FRAMES, 0.7)
        truth, neutral = bank.truth(takes, starts, CROP_FRAMES), bank.neutral[takes].unflatten(-1, (68, 2))
        neutral = neutral + 0.01 * torch.randn_like(neutral)
        code = self._codes(takes, rows, speaking)
        predicted, content = self._predict(rows, speaking, neutral, code)
        losses = displacement_losses(predicted, truth)
        clean = self.hear(bank, bank.first_sound[takes], starts, CROP_FRAMES, 0.0)
        self.model.eval()
        with torch.no_grad():
            taught, _ = self._predict(*clean, neutral, code)
        self.model.train()
        losses["noise"] = sum(displacement_losses(predicted, taught).values())
        if self.alignment is not None:
            losses["aligned"] = 100 * self._aligned_loss(chosen, start, neutral, predicted, rng)
        found = self.adversary(content, self.adversary_weight)
        losses["leak"] = 0.1 * functional.cross_entropy(found, bank.emotion[takes])
        losses["size"] = 0.01 * content.square().mean()  # against the adversary, codes would grow without end
        self.update(sum(losses.values()))
        return losses

    def _predict(self, rows, speaking, neutral, code):
        """Displacements `[N, F, 68, 2]`, and the content codes that they come from."""
        end = rows.shape[1] - MARGIN_ROWS + STRETCH_ROWS * self.model.landmark_predictor.reach
        with self.autocast():
            heard = self.words(rows, speaking)[:, MARGIN_ROWS:end]
            content = self.model.content_encoder.over_rows(heard).float()
        predicted, _ = self.model.landmark_predictor(neutral, content, code[:, None].expand(-1, CROP_FRAMES, -1))
        return predicted, content

    @torch.no_grad()
    def _codes(self, takes, rows, speaking):
        """Emotion codes `[N, e]`: where the takes belong, scattered as voices do, or as the encoder hears them."""
        places = self.places[takes]
        code = (places + 0.08 * torch.randn_like(places)).relu()
        own = torch.rand(len(takes), 1, device=self.device) < self.heard_share
        if self.heard_share:
            with self.autocast():
                codes = self.model.emotion(rows, voices_of(rows, speaking)).float()  # [N, F', e]
            frames = STRETCH_ROWS * torch.arange(codes.shape[1], device=self.device) + WINDOW_ROWS // 2
            weights = speaking[:, frames, None] + 1e-3
            code = torch.where(own, (codes * weights).sum(1) / weights.sum(1), code)
        return code

    def _aligned_loss(self, chosen, start, neutral, predicted, rng):
        assert self.alignment is not None
        pose, frame = self.views.poses(chosen, start, start + CROP_FRAMES, rng)
        frame = torch.from_numpy(np.clip(frame - start, 0, CROP_FRAMES - 1)).to(self.device)
        face = neutral + predicted[torch.arange(len(chosen), device=self.device), frame]
        aligned = self.alignment(self.tensor(distort(warp_expression(pose, rng), rng)), face)
        return ((aligned - self.tensor(pose)) ** 2 * self.tensor(LANDMARK_WEIGHTS)[:, None]).mean()

    def validate(self, averages):
        model, pairs = averages["model"], []
        for take, code in zip(self.validation, emotion_targets(model, self.validation), strict=True):
            predicted = predict_take(model, take, code, self.device)
            pairs.append((take.neutral + predicted, take.neutral + take.displacement))
        gaps = [[lip_gap(face) for face in pair] for pair in pairs]
        correlation = np.nanmean([np.corrcoef(*gap)[0, 1] for gap in gaps])
        spread = np.nanmean([np.corrcoef(*(mouth_width(face) for face in pair))[0, 1] for pair in pairs])
        mouth = np.mean([np.abs(a[:, 48:] - b[:, 48:]).mean() for a, b in pairs])
        closed = np.concatenate([gap[1] for gap in gaps]) < 0.03
        met = np.concatenate([gap[0] for gap in gaps])[closed] < 0.045
        leak = probe_accuracy(
            content_statistics(model, self.takes[:: max(1, len(self.takes) // 200)], self.device),
            content_statistics(model, self.validation, self.device),
        )
        measures = {
            "opening_correlation": correlation,
            "width_correlation": spread,
            "mouth_error": mouth,
            "closed": met.mean() if met.size else 1.0,
            "leak": leak,
        }
        return {name: float(value) for name, value in measures.items()}, None


def why_not(stage: str, takes: list[Take], validation: list[Take]) -> str:
    """Why `stage` cannot learn from these takes, in a sentence; empty if it can."""
    for part, own in (("training", takes), ("validation", validation)):
        if not own:
            return f"{stage}: there is no {part} take."
        if stage == "alignment" and all(len(take.views) < 2 for take in own):
            return f"{stage}: no {part} take is seen from two sides. Add a second view: ACTOR/video/left_30 or another."
        if stage == "predictor" and all(take.displacement is None for take in own):
            return f"{stage}: no {part} take has landmarks of the front view. Add ACTOR/video/front."
    if stage == "disentangle" and not _groups(takes):
        return (
            f"{stage}: no two takes are known to say the same words in different emotions. "
            "Add sentences.json (see hdtalk/training/mead.py)."
        )
    return ""


def place_emotions(code_size: int) -> torch.Tensor:
    """Centres `[8, code_size]` of the emotions at full intensity: each has dimensions of its own. Weaker ones lie on
    the line to neutral, so the space is linear by construction, and the predictor can train beside the encoder."""
    own = torch.arange(code_size) * len(EMOTIONS) // code_size
    return (own[None] == torch.arange(len(EMOTIONS))[:, None]).float()


def emotion_targets(model: SpeechModel, takes: list[Take]) -> torch.Tensor:
    """Where the codes `[N, e]` of the takes belong, by their emotion and level."""
    index = torch.tensor([take.emotion for take in takes], device=model.emotion_codes.device)
    strength = torch.tensor([LEVEL_STRENGTH[take.clip.level] for take in takes], device=index.device)[:, None]
    return torch.lerp(model.emotion_codes[EMOTIONS.index("neutral")], model.emotion_codes[index], strength)


class Adversary(nn.Module):
    """Reads the emotion from content codes `[N, T, c]` of a stretch; the codes learn with the gradient reversed."""

    def __init__(self, content_size: int, hidden: int = 64):
        super().__init__()
        self.frame = nn.Sequential(nn.Linear(content_size, hidden), nn.ReLU())
        self.layers = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, len(EMOTIONS)))

    def forward(self, content: torch.Tensor, weight: float) -> torch.Tensor:
        hidden = self.frame(_Reverse.apply(content, weight))
        return self.layers(torch.cat([hidden.mean(1), hidden.std(1)], -1))


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(context, values, weight):
        context.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(context, gradient):
        return -context.weight * gradient, None


# Speech shows at the lips, so their errors count more; the jaw's outline is the least certain to be labelled.
LANDMARK_WEIGHTS = np.ones(68, np.float32)
LANDMARK_WEIGHTS[48:] = 3
LANDMARK_WEIGHTS[60:] = 4
LANDMARK_WEIGHTS[:17] = 0.5


def displacement_losses(predicted: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Squared errors of positions, of frame-to-frame motion, and of the lip gap, which counts more where lips meet; and
    distances, plain: of the squares the best answer is the mean over what a mouth might do, which shies away from
    every extreme, of the distances it is a middle one of these."""
    weights = torch.as_tensor(LANDMARK_WEIGHTS, device=predicted.device)[:, None]
    squares = ((predicted - truth) ** 2 * weights).sum(-1)
    motion = ((predicted.diff(dim=1) - truth.diff(dim=1)) ** 2 * weights).mean()
    gaps = [(d[..., LIPS_INNER_LOWER, 1] - d[..., LIPS_INNER_UPPER, 1]).mean(-1) for d in (predicted, truth)]
    meeting = 1 + torch.sigmoid((0.03 - gaps[1]) / 0.005)
    gap = ((gaps[0] - gaps[1]) ** 2 * meeting).mean()
    distance = (squares + 1e-6).sqrt().mean() + (gaps[0] - gaps[1]).abs().mean()
    # corners move a quarter as far as lips part: in sums over points, spread and rounded lips would hardly count
    widths = [d[..., 54, 0] - d[..., 48, 0] for d in (predicted, truth)]
    width = ((widths[0] - widths[1]) ** 2).mean() + ((widths[0].diff(dim=1) - widths[1].diff(dim=1)) ** 2).mean()
    return {
        "position": 50 * squares.mean(),
        "motion": 50 * motion,
        "gap": 30 * gap,
        "width": 100 * width,
        "distance": 4 * distance,
    }


@torch.no_grad()
def take_codes(model: SpeechModel, takes: list[Take], device, version: int = 0) -> torch.Tensor:
    """The emotion code `[N, e]` of each take: the mean over its speaking frames."""
    training, codes = model.training, []
    model.eval()
    for take in takes:
        sound = take.sounds[version]
        keep = _speaking(sound)
        rows = torch.from_numpy(stretch_of_rows(sound, num_video_frames(sound, FPS))).to(device)
        voice = own_voice(sound).to(device)
        codes.append(model.emotion(rows[None], voice)[0, keep].mean(0))
    model.train(training)
    return torch.stack(codes)


@torch.no_grad()
def predict_take(model: SpeechModel, take: Take, code: torch.Tensor, device, version: int = 0) -> np.ndarray:
    """Predicted displacement `[T,68,2]` of a take, at the predictor's rate."""
    assert take.displacement is not None
    training = model.training
    model.eval()
    sound = take.sounds[version]
    mean, scale = (torch.from_numpy(v).to(device) for v in statistics(sound))
    num_frames, reach = len(take.displacement), model.landmark_predictor.reach
    rows = torch.from_numpy(stretch_of_rows(sound, num_frames + reach + 4, -2)).to(device)
    content = model.content(rows[None], mean, scale)[:, 2:-2]
    neutral = torch.from_numpy(take.neutral).to(device)[None]
    predicted, _ = model.landmark_predictor(neutral, content, code[None, None].expand(1, num_frames, -1))
    model.train(training)
    return predicted[0].cpu().numpy()


@torch.no_grad()
def content_statistics(model: SpeechModel, takes: list[Take], device) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each take's content codes `[N, 2c]`, and its emotion `[N]`."""
    training, rows = model.training, []
    model.eval()
    for take in takes:
        sound = take.sounds[0]
        mean, scale = (torch.from_numpy(v).to(device) for v in statistics(sound))
        stretch = torch.from_numpy(stretch_of_rows(sound, num_video_frames(sound, FPS))).to(device)
        codes = model.content(stretch[None], mean, scale)[0, _speaking(sound)]
        rows.append(torch.cat([codes.mean(0), codes.std(0, unbiased=False)]).cpu().numpy())
    model.train(training)
    return np.stack(rows), np.array([take.emotion for take in takes])


def probe_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], ridge: float = 1e-2):
    """Accuracy on `test` of a linear classifier fitted to `train`, (features `[N, k]`, labels `[N]`) each."""
    mean, scale = train[0].mean(0), train[0].std(0) + 1e-6
    design, probe = ((np.c_[(x - mean) / scale, np.ones(len(x))]) for x in (train[0], test[0]))
    wanted = np.eye(len(EMOTIONS))[train[1]]
    solution = np.linalg.solve(design.T @ design + ridge * len(design) * np.eye(design.shape[1]), design.T @ wanted)
    return float(np.mean((probe @ solution).argmax(-1) == test[1]))


def statistics(sound: SpeechFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `[12]` of a recording's MFCC where it speaks: what the content encoder's input is freed of."""
    rows = sound.mfcc[~sound.silent] if (~sound.silent).sum() >= 10 else sound.mfcc
    return rows.mean(0), rows.std(0) + 1.0


def freed_where_spoken(rows: torch.Tensor, speaking: torch.Tensor) -> torch.Tensor:
    """`freed_of_voice` of rows `[N, R, 18]` by those of them that hold speech (bool `[N, R]`), as `statistics` tells it
    for whole recordings."""
    weights = spoken_rows(speaking)[..., None].to(rows.dtype)
    total = weights.sum(1, keepdim=True)
    mean = (rows[..., :12] * weights).sum(1, keepdim=True) / total
    deviation = (((rows[..., :12] - mean) ** 2 * weights).sum(1, keepdim=True) / total).sqrt()
    return freed_of_voice(rows, mean, deviation + 1.0)


def normalised(sound: SpeechFeatures) -> np.ndarray:
    mean, scale = statistics(sound)
    return (sound.mfcc - mean) / scale


def displacement_basis(takes: list[Take], num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions `[k, 136]` of the takes' displacements, and the deviation along each `[k]`."""
    moved = [take.displacement[::3] for take in takes if take.displacement is not None]
    if not moved:
        raise InputError(
            "no training take has landmarks of the front view, from which the model learns how faces move."
        )
    rows = np.concatenate(moved).reshape(-1, 136)
    weights = np.repeat(np.sqrt(LANDMARK_WEIGHTS), 2)
    values, directions = np.linalg.eigh((rows * weights).T @ (rows * weights) / len(rows))
    order = np.argsort(values)[::-1][:num_components]
    return (directions[:, order] / weights[:, None]).T.astype(np.float32), np.sqrt(values[order]).astype(np.float32)


def feature_statistics(takes: list[Take], num_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `[num_features]` of what the emotion encoder sees, over all takes."""
    rows = []
    for sound in (sound for take in takes[::5] for sound in take.sounds):
        own = torch.from_numpy(np.concatenate([sound.mfcc, sound.prosody], 1)[~sound.silent])
        rows.append(relative_to_voice(own[None], own_voice(sound))[0, :, :num_features].numpy())
    every = np.concatenate(rows)
    return every.mean(0), every.std(0) + 1e-3


def _speaking(sound: SpeechFeatures) -> np.ndarray:
    """Indices of the frames that are no pauses; of all frames if there are none."""
    silent = silent_frames(sound, FPS)
    return np.flatnonzero(~silent if not silent.all() else silent)


def _groups(takes: list[Take]) -> list[list[Take]]:
    """Takes of one sentence by one speaker, in two emotions or more: what cross-reconstruction is made of."""
    groups: dict[tuple, list[Take]] = {}
    for take in takes:
        if take.clip.sentence is not None:
            groups.setdefault((take.clip.actor, take.clip.sentence), []).append(take)
    return [group for group in groups.values() if len({take.emotion for take in group}) > 1]
