"""A Stable unCLIP pipeline of the real classes with a few thousand random weights, made on the spot."""

from pathlib import Path

import torch

from uti.compat import torchaudio  # noqa: F401, before transformers


def save_small_unclip(folder: Path, embedding: int = 32, pixels: int = 32) -> Path:
    """Write the pipeline to `folder`, as the published one lies on a disk: it takes image embeddings [batch,
    embedding] and draws images of `pixels` a side. Returns `folder`.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableUnCLIPImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    width = 32  # of the text's features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=pixels // 2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 32),
            norm_num_groups=8,
            layers_per_block=1,
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            class_embed_type="projection",  # of the embedding and, as wide, of the level of its noise
            projection_class_embeddings_input_dim=2 * embedding,
            cross_attention_dim=width,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
        )
        text = CLIPTextConfig(
            vocab_size=3,
            hidden_size=width,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            projection_dim=embedding,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        pipeline = StableUnCLIPImg2ImgPipeline(
            feature_extractor=CLIPImageProcessor(),
            image_encoder=CLIPVisionModelWithProjection(vision),
            image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=embedding),
            image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            tokenizer=CLIPTokenizer(model_max_length=8),
            text_encoder=CLIPTextModel(text),
            unet=unet,
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                prediction_type="v_prediction",
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            vae=vae,
        )
    pipeline.save_pretrained(folder)
    return folder
