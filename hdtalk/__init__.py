"""HDTalk re-voices a talking-head video: same shot, same person, new speech.

The names below are the public interface; they are imported when first used, so `import hdtalk` stays light.
"""

import importlib

__version__ = "0.1.0"

_HOME_OF = {
    "edit_video": "pipeline",
    "invert_video": "pipeline",
    "predict_landmarks": "landmarks",
    "load_bundle": "weights",
    "HDTalkError": "errors",
}
_MODULES = ("weights",)

__all__ = [*_HOME_OF, *_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"hdtalk.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"hdtalk.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'hdtalk' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
