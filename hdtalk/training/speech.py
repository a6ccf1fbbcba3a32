"""Trains the speech networks in the four stages: emotion classifier, cross-reconstruction, alignment, predictor.

Every stage is a `Task` of the common loop, so it is seeded, resumable and leaves curves. Under torchrun each process
draws its own batches and gradients are averaged.
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hdtalk.data import SpeechFeatures
from hdtalk.face_units import LIPS_INNER_LOWER, LIPS_INNER_UPPER
from hdtalk.models.speech import EMOTIONS, SpeechModel
from hdtalk.models.speech_decoder import SpeechDecoder
from hdtalk.training.dtw import warp_rows
from hdtalk.training.landmark_warp import distort, warp_expression
from hdtalk.training.loop import Task, TrainConfig
from hdtalk.training.speech_data import FPS, Take
from hdtalk.windows import STRETCH_ROWS, WINDOW_ROWS, num_video_frames, silent_frames, stretch_of_rows

CROP_FRAMES = 50  # two seconds of a take per item of stage 4
EMOTION_FRAMES = 50  # of stages 1 and 2, for the emotion
STRETCH_FRAMES = 12  # of stage 2, for the content


class SpeechTask(Task):
    """Shared by the stages: the model, its takes, and averaging of gradients over processes."""

    averaged = ("model",)

    def __init__(self, config: TrainConfig, model: SpeechModel, takes: list[Take], validation: list[Take]):
        super().__init__(config)
        self.model, self.takes, self.validation = model.to(self.device), takes, validation
        self.rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        self.networks = {"model": self.model}

    def optimise(self, *networks: nn.Module) -> None:
        parameters = [p for network in networks for p in network.parameters()]
        for parameter in self.model.parameters():
            parameter.requires_grad_(any(parameter is p for p in parameters))
        rate = self.config.learning_rate
        self.optimisers = {"main": torch.optim.AdamW(parameters, lr=rate, betas=(0.5, 0.999), weight_decay=1e-4)}

    def update(self, loss: torch.Tensor, optimiser: str = "main") -> None:
        if not torch.distributed.is_initialized():
            return super().update(loss, optimiser)
        self.optimisers[optimiser].zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimisers[optimiser].param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad, torch.distributed.ReduceOp.AVG)
            nn.utils.clip_grad_norm_(group["params"], self.config.gradient_norm)
        self.optimisers[optimiser].step()

    def own(self, rng: np.random.Generator) -> np.random.Generator:
        return np.random.default_rng((int(rng.integers(1 << 62)), self.rank))

    def tensor(self, array) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array, np.float32)).to(self.device)


class EmotionTask(SpeechTask):
    """Stage 1: the emotion encoder learns to tell the emotion of a stretch of speech from the mean of its codes."""

    name = "emotion"

    def __init__(self, config, model, takes, validation):
        super().__init__(config, model, takes, validation)
        self.optimise(model.emotion_encoder)

    def step(self, step, progress, rng):
        rng = self.own(rng)
        self.model.train()
        chosen = rng.integers(len(self.takes), size=self.config.batch_size)
        labels = torch.tensor([self.takes[k].emotion for k in chosen], device=self.device)
        codes, weights = emotion_codes(self, [self.takes[k] for k in chosen], rng, vary=True)
        classify = self.model.emotion_encoder.classifier
        mean = (codes * weights[..., None]).sum(1)
        whole = functional.cross_entropy(classify(mean), labels, label_smoothing=0.05)
        single = functional.cross_entropy(classify(codes).flatten(0, 1), labels.repeat_interleave(codes.shape[1]))
        place = functional.mse_loss(mean, emotion_targets(self.model, [self.takes[k] for k in chosen]))
        self.update(whole + 0.2 * single + 10 * place)
        return {"cross_entropy": whole.item(), "per_window": single.item(), "place": place.item()}

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
        self.groups = _groups(takes)

    def step(self, step, progress, rng):
        rng = self.own(rng)
        self.model.train()
        items = [self._item(rng) for _ in range(self.config.batch_size)]
        inputs, targets = (self.tensor(np.stack([item[k] for item in items])) for k in (0, 1))  # [N, 2, rows, 12]
        targets = targets.unfold(2, WINDOW_ROWS, STRETCH_ROWS).transpose(-1, -2)  # [N, 2, F, 28, 12]
        first, second = ([item[2][k] for item in items] for k in (0, 1))  # takes that lend their emotion
        with self.autocast():
            content = self.model.content_encoder.over_rows(inputs.flatten(0, 1)).float().unflatten(0, (-1, 2))
        emotion = []  # 2 x [N, e]
        for lent in (first, second):
            codes, weights = emotion_codes(self, lent, rng, vary=True)
            emotion.append((codes * weights[..., None]).sum(1))
        loss_reconstruction = 0.0
        for k in (0, 1):  # content of (c1, e1), of (c1, e2)
            for e in (0, 1):
                spread = emotion[e][:, None].expand(-1, content.shape[2], -1)
                with self.autocast():
                    rebuilt = self.decoder(content[:, k].flatten(0, 1), spread.flatten(0, 1)).float()
                loss_reconstruction += functional.l1_loss(rebuilt, targets[:, e].flatten(0, 1))
        loss_content = functional.l1_loss(content[:, 0], content[:, 1])
        labels = torch.tensor([[item[2][k].emotion for item in items] for k in (0, 1)], device=self.device)
        classify = self.model.emotion_encoder.classifier
        loss_emotion = sum(functional.cross_entropy(classify(emotion[e]), labels[e]) for e in (0, 1))
        for lent, code in zip((first, second), emotion, strict=True):
            loss_emotion = loss_emotion + 10 * functional.mse_loss(code, emotion_targets(self.model, lent))
        spoken = torch.tensor([item[3] for item in items], device=self.device).T.flatten()
        found = self.adversary(content.transpose(0, 1).flatten(0, 1), self.adversary_weight)
        loss_leak = functional.cross_entropy(found, spoken)
        self.update(loss_reconstruction + loss_content + loss_emotion + loss_leak)
        return {
            "reconstruction": loss_reconstruction.item() / 4,
            "content": loss_content.item(),
            "emotion": loss_emotion.item() / 2,
            "leak": loss_leak.item(),
        }

    def _item(self, rng):
        group = self.groups[rng.integers(len(self.groups))]
        one, two = (group[k] for k in rng.permutation(len(group))[:2])
        lend = [self._other_words(one, rng), self._other_words(two, rng)]
        sounds = [take.sounds[rng.integers(len(take.sounds))] for take in (one, two)]
        calm = [normalised(take.sounds[0])[::2] for take in (one, two)]  # every other row is enough
        matched = np.minimum(np.repeat(warp_rows(*calm) * 2, 2), len(sounds[1].mfcc) - 1)
        length = STRETCH_ROWS * (STRETCH_FRAMES - 1) + WINDOW_ROWS
        rows = rng.integers(max(1, len(matched) - length)) + np.arange(length)
        rows = np.minimum(rows, min(len(matched), len(sounds[0].mfcc)) - 1)
        mean, scale = (v.cpu().numpy()[:12] for v in (self.model.feature_mean, self.model.feature_scale))
        plain = [(take.sounds[0].mfcc - mean) / scale for take in (one, two)]
        heard = [normalised(sound) for sound in sounds]
        inputs, targets = (np.stack([pair[0][rows], pair[1][matched[rows]]]) for pair in (heard, plain))
        return inputs, targets, lend, [one.emotion, two.emotion]

    def _other_words(self, take: Take, rng) -> Take:
        """Another sentence of the same speaker in the same emotion, if there is one."""
        others = self.by_voice.get((take.clip.actor, take.emotion), [take]) if self.by_voice else [take]
        others = [other for other in others if other.clip.sentence != take.clip.sentence] or [take]
        return others[rng.integers(len(others))]

    @property
    def by_voice(self):
        if not hasattr(self, "_by_voice"):
            self._by_voice: dict[tuple, list[Take]] = {}
            for take in self.takes:
                self._by_voice.setdefault((take.clip.actor, take.emotion), []).append(take)
        return self._by_voice

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
        self.optimise(model.alignment)

    def step(self, step, progress, rng):
        pose, face = self._pairs(self.takes, self.own(rng), self.config.batch_size)
        target = self.tensor(pose)
        pose = warp_expression(pose, rng) + rng.normal(0, 0.004, pose.shape) * rng.random((len(pose), 1, 1))
        face = face + rng.normal(0, 0.004, face.shape) * rng.random((len(face), 1, 1))
        aligned = self.model.alignment(self.tensor(pose), self.tensor(face))
        loss = ((aligned - target) ** 2 * self.tensor(LANDMARK_WEIGHTS)[:, None]).mean()
        self.update(100 * loss)
        return {"loss": loss.item()}

    def validate(self, averages):
        rng = np.random.default_rng(3)
        pose, face = self._pairs(self.validation, rng, 2048)
        aligned = averages["model"].alignment(self.tensor(warp_expression(pose, rng)), self.tensor(face)).cpu().numpy()
        error = np.linalg.norm(aligned - pose, axis=-1)
        eyes = np.linalg.norm(pose[:, 36] - pose[:, 45], axis=-1)
        return {
            "error_percent": float(100 * (error.mean(-1) / eyes).mean()),
            "mouth": float(error[:, 48:].mean()),
        }, None

    def _pairs(self, takes, rng, count):
        pose, face = np.zeros((2, count, 68, 2), np.float32)
        for k in range(count):
            take = takes[rng.integers(len(takes))]
            views = list(take.views)
            shown = views[rng.integers(len(views))]
            heard = "front" if "front" in views and rng.random() < 0.7 else views[rng.integers(len(views))]
            frame = rng.integers(min(len(take.views[shown]), len(take.views[heard])))
            pose[k], face[k] = take.views[shown][frame], take.views[heard][frame]
        return pose, face


class PredictorTask(SpeechTask):
    """Stage 4: displacements from content, emotion and the neutral face, judged directly and after the frozen alignment
    network on distorted pose landmarks. The content encoder goes on learning, still kept free of emotion."""

    name = "predictor"

    def __init__(self, config, model, takes, validation, aligned: bool = True, adversary_weight: float = 0.1):
        """`aligned`: the alignment network is trained, and judges too; a copy, so resuming cannot undo it."""
        takes = [take for take in takes if take.displacement is not None]
        super().__init__(config, model, takes, [take for take in validation if take.displacement is not None])
        self.alignment = copy.deepcopy(model.alignment).requires_grad_(False) if aligned else None
        self.adversary_weight = adversary_weight
        self.adversary = Adversary(model.landmark_predictor.content_size).to(self.device)
        self.networks["adversary"] = self.adversary
        self.optimise(model.content_encoder, model.landmark_predictor, self.adversary)

    def step(self, step, progress, rng):
        rng = self.own(rng)
        self.model.train()
        self.model.emotion_encoder.eval()
        chosen = rng.integers(len(self.takes), size=self.config.batch_size)
        takes = [self.takes[k] for k in chosen]
        version = rng.integers(len(takes[0].sounds), size=len(takes)) | (rng.random(len(takes)) < 0.3)
        version = np.minimum(version, len(takes[0].sounds) - 1)  # the clean recording a little less often
        starts = [int(rng.integers(-8, max(-7, len(take.displacement) - CROP_FRAMES + 8))) for take in takes]
        rows, truth, neutral = [], [], []
        for take, v, start in zip(takes, version, starts, strict=True):
            sound = take.sounds[v]
            mean, scale = statistics(sound)
            rows.append((stretch_of_rows(sound, CROP_FRAMES, start) - mean) / scale)
            frames = np.clip(np.arange(start, start + CROP_FRAMES), 0, len(take.displacement) - 1)
            truth.append(take.displacement[frames])
            neutral.append(take.neutral)
        rows, truth, neutral = self.tensor(rows), self.tensor(truth), self.tensor(neutral)
        neutral = neutral + 0.01 * torch.randn_like(neutral)
        with self.autocast():
            content = self.model.content_encoder.over_rows(rows).float()
        code = emotion_targets(self.model, takes)
        code = (code + 0.08 * torch.randn_like(code)).relu()  # voices scatter around their places
        emotion = code[:, None].expand(-1, CROP_FRAMES, -1)
        predicted, _ = self.model.landmark_predictor(neutral, content, emotion)
        losses = displacement_losses(predicted, truth)
        if self.alignment is not None:
            losses["aligned"] = 100 * self._aligned_loss(takes, starts, neutral, predicted, rng)
        labels = torch.tensor([take.emotion for take in takes], device=self.device)
        losses["leak"] = 0.1 * functional.cross_entropy(self.adversary(content, self.adversary_weight), labels)
        losses["size"] = 0.01 * content.square().mean()  # against the adversary, codes would grow without end
        self.update(sum(losses.values()))
        return {name: loss.item() for name, loss in losses.items()}

    def _aligned_loss(self, takes, starts, neutral, predicted, rng, frames_each: int = 3):
        assert self.alignment is not None
        poses, face = [], []
        for k, (take, start) in enumerate(zip(takes, starts, strict=True)):
            view = list(take.views)[rng.integers(len(take.views))]
            for frame in rng.integers(CROP_FRAMES, size=frames_each):
                poses.append(take.views[view][np.clip(start + frame, 0, len(take.views[view]) - 1)])
                face.append(neutral[k] + predicted[k, frame])
        pose = np.stack(poses)
        distorted = self.tensor(distort(warp_expression(pose, rng), rng))
        aligned = self.alignment(distorted, torch.stack(face))
        return ((aligned - self.tensor(pose)) ** 2 * self.tensor(LANDMARK_WEIGHTS)[:, None]).mean()

    def validate(self, averages):
        model, pairs = averages["model"], []
        for take, code in zip(self.validation, emotion_targets(model, self.validation), strict=True):
            predicted = predict_take(model, take, code, self.device)
            pairs.append((take.neutral + predicted, take.neutral + take.displacement))
        gaps = [[_gap(face) for face in pair] for pair in pairs]
        correlation = np.nanmean([np.corrcoef(*gap)[0, 1] for gap in gaps])
        mouth = np.mean([np.abs(a[:, 48:] - b[:, 48:]).mean() for a, b in pairs])
        closed = np.concatenate([gap[1] for gap in gaps]) < 0.03
        met = np.concatenate([gap[0] for gap in gaps])[closed] < 0.045
        leak = probe_accuracy(
            content_statistics(model, self.takes[:: max(1, len(self.takes) // 200)], self.device),
            content_statistics(model, self.validation, self.device),
        )
        measures = {"opening_correlation": correlation, "mouth_error": mouth, "closed": met.mean(), "leak": leak}
        return {name: float(value) for name, value in measures.items()}, None


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


LEVEL_STRENGTH = {1: 0.55, 2: 0.78, 3: 1.0}  # of MEAD's levels, as intensities


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
    """Squared errors of positions, of frame-to-frame motion, and of the lip gap, which counts more where lips meet."""
    weights = torch.as_tensor(LANDMARK_WEIGHTS, device=predicted.device)[:, None]
    position = ((predicted - truth) ** 2 * weights).mean()
    motion = ((predicted.diff(dim=1) - truth.diff(dim=1)) ** 2 * weights).mean()
    gaps = [(d[..., LIPS_INNER_LOWER, 1] - d[..., LIPS_INNER_UPPER, 1]).mean(-1) for d in (predicted, truth)]
    meeting = 1 + 3 * torch.sigmoid((0.03 - gaps[1]) / 0.005)
    gap = ((gaps[0] - gaps[1]) ** 2 * meeting).mean()
    return {"position": 100 * position, "motion": 50 * motion, "gap": 30 * gap}


def emotion_codes(task: SpeechTask, takes: list[Take], rng: np.random.Generator, vary: bool = False):
    """Codes `[N, F, e]` of a random stretch of each take, and weights `[N, F]` that leave its pauses out of a mean.
    `vary`: other pitch and timbre, as of other people."""
    rows, speaking = [], []
    for take in takes:
        sound = take.sounds[rng.integers(len(take.sounds))]
        voiced = np.flatnonzero(~silent_frames(sound, FPS))
        middle = rng.choice(voiced) if len(voiced) else 0
        start = int(middle) - int(rng.integers(EMOTION_FRAMES))
        stretch = stretch_of_rows(sound, EMOTION_FRAMES, start, prosody=True)
        if vary:
            stretch[:, :12] += rng.normal(size=12) * np.array([3.0, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1])
            stretch[:, 12] += (stretch[:, 13] > 0.3) * rng.normal() * 0.12
        rows.append(stretch)
        speaking.append(~silent_frames(sound, FPS, EMOTION_FRAMES, start))
    with task.autocast():
        codes = task.model.emotion(task.tensor(rows)).float()
    weights = task.tensor(speaking) + 1e-3
    return codes, weights / weights.sum(1, keepdim=True)


@torch.no_grad()
def take_codes(model: SpeechModel, takes: list[Take], device, version: int = 0) -> torch.Tensor:
    """The emotion code `[N, e]` of each take: the mean over its speaking frames."""
    training, codes = model.training, []
    model.eval()
    for take in takes:
        sound = take.sounds[version]
        keep = _speaking(sound)
        rows = torch.from_numpy(stretch_of_rows(sound, num_video_frames(sound, FPS), prosody=True)).to(device)
        codes.append(model.emotion(rows[None])[0, keep].mean(0))
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
    rows = torch.from_numpy(stretch_of_rows(sound, len(take.displacement) + 4, -2)).to(device)
    content = model.content(rows[None], mean, scale)[:, 2:-2]
    neutral = torch.from_numpy(take.neutral).to(device)[None]
    predicted, _ = model.landmark_predictor(neutral, content, code[None, None].expand(1, content.shape[1], -1))
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


def normalised(sound: SpeechFeatures) -> np.ndarray:
    mean, scale = statistics(sound)
    return (sound.mfcc - mean) / scale


def displacement_basis(takes: list[Take], num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions `[k, 136]` of the takes' displacements, and the deviation along each `[k]`."""
    rows = np.concatenate([take.displacement[::3] for take in takes if take.displacement is not None]).reshape(-1, 136)
    weights = np.repeat(np.sqrt(LANDMARK_WEIGHTS), 2)
    values, directions = np.linalg.eigh((rows * weights).T @ (rows * weights) / len(rows))
    order = np.argsort(values)[::-1][:num_components]
    return (directions[:, order] / weights[:, None]).T.astype(np.float32), np.sqrt(values[order]).astype(np.float32)


def feature_statistics(takes: list[Take]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation `[15]` of MFCC and prosody over all takes."""
    sounds = [sound for take in takes[::5] for sound in take.sounds]
    rows = np.concatenate([np.concatenate([s.mfcc, s.prosody], 1)[~s.silent] for s in sounds])
    return rows.mean(0), rows.std(0) + 1e-3


def _speaking(sound: SpeechFeatures) -> np.ndarray:
    """Indices of the frames that are no pauses; of all frames if there are none."""
    silent = silent_frames(sound, FPS)
    return np.flatnonzero(~silent if not silent.all() else silent)


def _groups(takes: list[Take]) -> list[list[Take]]:
    groups: dict[tuple, list[Take]] = {}
    for take in takes:
        if take.clip.sentence is not None:
            groups.setdefault((take.clip.actor, take.clip.sentence), []).append(take)
    return [group for group in groups.values() if len(group) > 1]


def _gap(face: np.ndarray) -> np.ndarray:
    return (face[:, LIPS_INNER_LOWER, 1] - face[:, LIPS_INNER_UPPER, 1]).mean(-1)
