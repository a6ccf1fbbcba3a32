"""Shapes of the papers' networks, equation (1) against plain numpy, stretches against windows, the one-file model."""

import numpy as np
import pytest
import torch
from tiny_speech import TINY_SPEECH

from hdtalk.models.alignment import AlignmentNetwork
from hdtalk.models.content_encoder import ContentEncoder
from hdtalk.models.emotion_encoder import EmotionEncoder
from hdtalk.models.landmark_predictor import LandmarkPredictor
from hdtalk.models.speech import SpeechModel, relative_to_voice, voices_of
from hdtalk.models.speech_decoder import SpeechDecoder


def shapes_of(network, *inputs):
    """Output shapes of every layer that is not a container."""
    shapes, hooks = [], []
    for layer in network.modules():
        if not list(layer.children()):
            hooks.append(layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:]))))
    with torch.no_grad():
        result = network(*inputs)
    for hook in hooks:
        hook.remove()
    return shapes, result


def test_content_encoder_has_the_papers_shapes():
    network = ContentEncoder().eval()
    shapes, code = shapes_of(network, torch.zeros(1, 28, 12))
    assert code.shape == (1, 256)
    for expected in [(64, 28, 12), (128, 28, 12), (128, 26, 5), (256, 26, 5), (512, 26, 5), (512, 12, 2), (1, 2048)]:
        assert expected in shapes, expected
    assert network.dense[0].in_features == 12288


def test_emotion_encoder_has_the_papers_shapes():
    network = EmotionEncoder(num_features=12).eval()
    shapes, code = shapes_of(network, torch.zeros(1, 28, 12))
    assert code.shape == (1, 128)
    for expected in [(64, 12, 28), (64, 12, 13), (256, 12, 13), (256, 1, 13), (512, 1, 13), (512, 1, 6), (1, 2048)]:
        assert expected in shapes, expected
    assert network.classifier.weight.shape == (8, 128)


def test_decoder_has_the_papers_shapes():
    network = SpeechDecoder().eval()
    shapes, windows = shapes_of(network, torch.zeros(1, 256), torch.zeros(1, 128))
    assert windows.shape == (1, 28, 12)
    for expected in [(256, 4, 4), (128, 8, 6), (64, 16, 12), (32, 28, 12), (1, 28, 12)]:
        assert expected in shapes, expected


def test_predictor_has_the_papers_sizes():
    network = LandmarkPredictor()
    assert network.lstm.input_size == 512 + 256 + 128
    assert (network.lstm.num_layers, network.lstm.hidden_size) == (3, 256)
    assert [layer.out_features for layer in network.mlp if isinstance(layer, torch.nn.Linear)] == [256, 32]


def test_predictor_in_chunks_equals_the_whole():
    torch.manual_seed(0)
    network = LandmarkPredictor(6, 8, (8, 4), 8, num_components=5).eval()
    network.components.normal_()
    neutral, content, emotion = torch.randn(1, 68, 2), torch.randn(1, 9, 6), torch.randn(1, 9, 8)
    with torch.no_grad():
        whole, _ = network(neutral, content, emotion)
        first, state = network(neutral, content[:, :4], emotion[:, :4])
        second, _ = network(neutral, content[:, 4:], emotion[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_predictor_hears_what_comes_as_far_as_it_looks_ahead():
    torch.manual_seed(5)
    network = LandmarkPredictor(6, 8, (8, 4), 8, num_components=5, lookahead=(1, 3)).eval()
    network.components.copy_(torch.randn(5, 136))
    neutral, emotion = torch.randn(1, 68, 2), torch.randn(1, 10, 8)
    content = torch.randn(1, 10 + network.reach, 6, requires_grad=True)
    whole, _ = network(neutral, content, emotion)
    (heard,) = torch.autograd.grad(whole[0, 4].square().sum(), content)
    assert (heard[0].abs().sum(-1) > 0).tolist() == [frame <= 4 + 3 for frame in range(13)]
    first, state = network(neutral, content[:, :7], emotion[:, :4])
    second, _ = network(neutral, content[:, 4:], emotion[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_alignment_is_equation_1():
    torch.manual_seed(1)
    network = AlignmentNetwork(token_size=16, hidden=8).eval()
    predicted, original = torch.randn(2, 68, 16), torch.randn(2, 68, 16)
    with torch.no_grad():
        attended = network.attend(predicted, original).numpy()
    w_q, w_k, w_v = (layer.weight.detach().numpy().T for layer in (network.query, network.key, network.value))
    for n in range(2):
        q, k, v = predicted[n].numpy() @ w_q, original[n].numpy() @ w_k, original[n].numpy() @ w_v
        scores = q @ k.T / np.sqrt(16)
        shares = np.exp(scores - scores.max(1, keepdims=True))
        np.testing.assert_allclose(attended[n], shares / shares.sum(1, keepdims=True) @ v, atol=1e-5)


def test_alignment_output_is_one_dense_layer_on_the_attended_tokens():
    torch.manual_seed(2)
    network = AlignmentNetwork(token_size=8, hidden=8).eval()
    pose, face = torch.randn(3, 68, 2), torch.randn(3, 68, 2)
    with torch.no_grad():
        attended = network.attend(network.embed_predicted(face), network.embed_original(pose))
        expected = attended.flatten(1) @ network.dense.weight.T + network.dense.bias
        torch.testing.assert_close(network(pose, face), expected.unflatten(-1, (68, 2)))


@pytest.mark.parametrize(
    ("network", "features"),
    [
        (ContentEncoder(2, 8, 6), 12),
        (ContentEncoder(2, 8, 6, across=True), 12),
        (EmotionEncoder(2, 8, 6), 15),
        (EmotionEncoder(2, 8, 6, across=True), 15),
    ],
)
def test_a_stretch_gives_one_code_per_window(network, features):
    torch.manual_seed(3)
    network.eval()
    rows = torch.randn(2, 4 * 10 + 24, features)
    with torch.no_grad():
        stretch = network.over_rows(rows)
        assert stretch.shape == (2, 10, 6)
        single = network.over_rows(rows[:, :28])
        torch.testing.assert_close(single[:, 0], network(rows[:, :28]))
        # far from the ends, moving the stretch by one window moves the codes by one
        torch.testing.assert_close(network.over_rows(rows[:, 4:])[:, 3:6], stretch[:, 4:7])


def test_speech_model_is_one_state_dict_and_its_sizes():
    torch.manual_seed(4)
    model, twin = SpeechModel(**TINY_SPEECH).eval(), SpeechModel(**TINY_SPEECH).eval()
    twin.load_state_dict(model.state_dict())
    rows, neutral = torch.randn(1, 4 * 6 + 24, 18), torch.randn(1, 68, 2)
    for each in (model, twin):
        each.landmark_predictor.components.copy_(torch.ones(5, 136))
    with torch.no_grad():
        results = []
        for each in (model, twin):
            content = each.content(rows, torch.zeros(12), torch.ones(12))
            emotion = each.emotion(rows, torch.zeros(24)).mean(1, keepdim=True).expand(-1, 6, -1)
            results.append(each.landmark_predictor(neutral, content, emotion)[0])
    assert results[0].shape == (1, 6, 68, 2)
    torch.testing.assert_close(*results)


def melody(num_rows=80):
    """Rows of a voice that rises by an octave at an even pace, and where it speaks: all but ten rows at each end."""
    time = torch.arange(num_rows) / (num_rows - 1)
    mfcc = torch.arange(12.0).expand(num_rows, -1)
    rows = torch.cat([mfcc, time[:, None], torch.ones(num_rows, 1), (torch.arange(num_rows) % 2)[:, None]], 1)
    speaking = torch.zeros(num_rows, dtype=torch.bool)
    speaking[10:-10] = True
    return rows[None], speaking[None]


def test_voice_of_a_known_melody():
    rows, speaking = melody()
    voice = voices_of(rows, speaking)[0]
    torch.testing.assert_close(voice[:12], torch.arange(12.0))
    mean, deviation, ending, step, energy, pace, flutter, change, voiced = voice[12:].tolist()
    assert mean == pytest.approx(0.5, abs=1e-5)
    assert deviation == pytest.approx(12**-0.5, rel=0.02)  # of an even distribution
    assert ending == pytest.approx(0.375, abs=0.01)  # the last quarter's middle against the whole's
    assert step == pytest.approx(1 / 79, rel=1e-4)
    assert (energy, pace, flutter) == pytest.approx((0.5, 1.0, 2.0))
    assert (change, voiced) == pytest.approx((0.0, 1.0))


def test_voice_hears_only_what_is_spoken_and_survives_silence():
    rows, speaking = melody()
    louder = torch.where(speaking[..., None], rows, rows + 5)
    louder[..., 13] = rows[..., 13]
    louder[..., 12] = rows[..., 12]
    torch.testing.assert_close(voices_of(louder, speaking), voices_of(rows, speaking))
    nothing = torch.zeros(1, 30, 15)
    assert torch.isfinite(voices_of(nothing, torch.zeros(1, 30, dtype=torch.bool))).all()


def test_features_are_the_rows_then_relative_then_how_the_voice_moves():
    rows, speaking = melody()
    voice = voices_of(rows, speaking)
    features = relative_to_voice(rows, voice)
    assert features.shape == (1, 80, 36)
    torch.testing.assert_close(features[..., :15], rows)
    torch.testing.assert_close(features[0, :, 27], rows[0, :, 12] - voice[0, 12])
    torch.testing.assert_close(features[0, 7, 28:], voice[0, 13:])
