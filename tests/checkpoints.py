"""Small checkpoints of the real classes, with random weights, made on the spot: `save(family, folder)` leaves
what `save_pretrained` leaves.

Weights and codebooks are drawn at random so that codes depend on what is encoded: comparing codes says
something.
"""

from uti.compat import torchaudio  # isort: skip # noqa: F401, before transformers

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers.models.glm_image.configuration_glm_image import GlmImageConfig


def vq_model(**config: Any) -> nn.Module:
    "Make a VQModel of diffusers, which takes seconds to import."
    from diffusers import VQModel

    return VQModel(**config)


HUBERT = {
    "model_type": "hubert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
W2V = {
    "model_type": "wav2vec2-bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "feature_projection_input_dim": 160,
}
TWO_BRANCHES = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "encoder_hidden_size": 4,
    "semantic_model_config": W2V, "quantization_dim": 80, "max_position_embeddings": 512,
}  # fmt: skip
ENCODEC = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64, "codebook_dim": 16, "num_lstm_layers": 1}
STEREO = {
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
}
VQ = {
    "base_channels": 32,
    "channel_multiplier": [1, 1, 2],
    "num_res_blocks": 1,
    "embed_dim": 8,
    "latent_channels": 8,
    "num_embeddings": 128,
}
FLAVA = {"hidden_size": 8, "num_blocks_per_group": 1, "vocab_size": 64}
EMU3 = {
    "base_channels": 32,
    "channel_multiplier": [1, 2, 2],
    "num_res_blocks": 1,
    "embed_dim": 4,
    "latent_channels": 4,
    "codebook_size": 256,
    "attn_resolutions": [2],
    "hidden_size": 64,
}
LLM = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def dac(ratios: list[int], **more: Any) -> dict[str, Any]:
    "The acoustic half of X-Codec and Higgs Audio, which are DACs."
    return {
        "model_type": "dac",
        "encoder_hidden_size": 4,
        "downsampling_ratios": ratios,
        "upsampling_ratios": ratios,
        "hidden_size": 16,
        "codebook_size": 16,
        "n_codebooks": 2,
        "codebook_dim": 4,
        **more,
    }


AUDIO: dict[str, Callable[[], nn.Module]] = {
    "encodec_24khz": lambda: hf.EncodecModel(hf.EncodecConfig(**ENCODEC)),
    "encodec_32khz": lambda: hf.EncodecModel(hf.EncodecConfig(**ENCODEC, sampling_rate=32_000,
        upsampling_ratios=[8, 5, 4, 4], target_bandwidths=[0.3, 1.2])),
    "encodec_48khz": lambda: hf.EncodecModel(hf.EncodecConfig(**ENCODEC, **STEREO, sampling_rate=48_000,
        target_bandwidths=[3.0, 6.0])),
    "dac": lambda: hf.DacModel(hf.DacConfig(encoder_hidden_size=4, downsampling_ratios=[2, 4, 5, 8],
        decoder_hidden_size=64, n_codebooks=4, codebook_size=64, codebook_dim=4, sampling_rate=24_000)),
    "mimi": lambda: hf.MimiModel(
        hf.MimiConfig(
            num_filters=4, hidden_size=16, codebook_size=64, codebook_dim=8,
            vector_quantization_hidden_dimension=8, num_quantizers=8, num_semantic_quantizers=1,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
            intermediate_size=32, upsample_groups=16,
        )
    ),
    "xcodec": lambda: hf.XcodecModel(hf.XcodecConfig(acoustic_model_config=dac([8, 5, 4, 2],
        decoder_hidden_size=32), semantic_model_config=HUBERT, codebook_size=64,
        target_bandwidths=(0.3, 0.6, 1.2))),
    "xcodec2": lambda: hf.Xcodec2Model(hf.Xcodec2Config(**TWO_BRANCHES)),
    "neucodec": lambda: hf.NeuCodecModel(hf.NeuCodecConfig(**TWO_BRANCHES)),
    "higgs_audio_v2_tokenizer": lambda: hf.HiggsAudioV2TokenizerModel(
        hf.HiggsAudioV2TokenizerConfig(acoustic_model_config=dac([8, 5, 4, 2, 3], decoder_hidden_size=64),
            semantic_model_config=HUBERT, codebook_size=64, target_bandwidths=(0.3, 0.6, 1.2))
    ),
}  # fmt: skip
IMAGE: dict[str, Callable[[], nn.Module]] = {
    "chameleon_vqgan": lambda: hf.ChameleonVQVAE(hf.ChameleonVQVAEConfig(resolution=32, **VQ)),
    "janus_vqgan": lambda: hf.JanusVQVAE(hf.JanusVQVAEConfig(num_patches=8, **VQ)),
    "emu3_vqgan": lambda: hf.Emu3VQVAE(hf.Emu3VQVAEConfig(**EMU3)),
    "VQModel": lambda: vq_model(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4, latent_channels=4, num_vq_embeddings=256,
        sample_size=32
    ),
    "VQModel_lookup": lambda: vq_model(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, norm_num_groups=4, latent_channels=4, num_vq_embeddings=256,
        lookup_from_codebook=True
    ),
    "flava_image_codebook": lambda: hf.FlavaImageCodebook(hf.FlavaImageCodebookConfig(**FLAVA)),
    "flava": lambda: hf.FlavaForPreTraining(
        hf.FlavaConfig(image_codebook_config=FLAVA, **{
            f"{part}_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 16, "vocab_size": 64} for part in ("text", "image", "multimodal")
        })
    ),
    "emu3": lambda: hf.Emu3ForConditionalGeneration(hf.Emu3Config(vq_config=EMU3, text_config=LLM,
        vocabulary_map={"<image>": 2, "<|visual token 000000|>": 100})),
    "chameleon": lambda: hf.ChameleonForConditionalGeneration(hf.ChameleonConfig(vq_config={"resolution": 32,
        **VQ}, vocabulary_map={"IMGIMGA": 1, "<image>": 2}, **LLM)),
    "janus": lambda: hf.JanusForConditionalGeneration(
        hf.JanusConfig(
            text_config={"model_type": "llama", **LLM}, vq_config={"num_patches": 8, **VQ},
            vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 64, "patch_size": 8, "projection_dim": 16},
        )
    ),
    "glm_image": lambda: hf.GlmImageForConditionalGeneration(
        GlmImageConfig(
            text_config=LLM, vq_config={"embed_dim": 16, "num_embeddings": 64, "latent_channels": 32},
            vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "image_size": 64, "patch_size": 8,
                "intermediate_size": 32},
        )
    ),
}  # fmt: skip
CORPUS = ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs."] * 10


def tokenizer(model: str) -> hf.PreTrainedTokenizerFast:
    "A tokenizer trained on two sentences that puts a special token before each text, as most do by default."
    special = {"special_tokens": ["<unk>", "<s>"], "show_progress": False}
    if model in ("byte_level_bpe", "qwen"):  # as GPT-2 and Llama 3 have; Qwen's composes characters
        found = Tokenizer(models.BPE())
        found.normalizer = normalizers.NFC() if model == "qwen" else None
        found.pre_tokenizer, found.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        trainer = trainers.BpeTrainer(
            vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special
        )
    elif model == "llama":  # Llama 1 and 2: a space is a letter, and what is unknown is spelled in bytes
        found = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        found.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
        ])  # fmt: skip
        every_byte = [f"<0x{byte:02X}>" for byte in range(256)]
        special["special_tokens"] += every_byte
        trainer = trainers.BpeTrainer(vocab_size=400, **special)
    elif model == "unigram":  # as T5 and other models of SentencePiece have
        found = Tokenizer(models.Unigram())
        found.pre_tokenizer, found.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=100, unk_token="<unk>", **special)
    else:  # word_piece, as BERT has
        found = Tokenizer(models.WordPiece(unk_token="<unk>"))
        found.normalizer, found.pre_tokenizer, found.decoder = (
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
        )
        trainer = trainers.WordPieceTrainer(vocab_size=200, **special)
    found.train_from_iterator(CORPUS, trainer)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", found.token_to_id("<s>"))]
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", unk_token="<unk>")


TEXT = {
    name: partial(tokenizer, name) for name in ("byte_level_bpe", "qwen", "llama", "unigram", "word_piece")
}
OPTIONS = {
    "emu3_vqgan": {"image_size": 32},
    "emu3": {"image_size": 32},
    "glm_image": {"image_size": 64},
    "VQModel": {"image_size": 32},
    "VQModel_lookup": {"image_size": [32, 48]},
    "flava_image_codebook": {"image_size": [48, 64]},
}  # of `HFImage`, where the config states no size


def liven(model: nn.Module, codebooks: float = 0.05) -> nn.Module:
    """Draw the weights of `model` again so that its codes depend on what it encodes.

    As libraries initialise them, deep encoders pass on little but their biases, and codes that hardly vary
    are equal to anything. Here biases are zero, every layer keeps the variance of its input
    (He et al. 2015, without the factor for ReLU), and codebooks are normal with standard deviation
    `codebooks`.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif name.endswith("original0"):  # the length of a weight whose direction is `original1`
            nn.init.ones_(parameter)
        elif name.endswith("quantize.embedding.weight"):
            nn.init.normal_(parameter, std=codebooks)
        elif parameter.ndim > 1 and "embed" not in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for module in model.modules():
        for name in ("embed", "embed_sum"):
            table = module._buffers.get(name)
            if table is not None and table.ndim == 2:
                table.normal_(std=codebooks)
        if isinstance(module, hf.FlavaImageCodebook):  # classes that all images score alike decide nothing
            with torch.inference_mode():
                scores = module(torch.rand(4, 3, 64, 64))
            module.blocks.output.conv.bias.data = -scores.mean((0, 2, 3)).clone()
    return model


def make(family: str) -> nn.Module:
    "The model, in eval mode, the same every time."
    torch.manual_seed(0)
    return liven((AUDIO | IMAGE)[family]().eval())


def save(family: str, folder: Path) -> Path:
    "A checkpoint of `family` in `folder / family`, which is returned."
    (TEXT[family]() if family in TEXT else make(family)).save_pretrained(folder / family)
    return folder / family
