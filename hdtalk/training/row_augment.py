"""Makes the feature rows of recordings sound like worse ones on the training device: a new room at every step.

The twelve MFCC and the energy of a row give its 26 filter energies up to fine detail. There, rooms, microphones, noise,
other voices, bands and other vocal tracts are sums, products and shifts; then the MFCC are taken again.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from hdtalk.audio_bands import NUM_COEFFICIENTS, ROUNDING_FLOOR, VOICE_BAND, centres_hz, cepstral_basis, full_scale_db
from hdtalk.config import AudioConfig

_TAIL_ROWS = 32


@dataclass(frozen=True)
class RowAugmentation:
    """Shares of items to which a change applies, and how far it goes."""

    quiet_share: float = 0.2  # of items that keep a clean background
    snr_db: tuple[float, float] = (-2.0, 32.0)  # in the voice band, after pre-emphasis: 10 dB of white noise is about 4
    babble_share: float = 0.25  # of the noisy ones: other items of the batch as background
    band_share: float = 0.25
    room_share: float = 0.4
    equaliser_db: float = 4.0
    gain_db: float = 8.0
    tract: float = 0.1  # deviation of the log factor on frequencies
    snr_skew: float = 1.6  # 1: any ratio is as likely; above: the lower ones, which take more learning, come more often


class RowAugment:
    """`rows, silent = worsen(rows, silent, level_db)`; randomness is torch's own, on the rows' device."""

    def __init__(self, device: torch.device, settings: RowAugmentation | None = None):
        self.settings = settings or RowAugmentation()
        self.basis = torch.from_numpy(cepstral_basis()).float().to(device)  # [12, 26]: log energies to MFCC
        self.inverse = torch.from_numpy(np.linalg.pinv(cepstral_basis())).float().to(device)  # [26, 12]
        self.floor = torch.from_numpy(ROUNDING_FLOOR).float().to(device)
        self.hertz = torch.from_numpy(centres_hz()).float().to(device)
        # the energy of noise in a filter scatters the less the more bins the filter has
        self.bins = torch.from_numpy(np.maximum(1.0, np.gradient(centres_hz()) / 31.25)).float().to(device)

    def __call__(self, rows: torch.Tensor, silent: torch.Tensor, level_db: torch.Tensor, amount: float = 1.0):
        """Rows `[N, R, 18]` of recordings at `level_db` `[N]`, and their pauses, bool `[N, R]` -> the same, worsened in
        `amount` of the items."""
        settings, n, device = self.settings, len(rows), rows.device
        log_bands = rows[..., :NUM_COEFFICIENTS] @ self.inverse.T  # [N, R, 26], but for a constant per row
        energy = rows[..., 14] * (np.log(10) * 2)  # natural log of the voice band's power, 0 at the speech level
        constant = energy - log_bands[..., VOICE_BAND].logsumexp(-1)
        log_bands = log_bands + constant[..., None]
        log_bands = self._other_tract(log_bands, _chosen(n, 0.7, device))
        log_bands = log_bands + self._microphone(n, device)[:, None]
        bands = log_bands.clamp(-30, 6).exp()
        in_room = _chosen(n, settings.room_share, device)
        bands = self._room(bands, in_room)
        speech_level = _loud_level(bands[..., VOICE_BAND].sum(-1))
        bands = bands / speech_level[:, None, None]
        bands, ratio, noisy = self._noisy(bands)
        bands = self._narrow(bands, _chosen(n, settings.band_share, device))
        gain_db = settings.gain_db * torch.randn(n, device=device)
        floor = self.floor * 10 ** (-(level_db + gain_db + full_scale_db()).clamp(min=10) / 10)[:, None, None]
        noise = _steady_noise(bands)
        above_noise_db = _above_noise_db(bands + floor, noise + floor)
        heard = torch.where(noisy[:, None, None], _without_noise(bands, noise, floor), bands) + floor
        total = heard[..., VOICE_BAND].sum(-1)
        new_energy = (total / _loud_level(total)[:, None] + 1e-9).log10() / 2  # in 20 dB
        pitch, voicing, harmonicity = self._voicing(rows[..., 12], rows[..., 13], rows[..., 15], ratio)
        prosody = torch.stack([pitch, voicing, new_energy.clamp(-3, 1.5), harmonicity], -1)
        worse = torch.cat([heard.log() @ self.basis.T, prosody, self._roughness(rows[..., 16:], ratio, in_room)], -1)
        chosen = _chosen(n, amount, device)[:, None]
        pauses = _pauses(20 * new_energy, above_noise_db)
        return torch.where(chosen[..., None], worse, rows), torch.where(chosen, pauses, silent)

    def _other_tract(self, log_bands, chosen):
        """Formants moved together, as in a longer or shorter vocal tract: bands are read at other frequencies."""
        factor = torch.exp(self.settings.tract * torch.randn(len(chosen), device=log_bands.device))
        factor = torch.where(chosen, factor, 1.0)
        mel = torch.log10(1 + self.hertz[None] * factor[:, None] / 700) * (27 / np.log10(1 + 8000 / 700)) - 1
        mel = mel.clamp(0, 25)
        low = mel.floor().clamp(max=24)
        share, low = mel - low, low.long()
        matrix = (
            functional.one_hot(low, 26) * (1 - share)[..., None] + functional.one_hot(low + 1, 26) * share[..., None]
        )
        return log_bands @ matrix.transpose(1, 2)

    def _microphone(self, n, device):
        """A smooth random curve over the bands `[N, 26]`, natural log of power."""
        knots = torch.randn(n, 1, 7, device=device) * self.settings.equaliser_db * 0.23
        curve = functional.interpolate(knots, 26, mode="linear", align_corners=True)[:, 0]
        return curve - curve.mean(1, keepdim=True)

    def _room(self, bands, chosen):
        decay_rows = torch.rand(len(chosen), 1, device=bands.device) * 14 + 3
        age = torch.arange(_TAIL_ROWS, device=bands.device)
        tail = torch.exp(-age / decay_rows)
        tail[:, 0] = 0
        wet = 10 ** (-(torch.rand(len(chosen), 1, device=bands.device) * 16 + 3) / 10)
        tail = tail / tail.sum(1, keepdim=True) * wet * chosen[:, None]
        tail[:, 0] = 1
        size = bands.shape[1] + _TAIL_ROWS
        spectrum = torch.fft.rfft(bands, size, dim=1) * torch.fft.rfft(tail, size, dim=1)[..., None]
        return torch.fft.irfft(spectrum, size, dim=1)[:, : bands.shape[1]].clamp(min=1e-13)

    def _noisy(self, bands):
        """Noise or other voices added; the share of speech in the magnitude of the spectrum `[N, R]`; and which items
        are noisy now `[N]`."""
        settings, (n, length, _), device = self.settings, bands.shape, bands.device
        low, high = settings.snr_db
        snr_db = low + (high - low) * torch.rand(n, device=device) ** settings.snr_skew
        quiet = _chosen(n, settings.quiet_share, device)
        snr_db = torch.where(quiet, 90.0, snr_db)
        colour = (self.hertz / 1000) ** (-2 * torch.rand(n, 1, device=device) * _chosen(n, 0.5, device)[:, None])
        shape = self.floor * colour
        shape = shape / shape[:, VOICE_BAND].sum(-1, keepdim=True)
        # powers scatter as gamma variates do (cube of Wilson and Hilferty)
        spread = 1 / self.bins.sqrt()
        scatter = (1 - spread**2 / 9 + spread / 3 * _field(n, length, device)).clamp(min=0.1) ** 3
        noise = shape[:, None] * scatter
        swell = functional.interpolate(torch.randn(n, 1, 8, device=device), length, mode="linear")[:, 0]
        noise = noise * torch.exp(0.7 * swell * _chosen(n, 0.3, device)[:, None])[..., None]
        others = bands.roll(1, 0)
        babble = _chosen(n, settings.babble_share, device)
        added = torch.where(babble[:, None, None], others, noise)
        added = added * 10 ** (-torch.where(babble, snr_db.clamp(min=8), snr_db) / 10)[:, None, None]
        # waves add, not powers: they cancel or help each other
        cross = 1.3 * (bands * added).sqrt() * _field(n, length, device).clamp(-2, 2) * spread
        mixed = torch.maximum(bands + added + cross, 0.05 * (bands + added))
        # the pitch is found in magnitudes of the whole spectrum, without pre-emphasis
        magnitudes = [(x / self.floor).sqrt() @ self.bins for x in (bands, mixed)]
        return mixed, (magnitudes[0] / magnitudes[1].clamp(min=1e-9)).clamp(0, 1), ~quiet

    def _narrow(self, bands, chosen):
        """Telephone bands: weak above 3.2 to 4 kHz, sometimes below 300 Hz."""
        n, device = len(chosen), bands.device
        top = 3200 + 900 * torch.rand(n, 1, device=device)
        depth = 3 + 9 * torch.rand(n, 1, device=device)  # natural log of power
        loss = depth * ((self.hertz - top) / 250).clamp(0, 1)
        loss = loss + depth * ((330 - self.hertz) / 150).clamp(0, 1) * _chosen(n, 0.3, device)[:, None]
        return bands * torch.exp(-loss * chosen[:, None])[:, None]

    @staticmethod
    def _voicing(pitch, voicing, harmonicity, ratio):
        """Noise hides the period: the peak of the autocorrelation shrinks with the share of speech."""
        kept = ((harmonicity * ratio - 0.15) / 0.3).clamp(0, 1)
        kept = torch.where(ratio > 0.98, voicing, torch.minimum(kept, voicing))
        return torch.where(kept > 0.3, pitch, 0.0), kept, harmonicity * ratio

    @staticmethod
    def _roughness(roughness, ratio, in_room):
        """Noise fills the dips of the loudness and has some of its own, a room's echoes fill them, fast ones more."""
        most = torch.tensor([0.6, 0.9], device=roughness.device)  # of slow and of fast ones
        left = 1 - in_room[:, None] * torch.rand(len(roughness), 2, device=roughness.device) * most
        depth = (10**roughness - 1e-3) * (ratio[..., None] * left[:, None]) ** 2 + 0.02 * (1 - ratio[..., None]) ** 2
        return (depth + 1e-3).log10()


def _chosen(n: int, share: float, device) -> torch.Tensor:
    return torch.rand(n, device=device) < share


def _steady_noise(bands: torch.Tensor) -> torch.Tensor:
    """Mean filter energies `[N, 1, 26]` of the quietest of rows `[N, R, 26]`, as for a recording."""
    loudness = functional.avg_pool1d(bands[:, None, :, VOICE_BAND].sum(-1), 5, 1, 2)[:, 0]
    count = max(1, int(AudioConfig().noise_share * bands.shape[1]))
    quietest = loudness.topk(count, dim=1, largest=False).indices
    return bands.gather(1, quietest[..., None].expand(-1, -1, bands.shape[2])).mean(1, keepdim=True)


def _field(n: int, length: int, device) -> torch.Tensor:
    """Normal variates `[n, length, 26]`, as alike as the powers of noise are in neighbouring rows, which share 15 of
    their 25 ms (correlation 0.5), and in neighbouring filters, which share half their width (0.27)."""
    near = torch.tensor([0.3, 1, 0.3], device=device)[:, None] * torch.tensor([0.14, 1, 0.14], device=device)
    near = near / near.norm()
    return functional.conv2d(torch.randn(n, 1, length + 2, 28, device=device), near[None, None])[:, 0]


def _above_noise_db(bands: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """How far rows `[N, R, 26]` stand out of the noise `[N, 1, 26]`, `[N, R]`, as for a recording."""
    return 10 * (_smooth(bands, 5, 1) / noise)[..., VOICE_BAND].mean(-1).log10()


def _without_noise(bands: torch.Tensor, noise: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """Filter energies `[N, R, 26]` less their steady noise `[N, 1, 26]`, as the analysis of a recording frees it."""
    config = AudioConfig()
    distance_db = 10 * (_loud_level(bands[..., VOICE_BAND].sum(-1)) / noise[:, 0, VOICE_BAND].sum(-1)).log10()
    low, high = config.noise_below_level_db
    trust = ((distance_db - low) / (high - low)).clamp(0, 1)
    noise = _smooth((noise - floor).clamp(min=0) * trust[:, None, None], 1, 3)
    power = _smooth(bands, 3, 3) + floor
    return bands * (1 - config.noise_factor * noise / power).clamp(min=config.noise_least_gain)


def _smooth(bands: torch.Tensor, num_rows: int, num_filters: int) -> torch.Tensor:
    """`[N, R, 26]`, each the mean over so many rows and filters around it."""
    rows, filters = num_rows // 2, num_filters // 2
    padded = functional.pad(bands[:, None], (filters, filters, rows, rows), mode="replicate")
    return functional.avg_pool2d(padded, (num_rows, num_filters), 1)[:, 0]


def _pauses(energy_db: torch.Tensor, above_noise_db: torch.Tensor) -> torch.Tensor:
    """Bool `[N, R]`: rows in pauses, as the analysis of a recording finds them, from energies against its level and
    against its noise."""
    config = AudioConfig()
    power = 10 ** (energy_db / 10)
    smooth = 10 * functional.avg_pool1d(power[:, None], 3, 1, 1, count_include_pad=True)[:, 0].clamp(min=1e-9).log10()
    standing_out_db = 10 * _loud_level(10 ** (above_noise_db / 10)).log10()[:, None]
    near_noise_db = (config.pause_above_noise * standing_out_db).clamp(*config.pause_above_noise_db)
    noise_only = above_noise_db < torch.minimum(near_noise_db, standing_out_db - config.pause_below_loud_db)
    quiet = noise_only | (smooth < -config.pause_below_level_db)
    length = int(config.min_pause_s * 100) | 1  # odd, so that a run of this many rows survives as it is
    shrunk = -functional.max_pool1d(-quiet[:, None].float(), length, 1, length // 2)
    return functional.max_pool1d(shrunk, length, 1, length // 2)[:, 0] > 0.5


def _loud_level(power: torch.Tensor) -> torch.Tensor:
    """Mean power of the loud of rows `[N, R]`, `[N]`, as the analysis of a recording takes its level."""
    loud = power >= torch.quantile(power, 0.98, dim=1, keepdim=True) * 0.01
    return (power * loud).sum(1) / loud.sum(1).clamp(min=1)
