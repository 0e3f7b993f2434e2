"""Variants, and how their weights are loaded."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from torch import Tensor, nn

from panosam2_core.config import ModelConfig
from panosam2_core.errors import CheckpointError, ConfigError
from panosam2_core.identify import identify_network, identify_state
from panosam2_core.key_report import KeyReport, compare_keys
from panosam2_core.model import PanoSAM2
from panosam2_core.nn.efficientnet_lite import EfficientNetLite0
from panosam2_core.nn.hiera import make_faster
from panosam2_core.nn.memory_attention import SharedMemoryAttention
from panosam2_core.nn.position import GridRoPEAttention, LatitudeSine
from panosam2_core.official import OFFICIAL_FILES, official_file
from panosam2_core.weight_file import config_from_metadata, read_weights

logger = logging.getLogger(__name__)

# SAM2's variants differ in the image trunk only, which its yaml files describe.
_SAM2 = ModelConfig(
    variant="hiera_t",
    input_size=(1024, 1024),
    width=256,
    attention_layers=4,
    attention_mlp=2048,
    decoder_mlp=2048,
    yaw_true=False,
)
VARIANTS: Mapping[str, ModelConfig] = {
    "nano": ModelConfig(),
    **{file.variant: dataclasses.replace(_SAM2, variant=file.variant) for file in OFFICIAL_FILES},
}
# Input sizes of the SAM2 variants by name. At `speed` no attention window of the trunk is padded.
PRESETS: Mapping[str, tuple[int, int]] = {
    "speed": (448, 896),
    "balanced": (512, 1024),
    "quality": (1024, 2048),
}
NANO_WEIGHTS = "weights/nano.safetensors"
HELP = "see `python -m panosam2_core.weights list`"
# Parts that SAM2's checkpoints do not have; everything else must be there.
NEW_PREFIXES = ("pano_decoder.", "lsmm.")
# What SAM2.1's configuration switches on; read from its yaml for the Hiera variants.
SAM2_SWITCHES: dict[str, Any] = {
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "no_obj_embed_spatial": True,
    "use_high_res_features_in_sam": True,
    "multimask_output_in_sam": True,
    "iou_prediction_use_sigmoid": True,
    "use_obj_ptrs_in_encoder": True,
    "add_tpos_enc_to_obj_ptrs": True,
    "proj_tpos_enc_in_obj_ptrs": True,
    "use_signed_tpos_enc_to_obj_ptrs": True,
    "pred_obj_scores": True,
    "pred_obj_scores_mlp": True,
    "fixed_no_obj_ptr": True,
    "multimask_output_for_tracking": True,
    "use_multimask_token_for_obj_ptr": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "use_mlp_for_obj_ptr_proj": True,
}


def load_model(
    variant: str = "nano",
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    input_size: tuple[int, int] | str | None = None,
    precision: str = "auto",
    yaw_true: bool | None = None,
    change: Callable[[ModelConfig], ModelConfig] | None = None,
) -> PanoSAM2:
    """Build a variant with its weights, ready for inference.

    Args:
        variant: a key of :data:`VARIANTS`. ``nano`` comes with trained weights.
        checkpoint: ``.safetensors`` written by this package, or Meta's ``.pt`` of SAM 2.0 or 2.1.
            Needed for every variant but ``nano``.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        input_size: (height, width) the network sees, multiples of 32, ``"HEIGHTxWIDTH"``, or a
            key of :data:`PRESETS`; ``None``: the variant's, or the largest of a 2:1 panorama with
            no more pixels where a yaw-true network cannot have that.
        precision: of the arithmetic; weights stay in float32. ``float32``, ``bfloat16``, or
            ``auto``: bfloat16 where the device multiplies matrices in it, see
            :func:`resolve_precision`.
        yaw_true: build the network with or without knowledge of the absolute yaw, see
            :class:`ModelConfig`; ``None``: as the file says. The weights stay, and were trained
            the other way if the file says otherwise.
        change: turns the file's config into that of the network to build, for example one
            without a part; weights of parts that it does not have are left out.

    Returns:
        The model in evaluation mode, without gradients.

    Raises:
        ConfigError: for an unknown variant, device, size or precision, or a width that a
            yaw-true network cannot have.
        CheckpointError: for a file that is missing, unreadable or of another variant.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    path = Path(checkpoint) if checkpoint else shipped_weights(variant)
    state, metadata = read_weights(path)
    config = stored_config(state, metadata, source=str(path))
    _check_variant(config, variant, path)
    config = change(config) if change else config
    if yaw_true is not None:
        config = dataclasses.replace(config, yaw_true=yaw_true)
    model = build_model(_fitted(config))
    if change:
        state = _without_unused_parts(state, model)
    load_state(model, state, source=str(path))
    if input_size is not None:
        size = parse_input_size(input_size) if isinstance(input_size, str) else input_size
        model.set_input_size(size)
    chosen = resolve_device(device)
    model.eval().requires_grad_(False).to(chosen)
    model.precision = resolve_precision(precision, chosen)
    return model


def _check_variant(config: ModelConfig, wanted: str, path: Path) -> None:
    if config.variant != wanted:
        raise CheckpointError(
            f"{path} holds {config.variant!r}, expected {wanted!r}; choose the variant "
            f"{config.variant!r}, or another file ({HELP})"
        )


def parse_input_size(wanted: str) -> tuple[int, int]:
    """Read an input size.

    Args:
        wanted: ``HEIGHTxWIDTH`` in pixels, or a key of :data:`PRESETS`.

    Returns:
        (height, width).

    Raises:
        ConfigError: for other texts.
    """
    if wanted in PRESETS:
        return PRESETS[wanted]
    height, _, width = wanted.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ConfigError(
            f"input size must be HEIGHTxWIDTH or one of {', '.join(PRESETS)}, got {wanted!r}"
        )
    return int(height), int(width)


def _fitted(config: ModelConfig) -> ModelConfig:
    """With the largest size of a panorama of no more pixels, if the width is none for yaw_true."""
    (height, width), step = config.input_size, config.yaw_step
    if not config.yaw_true or width % step == 0:
        return config
    width = max(1, math.isqrt(2 * height * width) // step) * step
    return dataclasses.replace(config, input_size=(max(1, width // 64) * 32, width))


def _without_unused_parts(state: Mapping[str, Tensor], model: PanoSAM2) -> dict[str, Tensor]:
    """Leave out panoramic parts that the network was built without."""
    own = model.state_dict()
    return {k: v for k, v in state.items() if k in own or not k.startswith(NEW_PREFIXES)}


def stored_config(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], *, source: str
) -> ModelConfig:
    """Tell which network a weight file is for.

    Args:
        state: names as in SAM2.
        metadata: of the file; names the config if this package wrote it.
        source: named in the error.

    Returns:
        The file's own config, else that of the variant and release its names belong to.

    Raises:
        CheckpointError: when neither tells, saying what the file is.
    """
    if "config" in metadata:
        config = config_from_metadata(metadata)
        if config.variant not in VARIANTS:
            raise CheckpointError(f"{source} is for the unknown variant {config.variant!r}")
        return config
    found = identify_network(state)
    if found is None:
        what = identify_state(state) or "weights of no network that is known here"
        raise CheckpointError(f"{source} holds {what}; take one of Meta's files for SAM2 ({HELP})")
    variant, release = found
    return dataclasses.replace(VARIANTS[variant], release=release)


def shipped_weights(variant: str) -> Path:
    """Find the weights that come along.

    Args:
        variant: a key of :data:`VARIANTS`.

    Returns:
        The file.

    Raises:
        CheckpointError: for every variant but ``nano``, naming the file to get.
    """
    if variant != "nano":
        raise CheckpointError(
            f"variant {variant!r} needs checkpoint=PATH, for example of Meta's "
            f"{official_file(variant).name}; only nano comes with weights ({HELP})"
        )
    return Path(str(resources.files("panosam2_core") / NANO_WEIGHTS))


def build_model(config: ModelConfig) -> PanoSAM2:
    """Build a network with random weights.

    Args:
        config: sizes and switches.

    Returns:
        The model, in training mode, on the CPU.
    """
    return _build_nano(config) if config.variant == "nano" else _build_hiera(config)


def resolve_device(device: str) -> torch.device:
    """Turn a device name into a device that exists.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns:
        The device.

    Raises:
        ConfigError: for an unknown name or an absent GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} GPU(s); "
            "use 'cpu' or 'auto'"
        )
    return chosen


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Turn the name of a precision into the type that arithmetic runs in.

    ``auto`` takes bfloat16 on GPUs and CPUs (AVX512-BF16, AMX) with instructions for it. What it
    gives and what it costs the masks: docs/speed.md.

    Args:
        precision: ``auto``, ``float32`` or ``bfloat16``.
        device: that it runs on.

    Returns:
        ``torch.float32`` or ``torch.bfloat16``.

    Raises:
        ConfigError: for another name.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
    half = precision == "bfloat16" or (precision == "auto" and _multiplies_bfloat16(device))
    return torch.bfloat16 if half else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Older releases of torch cannot tell what a CPU has.
    tell: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return any(tell().get(name) for name in ("avx512_bf16", "amx_bf16"))


def load_state(model: PanoSAM2, state: Mapping[str, Tensor], *, source: str) -> KeyReport:
    """Load weights and refuse anything but the known differences.

    Args:
        model: the network to fill.
        state: names as in SAM2, with or without the panoramic parts.
        source: named in the error.

    Returns:
        What was loaded and what is new.

    Raises:
        CheckpointError: naming keys that are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    report = compare_keys(own, state, NEW_PREFIXES)
    if not report.fits:
        faults = "; ".join(f"{len(k)} {what}, e.g. {k[0]}" for what, k in report.faults.items())
        found = identify_state(state)
        hint = f"; it looks like {found}" if found else ""
        raise CheckpointError(
            f"{source} does not fit variant {model.config.variant!r}: {faults} (keys){hint}"
        )
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise CheckpointError(f"{source} holds numbers that are not finite, e.g. in {broken[0]}")
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)
    if "lsmm.time_embed" in report.new:
        model.reset_time_embed()
    loaded, new = len(report.loaded), len(report.new)
    logger.info("loaded %d tensors from %s, %d new at identity", loaded, source, new)
    return report


def _build_nano(config: ModelConfig) -> PanoSAM2:
    width, dim = config.width, config.memory_dim
    sine = LatitudeSine if config.yaw_true else _plain_sine
    trunk = EfficientNetLite0()
    neck = FpnNeck(
        position_encoding=sine(width),
        d_model=width,
        backbone_channel_list=trunk.channel_list,
        fpn_interp_model="nearest",
        fpn_top_down_levels=[2, 3],
    )
    memory_encoder = MemoryEncoder(
        out_dim=dim,
        in_dim=width,
        position_encoding=sine(dim),
        mask_downsampler=MaskDownSampler(embed_dim=width, kernel_size=3, stride=2, padding=1),
        # SAM2 starts the layer scale at 1e-6; a small network trained briefly needs the blocks.
        fuser=Fuser(CXBlock(width, layer_scale_init_value=0.1), num_layers=2),
    )
    return PanoSAM2(
        config,
        pixel_mean=(127 / 255,) * 3,
        pixel_std=(128 / 255,) * 3,
        image_encoder=ImageEncoder(trunk=trunk, neck=neck, scalp=1),
        memory_attention=_memory_attention(config),
        memory_encoder=memory_encoder,
        num_maskmem=config.num_memory_maps,
        max_obj_ptrs_in_encoder=config.num_pointers,
        **SAM2_SWITCHES,
    )


def _plain_sine(channels: int) -> nn.Module:
    sine: nn.Module = PositionEmbeddingSine(channels, warmup_cache=False)
    return sine


def _memory_attention(config: ModelConfig) -> SharedMemoryAttention:
    def attention(**kwargs: Any) -> GridRoPEAttention:
        grid = (config.input_size[0] // 16, config.input_size[1] // 16)
        return GridRoPEAttention(
            embedding_dim=config.width, num_heads=1, feat_sizes=grid[::-1], **kwargs
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        d_model=config.width,
        dim_feedforward=config.attention_mlp,
        dropout=0.0,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=attention(),
        cross_attention=attention(rope_k_repeat=True, kv_in_dim=config.memory_dim),
    )
    return SharedMemoryAttention(
        d_model=config.width,
        pos_enc_at_input=True,
        layer=layer,
        num_layers=config.attention_layers,
    )


def _build_hiera(config: ModelConfig) -> PanoSAM2:
    family = "sam2" if config.release == "2.0" else "sam2.1"
    name = f"{family}_{config.variant}.yaml"
    with resources.as_file(resources.files("sam2") / "configs" / family / name) as path:
        source = OmegaConf.load(path).model
    source.memory_attention._target_ = _name(SharedMemoryAttention)
    for layer in ("self_attention", "cross_attention"):
        source.memory_attention.layer[layer]._target_ = _name(GridRoPEAttention)
    if config.yaw_true:
        for part in (source.image_encoder.neck, source.memory_encoder):
            channels = part.position_encoding.num_pos_feats
            level = {"_target_": _name(LatitudeSine), "num_pos_feats": channels, "mean": True}
            part.position_encoding = level
    parts = {k: instantiate(v) for k, v in source.items() if isinstance(v, DictConfig)}
    scalars = {
        k: v
        for k, v in source.items()
        if not isinstance(v, DictConfig) and k not in ("_target_", "image_size")
    }
    make_faster(parts["image_encoder"].trunk, yaw_true=config.yaw_true)
    return PanoSAM2(
        config,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
        **parts,
        **scalars,
    )


def _name(of: type) -> str:
    return f"{of.__module__}.{of.__qualname__}"
