"""Sizes of the smallest speech networks that the tests train and run."""

TINY_SPEECH = {
    "content_encoder": {"width": 2, "hidden": 8, "code_size": 6},
    "emotion_encoder": {"width": 2, "hidden": 8, "code_size": 8},
    "landmark_predictor": {
        "content_size": 6,
        "emotion_size": 8,
        "reference_sizes": (8, 4),
        "lstm_size": 8,
        "num_components": 5,
    },
    "alignment": {"token_size": 8, "hidden": 8},
}
