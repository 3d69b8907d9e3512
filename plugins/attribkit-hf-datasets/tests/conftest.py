"""The cache of the library datasets is a temporary folder, and nothing is downloaded."""

import os
import tempfile

_CACHE = tempfile.TemporaryDirectory()
os.environ |= {"HF_DATASETS_CACHE": _CACHE.name, "HF_HUB_OFFLINE": "1"}  # read when datasets is imported
