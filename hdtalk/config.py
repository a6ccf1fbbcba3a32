"""Every default of every stage, once: one frozen dataclass per stage. The command line reads its defaults from here."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CropConfig:
    """FFHQ alignment, smoothed over time as in STIT."""

    scale: float = 1.0
    centre_sigma_frames: float = 1.0
    axes_sigma_frames: float = 3.0
    keep_detail_below: float = 0.1  # changes of the crop (in [-1,1]) below this keep the detail finer than a crop pixel
    back_projections: int = 1  # rounds of sharpening what a crop coarser than its frame blurred; 0: none


@dataclass(frozen=True)
class MediaConfig:
    """What is read, and how the edited video is written."""

    codec: str = "libx264"
    crf: int = 16
    preset: str = "medium"
    encoder_threads: int = 4  # not the machine's own number: x264 writes other bits for another one
    pixel_format: str = "auto"  # yuv420p; yuv444p where the width or height is odd
    audio_bitrate_per_channel: int = 96_000
    max_pixels: int = 8192 * 4320
    max_lost_fraction: float = 0.1  # of the frames read at once, or of 10 s, may be damaged; the nearest good one
    # stands in


@dataclass(frozen=True)
class CompareConfig:
    """Looks of the comparison video."""

    panel_height_px: int = 360
    label_px: int = 32
    gap_px: int = 8
    waveform_px: int = 56
    enlarge_below: float = 0.4  # a face smaller than this share of the frame's shorter side is shown enlarged
    around_face: float = 1.8  # sides of the enlarged region over the face's


@dataclass(frozen=True)
class FaceConfig:
    """Which face is followed and when it counts as missing."""

    face: str = "largest"  # or the index of a face from left to right, or "x,y": a point on it in the first frame
    on_missing: str = "keep"  # keep those frames unedited | interpolate | fail
    max_gap_s: float = 0.4  # shorter gaps are interpolated
    min_confidence: float = 0.3  # mean peak of the heat maps: faces have 0.6 to 0.9, other things up to 0.27
    box_reference: float = 195.0  # FAN: the crop is 200 (w + h) / reference wide
    refine_scale: float = 1.0  # of the FFHQ quad, for the second look: the net then errs as on the edited crops
    max_refinements: int = 3  # looks after the first; one is enough unless the head is tilted
    smooth_sigma_s: float = 0.04
    smooth_mouth_eyes_sigma_s: float = 0.016  # closures last two or three frames and must survive
    chunk_frames: int = 32


@dataclass(frozen=True)
class AudioConfig:
    """Which recordings are accepted, and what counts as a pause."""

    min_duration_s: float = 0.1
    max_duration_s: float = 3600.0
    max_sample: float = 100.0  # of a waveform in [-1, 1]; more is damage and would drown the speech
    silent_level_db: float = -75.0  # quieter recordings hold no speech
    pause_below_level_db: float = 36.0  # a pause is this much quieter than the speech ...
    pause_above_noise: float = 0.15  # ... or this share of the way, in dB, from the recording's steady noise to it, ...
    pause_above_noise_db: tuple[float, float] = (1.5, 6.0)  # ... but at least and at most so far above the noise ...
    pause_below_loud_db: float = 2.0  # ... and so far below the speech
    min_pause_s: float = 0.14  # shorter gaps are the closures of stops
    noise_share: float = 0.05  # of the rows, the quietest ones, are taken for the recording's steady noise ...
    noise_factor: float = 1.5  # ... so many times of which is subtracted from the power in every filter, ...
    noise_least_gain: float = 0.05  # ... but this share of it stays
    noise_min_duration_s: float = 1.0  # shorter recordings do not show what their noise is,
    noise_below_level_db: tuple[float, float] = (1.0, 2.0)  # nor do those without quieter rows: not at all, fully


@dataclass(frozen=True)
class InvertConfig:
    """Equation (4): pivots by the encoder, then the generator is tuned to all frames (PTI). Defaults of preset fast."""

    chunk_frames: int = 32
    shared_steps: int = 40  # optimisation steps on one offset of all pivots before the generator is tuned
    refine_steps: int = 6  # and on each pivot of the first frame and ...
    refine_every: int = 4  # every so many frames after it; those between go along
    refine_rate: float = 0.05  # step size of both, in standard deviations of w
    refine_pull: float = 1e-3  # of each pivot's layers towards their mean
    pivot_rate: float = 0.03  # step size of the pivots while the generator is tuned, in the same unit; 0: they stay,
    # as those of shots of more than 1000 frames do
    mouth_pixels: float = 4.0  # weight of L2 on mouth and lips over the rest
    steps: int = 300  # of the generator, batched, whatever the length of the shot
    passes: int = 0  # over all frames, one frame a step; replaces `steps` when positive
    batch_size: int = 2
    optimiser: str = "muon"  # muon: for the convolutions, the rest by adam | adam: for all
    muon_rate: float = 0.01  # root mean square of a step, of weights with unit variance
    learning_rate: float = 1.4e-3  # of adam
    cosine: bool = True  # the rates fall to zero; otherwise they are constant
    beta2: float = 0.99
    lambda_l2: float = 10.0
    lambda_lpips: float = 1.0
    lambda_structure: float = 2.0  # of 1 - SSIM, while the generator is tuned
    lambda_locality: float = 0.0  # L_R holds its own weights, 0.1 and 0.1, of the PTI paper; codes that stay among the
    # shot's own do not need it (Table II of the README)
    locality_alpha: float = 30.0
    locality_psi: float = 0.5  # truncation of the random codes
    locality_every: int = 4  # steps; its weight is multiplied by this so that the mean stays
    lambda_mouths: float = 10.0  # where lips hardly move: other heads' mouths shall change pictures as before tuning
    mouths_every: int = 2  # steps; its weight is multiplied by this so that the mean stays
    still_lips: float = 0.015  # share of the crop's side: lips whose gap varies less (5 % to 95 %) hardly move, ...
    still_steps: int = 140  # ... and more steps would make the generator forget how they open
    perceptual_side: int = 256  # larger pictures are averaged down to it for LPIPS and SSIM; 0 never
    checkpoint_s: float = 20.0


@dataclass(frozen=True)
class OptimiseConfig:
    """Equations (5) to (7): how the codes follow the target landmarks. Defaults of preset fast."""

    lambda_lpips: float = 1.0
    lambda_fan: float = 5e-3
    lambda_smooth: float = 3e-3
    smoothness: str = "latent"  # latent | feature (L^F_smooth of Table II) | none
    lambda_feature_smooth: float = 3.0  # takes lambda_smooth's place there
    mouth_weight: float = 3.0  # a_i of equation (6)
    eyes_weight: float = 2.0
    bent_mouth_weight: float = 0.3  # the mouth's, where its picture is bent to the target besides (`warp_reach`)
    target_heatmaps: str = "shifted"  # the maps of the picture that the descent starts from, moved | gaussian
    sigma_cells: float = 1.0  # of the Gaussians, as in the landmark nets' training
    latent_space: str = "shot"  # shot: directions of the shot's own codes | whitened: of the generator's w | w+: free
    components: int = 80  # of the first two
    layer_groups: str = "shared"  # shared: one offset for all layers | coarse: for those to 64 px | thirds | per-layer
    lambda_mahalanobis: float = 2e-4  # on the squared length of the whitened offset
    perceptual_mouth: float = 0.0  # weight of LPIPS where the source's mouth and jaw are, wrong by definition
    optimiser: str = "l-bfgs"  # l-bfgs: each frame with its own curvature and step length | adam
    learning_rate: float = 0.03  # of Adam; of L-BFGS, the root mean square of a first step's coordinates
    cosine: bool = True  # Adam's rate falls to zero; otherwise it is constant
    start_ridge: float = 0.1  # in the space of the shot, codes start where a regression over its frames puts them
    start_scale: float = 0.045  # unit of its landmark distances, root of the summed squares, share of the crop's side
    start_length: float = 1.2  # of its Gaussian kernel, in that unit
    start_weight: float = 0.5  # of landmarks outside the mouth
    start_reach: float = 1.5  # how far from the shot's mean face it goes, over the shot's own farthest frame
    others_ridge: float = 1.0  # the rest of the way is told by other heads' mouths, where the bundle has such
    start_smooth_frames: float = 0.5  # sigma over these codes, with smoothness "latent", ...
    rest_smooth_frames: float = 2.0  # ... and over what of the pivots landmarks do not explain
    steps: int = 2
    warm_steps: int = 4  # for frames that start from solved ones
    warp_reach: float = 0.03  # to what such codes do not show, a mouth is bent by at most this, share of the side, ...
    warp_beyond: float = 0.004  # ... and not where it is less than this: the noise of landmarks
    anchors: int = 16  # frames with unlike targets that are solved first; the others start from them; 0: none
    joint: bool = True  # all frames of a chunk at once, smooth to both sides; otherwise one after the other
    chunk_frames: int = 32
    batch_size: int = 4
    plateau: float = 2e-3  # a frame rests when its loss fell by less than this share over `patience` steps; 0: never
    patience: int = 2
    perceptual_side: int = 256


@dataclass(frozen=True)
class StitchConfig:
    """Equation (8) and the paste-back: which region is pasted and how its boundary meets the frame."""

    region: str = "auto"  # what is pasted. face: skin, brows, eyes, nose, mouth, glasses | head: all but background,
    # hat and clothes | lower: mouth and jaw by the landmarks | auto: lower while the upper face keeps its landmarks
    upper_moves: float = 0.02  # share of the crop's side that brows or eyes may move before auto takes the whole face
    dilation: float = 50 / 1024  # width of the boundary ring, share of the crop
    steps: int = 20  # at most, per batch of neighbouring frames
    batch_size: int = 4
    learning_rate: float = 3e-4
    lambda_mask: float = 0.01
    border_threshold: float = 0.06  # a batch is done when its boundary loss is below; 0: never
    warm_start: bool = True  # a batch starts from its neighbour's weights, otherwise from the tuned generator's
    keep_detail: bool = True  # what inversion missed is added back where the edit changes nothing
    detail_threshold: float = 0.12  # change of the picture in [-1, 1] above which it is not
    lent_threshold: float = 0.2  # where it changes something, the shot's frame with the most similar mouth lends what
    # inversion missed of that, unless the two pictures differ there by more than this; 0: nothing is lent
    match_colour: bool = True  # the boundary's remaining colour difference is spread smoothly over the inside


@dataclass(frozen=True)
class SpeechConfig:
    """Landmarks from speech."""

    emotion_span_s: float = 3.0  # the voice's emotion is averaged over this long, pauses left out, ...
    emotion_whole_s: float = 2.0  # and over the whole recording, which counts as so much more speech
    shot_emotion: bool = True  # emotion that the shot's own voice has too is on the person's face already
    strength: float = 1.0  # factor on the displacements
    own_words: float = 0.5  # share of the person's habit that the new words get: of what the shot's own words,
    # predicted, constantly miss of the mouth that says them; 0: none, and lips open as predicted
    own_words_heard: tuple[float, float] = (0.3, 0.6)  # if the lips' gap correlates with the prediction: not, fully
    opening_prior: float = 0.3  # own words tell how far the lips open, too: as predicted, until the squares of their
    # predicted gaps, in face units, have this sum
    opening_range: tuple[float, float] = (0.7, 1.4)  # over what is predicted, at the least and at the most
    tract_spread: float = 0.1  # the words are heard as from vocal tracts so much shorter and longer, too; 0: only as is
    carry: bool = True  # the neutral face is turned to each frame's pose, an affine map carries the displacement along;
    # False: the alignment network turns every predicted face itself, as published, and smooths small lip motion
    turn_prior: float = 0.02  # the network says how a face turns until the shot's poses have this sum of squares, in
    # face units; from then on the shot's own landmarks do
    lips_meet_below: float = 0.055  # gap in face units: predictions shy away from contact, small gaps are closed ...
    lips_free_above: float = 0.095  # ... and those above this are left alone,
    lips_dip: float = 0.01  # if the gap is this much wider before and after, ...
    lips_dip_s: float = 0.16  # ... within this time: lips that stay nearly closed murmur, lips that dip say p, b or m
    lips_heard_db: tuple[float, float] = (14.0, 24.0)  # how far the speech stands out of noise: not closed so, fully
    closing_s: float = 0.16  # how long the lips take to close in a pause, and to part before its end
    pause_gap: float = 0.015  # gap that they keep there, in face units: lips at rest do not press as for a p
    neutral_share: float = 0.06  # at most so many frames, those with the lips closest, show the neutral face ...
    neutral_within: float = 0.005  # ... if their gap is hardly wider than the least one, in face units
    chunk_frames: int = 256


@dataclass(frozen=True)
class EditConfig:
    """A whole run: what belongs to no stage, then the stages' own settings."""

    preset: str = "fast"  # fast | paper
    seed: int = 0
    precision: str = "auto"  # auto | float32 | bfloat16
    audio_longer: str = "pingpong"  # pingpong | loop | freeze | trim: what is shown when the speech outlasts the shot
    audio_shorter: str = "trim"  # trim: the video ends with the speech | silence: it goes on with the mouth closed
    trim_start: float = 0.0  # s
    trim_end: float = 0.0  # s after the shot's start; 0: its end
    spare_s: float = 10.0  # of a shot that outlasts the speech, once to twice so much more is worked on, for its
    # mouths; with a --job that other speech may use, all of it
    audio_mix: str = ""  # "keep-background:DB" puts the source's own sound, changed by DB, under the speech
    overwrite: bool = False
    compare: bool = False
    report: bool = False
    faces: FaceConfig = field(default_factory=FaceConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    invert: InvertConfig = field(default_factory=InvertConfig)
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    stitch: StitchConfig = field(default_factory=StitchConfig)


# What --preset paper changes: frame by frame, full passes, float32, and the constants of the paper and, where it
# refers to them, of PTI and STIT.
PAPER = {
    "precision": "float32",
    "crop": {"back_projections": 0},
    "speech": {
        "carry": False,
        "own_words": 0.0,
        "tract_spread": 0.0,
        "shot_emotion": False,
        "lips_meet_below": 0.0,
        "lips_free_above": 0.0,
    },
    "invert": {
        "shared_steps": 0,
        "pivot_rate": 0.0,
        "mouth_pixels": 1.0,
        "lambda_structure": 0.0,
        "lambda_mouths": 0.0,
        "refine_steps": 0,
        "passes": 300,
        "batch_size": 1,
        "optimiser": "adam",
        "learning_rate": 3e-5,
        "lambda_locality": 1.0,
        "cosine": False,
        "beta2": 0.999,
        "locality_every": 1,
        "perceptual_side": 0,
    },
    "optimise": {
        "lambda_smooth": 1e-4,
        "target_heatmaps": "gaussian",
        "latent_space": "w+",
        "lambda_mahalanobis": 0.0,
        "perceptual_mouth": 1.0,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "cosine": False,
        "steps": 300,
        "warm_steps": 300,
        "anchors": 0,
        "joint": False,
        "batch_size": 1,
        "plateau": 0.0,
        "perceptual_side": 0,
    },
    "stitch": {
        "region": "head",
        "steps": 100,
        "batch_size": 1,
        "border_threshold": 0.0,
        "warm_start": False,
        "keep_detail": False,
        "match_colour": False,
    },
}


@dataclass(frozen=True)
class EvaluateConfig:
    """What part of the picture is compared, and how finely."""

    crop: str = "face"  # the face box at `crop_px` | full: whole frames
    crop_px: int = 256
    face_box_scale: float = 1.3  # side of the face box over the longer side of the landmarks' bounding box
    chunk_frames: int = 16
