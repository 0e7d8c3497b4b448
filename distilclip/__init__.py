"""DistilCLIP: CLIP built by hand, one chapter of the book a module."""

from distilclip.attention import MultiHeadAttention
from distilclip.data import augment, load_pairs
from distilclip.loss import contrastive_loss, sigmoid_loss
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.patches import PatchEmbedding, patchify, unpatchify
from distilclip.search import ImageIndex, retrieval_metrics, zero_shot_classify
from distilclip.text import TextEncoder
from distilclip.train import TrainConfig, train
from distilclip.vit import ViT, ViTConfig

__version__ = "0.1.0"

__all__ = [
    "DistilCLIP",
    "DistilCLIPConfig",
    "ImageIndex",
    "MultiHeadAttention",
    "PatchEmbedding",
    "TextEncoder",
    "TrainConfig",
    "ViT",
    "ViTConfig",
    "augment",
    "contrastive_loss",
    "load_pairs",
    "patchify",
    "retrieval_metrics",
    "sigmoid_loss",
    "train",
    "unpatchify",
    "zero_shot_classify",
]
