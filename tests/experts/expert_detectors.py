"""Tiny checkpoints with random weights of the models that find or outline what they are asked for."""

import string

import pytest
import torch

SIDE = 64  # to which processors bring a picture; Grounding DINO's coarsest map needs more than one cell


@pytest.fixture(scope="session")
def detectors(tmp_path_factory):
    """Folder of a checkpoint for each family, made when it is first asked for."""

    class Folders(dict):
        def __missing__(self, family):
            self[family] = tmp_path_factory.mktemp(family)
            model, processor = MAKERS[family]()
            model.save_pretrained(self[family])
            processor.save_pretrained(self[family])
            return self[family]

    return Folders()


@pytest.fixture(scope="session")
def models(detectors):
    """The models of the package over those checkpoints, each loaded once."""
    from medeyes_monai.experts.grounding_models import ConceptSegmenter, ZeroShotDetector
    from medeyes_monai.experts.sam import BoxSegmenter

    return {
        "grounding_dino": ZeroShotDetector(str(detectors["grounding_dino"]), threshold=0.2),
        "owlv2": ZeroShotDetector(str(detectors["owlv2"]), threshold=0.2),
        "sam3": ConceptSegmenter(str(detectors["sam3"]), threshold=0.2),
        "sam": BoxSegmenter(str(detectors["sam"])),
    }


def spread_out(model, deviation=0.3):
    """Give weights that tell pictures and words apart; those of training's start hardly do."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, deviation, generator=generator)
    return model.eval()


def grounding_dino():
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        SwinConfig,
    )
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
        GroundingDinoImageProcessorPil,
    )

    words = [f"[unused{n}]" for n in range(1030)]  # the model knows some words by BERT's numbers
    for number, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        words[number] = word
    words[1012], words[1029] = ".", "?"
    for number, letter in enumerate(string.ascii_lowercase):
        words[200 + number], words[300 + number] = letter, f"##{letter}"
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(words)}, model_max_length=64)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=SIDE,
            embed_dim=8,
            depths=[1] * 4,
            num_heads=[1] * 4,
            window_size=2,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        ),
        num_queries=8,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=64,
    )
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 192})
    return spread_out(GroundingDinoForObjectDetection(config), 0.1), GroundingDinoProcessor(images, tokenizer)


def letters_of_clip():
    from transformers import CLIPTokenizer

    words = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=16)


TINY_CLIP_TEXT = {
    "vocab_size": 54,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 52,
    "eos_token_id": 53,
    "pad_token_id": 53,
}


def owlv2():
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=TINY_CLIP_TEXT,
        vision_config={**vision, "image_size": SIDE, "patch_size": 16},
        projection_dim=16,
    )
    images = Owlv2ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return spread_out(Owlv2ForObjectDetection(config)), Owlv2Processor(images, letters_of_clip())


def sam():
    from transformers import SamConfig, SamModel, SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [0],
            "mlp_dim": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": SIDE,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    images = SamImageProcessorPil(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    model = spread_out(SamModel(config))
    model.mask_decoder.iou_prediction_head.proj_out.bias.data.fill_(0.6)  # fits that are mostly above 0
    return model, SamProcessor(images)


def sam3():
    from transformers import Sam3Config, Sam3Model, Sam3Processor

    from medeyes_monai.experts.sam3_images import Sam3ImageProcessorPil

    small = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**small, "num_layers": 1, "intermediate_size": 16}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                **small,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "image_size": SIDE,
                "pretrain_image_size": SIDE,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [0],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={"model_type": "clip_text_model", **TINY_CLIP_TEXT, "projection_dim": 16},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config=small,
    )
    images = Sam3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return spread_out(Sam3Model(config), 0.2), Sam3Processor(images, letters_of_clip())


MAKERS = {"grounding_dino": grounding_dino, "owlv2": owlv2, "sam": sam, "sam3": sam3}
