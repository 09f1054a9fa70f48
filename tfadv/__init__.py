"""tfadv: attack Keras image classifiers, make them robust, prove the difference.

Importing it switches on oneDNN for TensorFlow on CPUs (about ten times faster
on the measured machines; TensorFlow leaves it off on CPUs without AVX-512),
unless `TF_ENABLE_ONEDNN_OPTS` is set.  So import tfadv before TensorFlow.
"""

import importlib
import os
import sys
import warnings

__version__ = "0.1.0"

if "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
    if "tensorflow" in sys.modules:
        warnings.warn(
            "TensorFlow was imported before tfadv, so oneDNN may be off and CPUs slow: "
            "import tfadv first, or set TF_ENABLE_ONEDNN_OPTS=1 yourself.",
            stacklevel=2,
        )
    else:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"


def __getattr__(name):
    """Loads `tfadv.attacks` and the like at first use, so that `import tfadv` does not load TensorFlow."""
    if name in ("attacks", "datasets", "evaluation", "models", "surrogate", "training"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
