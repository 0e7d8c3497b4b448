"""What a training run imports and builds once per process: the server of workers has it ready."""

import contextlib

import matplotlib
import PIL.Image
import pytest  # noqa: F401
import torch.profiler
import torch.utils.data  # noqa: F401
from transformers import AutoTokenizer, DistilBertModel  # noqa: F401

import distilclip.training  # noqa: F401

PIL.Image.init()
matplotlib.get_data_path()
with contextlib.suppress(ImportError):  # hundreds of patterns, for every architecture
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("distilbert")
