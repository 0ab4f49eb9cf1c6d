__version__ = "0.1.0"

_FRONT = ("SpectraMind", "explore")   # of pipeline.facade, loaded when they are asked for: the command line starts quicker without


def __getattr__(name):
    if name not in _FRONT: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module("spectramind.pipeline.facade"), name)


def __dir__(): return sorted([*globals(), *_FRONT])
