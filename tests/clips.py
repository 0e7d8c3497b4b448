"""Small checkpoints of the schema of OpenAI's CLIP, SigLIP and SigLIP 2, with random weights."""

import json

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

CONFIGS = {
    "clip": (transformers.CLIPConfig, transformers.CLIPModel),
    "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    "siglip2": (transformers.Siglip2Config, transformers.Siglip2Model),
}
WORDS = ("a red circle", "a dog in the snow", "A Blue Square!", "")


def clip_tokenizer():
    """Bytes, and the few merges that make "a</w>" and "re" tokens."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*sorted(letters), *(letter + "</w>" for letter in sorted(letters))]
    merges = [("r", "e"), ("re", "d</w>"), ("d", "o"), ("i", "n</w>")]
    pieces += ["".join(merge) for merge in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16)


def gemma_like_tokenizer():
    """A BPE that falls back to bytes, lower-cased, with </s> behind and padding at the right."""
    pieces = ["<pad>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*"abcdefghijklmnopqrstuvwxyz"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaces])
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=64,
    )


def preprocessing(kind, side):
    """What the checkpoint's preprocessor_config.json says."""
    if kind == "clip":
        said = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        said |= {"do_center_crop": True, "image_mean": mean, "image_std": std, "resample": 3}
        return said | {"image_processor_type": "CLIPImageProcessor"}
    half = [0.5, 0.5, 0.5]
    said = {"image_mean": half, "image_std": half, "size": {"height": side, "width": side}}
    if kind == "siglip2":
        said = {"image_mean": half, "image_std": half, "max_num_patches": 9, "patch_size": 8}
        return said | {"image_processor_type": "Siglip2ImageProcessor", "resample": 2}
    return said | {"image_processor_type": "SiglipImageProcessor", "resample": 3}


def save_clip(folder, kind="clip", seed=0, act=None, side=24, patch=8, **tower):
    """Save a small checkpoint with all its files -> the model of `transformers`."""
    tokenizer = clip_tokenizer() if kind == "clip" else gemma_like_tokenizer()
    act = act or ("quick_gelu" if kind == "clip" else "gelu_pytorch_tanh")
    shared = {"hidden_act": act, "num_attention_heads": 4, "num_hidden_layers": 2} | tower
    shared = {"hidden_size": 32, "intermediate_size": 48} | shared
    vision = {**shared, "patch_size": patch}
    vision |= {"num_patches": 9} if kind == "siglip2" else {"image_size": side}
    text = {**shared, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    made_config, made_model = CONFIGS[kind]
    more = {}
    if kind == "clip":
        more["projection_dim"] = 20
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text |= {**ends, "pad_token_id": tokenizer.pad_token_id}
    config = made_config(text_config=text, vision_config=vision, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = made_model(config).eval()
        for name, tensor in model.named_parameters():  # nothing stays as it was made
            if "logit" not in name:
                tensor.data += 0.1 * torch.randn_like(tensor)
        model.logit_scale.data.fill_(2.5)
        if kind != "clip":
            model.logit_bias.data.fill_(-3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = json.dumps(preprocessing(kind, side))
    (folder / "preprocessor_config.json").write_text(said)
    return model
