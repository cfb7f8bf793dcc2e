"""Wrap a transformer's Linears, carry the sigma mask to them, and take everything out again.

The mask travels as data, in `joint_attention_kwargs`. diffusers passes that dict through gradient checkpointing, so when
backward recomputes a block, the block's pre-hook meets the mask of its own forward, also with a second forward in between.
`transformer._tlora_sigma_mask` is a plain attribute for people who set it by hand, never a buffer: DDP broadcasts
buffers, and every process would silently get the first one's mask.

Several adapters are layers around layers, so their updates add up, each under its own mask and scale: a call then brings tuples
of masks and of scales, with an entry for each adapter, in the order in which they were injected.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tlora.adapter import OrthoTLoRALinear, SharedInput, TLoRALinear, build_layer, device_of, features_of
from tlora.errors import InjectionError
from tlora.flux import linears
from tlora.flux.families import Family, family_of_class
from tlora.flux.noise import MAX_TIMESTEP
from tlora.metadata.config import TLoRAConfig
from tlora.runtime.settings import nearest

Layer = TLoRALinear | OrthoTLoRALinear
Masks = tuple[Tensor | None, ...]  # of each adapter, in the order of their slots; None for one that masks nothing
BLOCK_LISTS = tuple(each.name for each in linears.BLOCK_LISTS)  # of every family
_SCALE_KEY = "tlora_scale"  # diffusers takes the key "scale" out of the dict before the blocks see it


@dataclass
class _Carried:
    """What an adapted transformer carries beside its layers: hooks, parameters that were not frozen, the number of adapters."""

    hooks: Sequence[RemovableHandle] = ()
    thawed: Sequence[nn.Parameter] = ()
    count: int = 0


def inject_tlora_into_transformer(
    transformer: nn.Module,
    target_module_suffixes: Sequence[str],
    cfg: TLoRAConfig,
    *,
    seed: int | None = 0,
    slot: int = 0,
    leave_blocks_out: bool = False,
) -> int:
    """Wrap every Linear of the blocks whose name ends in one of the suffixes, and freeze all the rest.

    Args:
        transformer: Of any family, such as a `FluxTransformer2DModel`.
        target_module_suffixes: Ends of module names, such as `to_q` or `attn.to_out.0`.
        cfg: Shape and behaviour of the layers.
        seed: Seed of their initial values; None leaves them at zero, for a file that is about to be loaded.
        slot: Place of this adapter among several; what is injected before it is frozen with the rest.
        leave_blocks_out: Whether it is meant that all blocks of a kind stay as they are.

    Returns:
        The number of wrapped layers.

    Raises:
        InjectionError: If the transformer already carries an adapter in this slot, or a suffix matches no Linear of the blocks,
            or all blocks of a kind are left untouched and that is not meant, or the rank is larger than a layer can hold. The
            transformer is then as it was.
    """
    if any(layer.slot == slot for layer in adapter_layers(transformer).values()):
        raise InjectionError("the transformer already carries an adapter: eject it first")
    targets = find_targets(transformer, target_module_suffixes)
    if not leave_blocks_out:
        _require_each_kind_of_block(transformer, target_module_suffixes, targets)
    thawed = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    try:
        layers = _build_layers(transformer, targets, cfg, seed)
    except InjectionError:
        _thaw(thawed)
        raise
    transformer.requires_grad_(False)
    for name, layer in layers.items():
        layer.slot, layer.suffixes = slot, tuple(target_module_suffixes)
        transformer.set_submodule(name, layer)
    share_inputs(layers)
    for block in blocks_of(transformer):
        inside = list(adapter_layers(block).values())  # a walk at every call would cost milliseconds
        block.__dict__["_tlora"] = (inside, shared_inputs(inside))
    patch_transformer_forward_for_joint_attention_kwargs(transformer)
    carried: _Carried = transformer.__dict__["_tlora"]
    carried.thawed, carried.count = carried.thawed or thawed, max(carried.count, slot + 1)
    return len(layers)


def require_targets(
    transformer: nn.Module, target_module_suffixes: Sequence[str], cfg: TLoRAConfig, *, leave_blocks_out: bool = False
) -> None:
    """Check that an adapter fits and misses nothing by mistake, on a transformer that needs no weights.

    Args:
        transformer: Of any family.
        target_module_suffixes: Ends of module names.
        cfg: Shape and behaviour of the layers.
        leave_blocks_out: Whether it is meant that all blocks of a kind stay as they are.

    Raises:
        InjectionError: As injecting it would, or if all blocks of a kind are left untouched and that is not meant.
    """
    chosen = find_targets(transformer, target_module_suffixes)
    for name in chosen:
        with _named_layer(name):
            features_of(transformer.get_submodule(name), cfg)
    if not leave_blocks_out:
        _require_each_kind_of_block(transformer, target_module_suffixes, chosen)


def _require_each_kind_of_block(transformer: nn.Module, target_module_suffixes: Sequence[str], chosen: Sequence[str]) -> None:
    """Refuse suffixes that choose nothing in all blocks of a kind, and say which would do."""
    for each in family_of(transformer).blocks:
        missed = list(transformer.get_submodule(each.name).children())
        if missed and not any(name.startswith(each.name + ".") for name in chosen):
            would_do = ", ".join((*target_module_suffixes, *_usual_targets(family_of(transformer), each)))
            raise InjectionError(
                f"target_modules: [{', '.join(target_module_suffixes)}] leaves all {len(missed)} {each.name} untouched: use"
                f" [{would_do}], or set leave_blocks_out to true if that is meant"
            )


def _usual_targets(family: Family, blocks: linears.BlockList) -> list[str]:
    """Return those of a family's usual targets that are in its blocks of one kind."""
    return [suffix for suffix in family.target_modules if any(_ends_with(row.name, suffix) for row in blocks.linears)]


def find_targets(transformer: nn.Module, target_module_suffixes: Sequence[str]) -> list[str]:
    """Return the names of the Linears that the suffixes choose, in the order of the blocks.

    Suffixes are looked up inside the blocks, where the mask arrives: `proj_out` is that of the single blocks, never the
    transformer's own.

    Raises:
        InjectionError: If there is no suffix, or one matches nothing, or only a Linear outside the blocks, or what it chooses is
            not in use because the transformer's projections were fused.
    """
    if not target_module_suffixes:
        raise InjectionError("target_modules is empty: name at least one suffix, such as to_q")
    wrapped = tuple(f"{name}." for name in adapter_layers(transformer))
    named = (pair for pair in transformer.named_modules() if not pair[0].startswith(wrapped))
    linears = [name for name, module in named if _is_linear(module)]
    inside = [name for name in linears if name.split(".")[0] in BLOCK_LISTS]
    for suffix in target_module_suffixes:
        if any(_ends_with(name, suffix) for name in inside):
            continue
        outside = [name for name in linears if _ends_with(name, suffix)]
        if outside:
            raise InjectionError(f"target_modules: {suffix!r} is {outside[0]}, outside the blocks, where no sigma mask arrives")
        known = list(dict.fromkeys(name.split(".", 2)[2].removeprefix("attn.") for name in inside))
        raise InjectionError(f"target_modules: {suffix!r} matches no Linear of the blocks{nearest(suffix, known)}")
    chosen = [name for name in inside if any(_ends_with(name, suffix) for suffix in target_module_suffixes)]
    for name in chosen:
        _require_in_use(transformer, name)
    return chosen


def _require_in_use(transformer: nn.Module, name: str) -> None:
    """Refuse a projection beside which a fused one computes: no forward would use it, and an adapter on it would do nothing."""
    attention, _, leaf = name.rpartition(".")
    fused = getattr(transformer.get_submodule(attention), "fused_projections", False)
    if fused and any(leaf in leaves for leaves in READ_TOGETHER):
        raise InjectionError(
            f"target_modules: {name} is not in use since fuse_qkv_projections(): call unfuse_qkv_projections() first"
        )


def eject_tlora_from_transformer(transformer: nn.Module) -> int:
    """Put every wrapped Linear back, bit for bit, remove the hooks, and thaw what was thawed; return how many layers went."""
    layers = adapter_layers(transformer)
    for name, layer in reversed(layers.items()):  # of several around one Linear, the innermost first
        transformer.set_submodule(name, layer.base)
    carried: _Carried = transformer.__dict__.get("_tlora", _Carried())
    for handle in carried.hooks:
        handle.remove()
    _thaw(carried.thawed)
    for module in (transformer, *blocks_of(transformer)):
        for name in ("_tlora", "_tlora_sigma_mask", "_tlora_scale"):
            module.__dict__.pop(name, None)
    return len(layers)


def patch_transformer_forward_for_joint_attention_kwargs(transformer: nn.Module) -> None:
    """Make `joint_attention_kwargs["sigma_mask"]` and `["scale"]` reach the layers; a second call changes nothing.

    Where a call brings none, `transformer._tlora_sigma_mask` and `transformer._tlora_scale` stand in; a call's own win.
    """
    if "_tlora" in transformer.__dict__:
        return
    transformer._tlora_sigma_mask = None  # type: ignore[assignment]
    transformer._tlora_scale = 1.0  # type: ignore[assignment]
    handles = [transformer.register_forward_pre_hook(_fill_attention_kwargs, with_kwargs=True)]
    for each in family_of(transformer).blocks:
        for block in transformer.get_submodule(each.name).children():
            handles.append(block.register_forward_pre_hook(_arming(each.kwargs_position), with_kwargs=True))
            handles.append(block.register_forward_hook(_disarm_layers, always_call=True))  # a recompute ends by an exception
    transformer.__dict__["_tlora"] = _Carried(handles)


def family_of(transformer: nn.Module) -> Family:
    """Return whose network a transformer is.

    Raises:
        InjectionError: If it is no family's.
    """
    family = family_of_class(type(transformer))
    if family is None:
        raise InjectionError(f"a {type(transformer).__name__} is no transformer that a T-LoRA is known for")
    return family


def blocks_of(transformer: nn.Module) -> Iterator[nn.Module]:
    """Yield the transformer's blocks in the order in which they run."""
    for name in BLOCK_LISTS:
        yield from transformer.get_submodule(name).children()


def adapter_layers(module: nn.Module) -> dict[str, Layer]:
    """Return the T-LoRA layers of a module by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, (TLoRALinear, OrthoTLoRALinear))}


def tlora_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the trainable parameters of the adapter, and nothing else."""
    for layer in adapter_layers(module).values():
        yield from (p for name, p in layer.named_parameters() if not name.startswith("base."))


def adapter_configs(transformer: nn.Module) -> tuple[TLoRAConfig, ...]:
    """Return the configuration of each adapter, in the order of their slots."""
    configs = {layer.slot: layer.cfg for layer in adapter_layers(transformer).values()}
    return tuple(configs[slot] for slot in sorted(configs))


def mask_at(
    cfg: TLoRAConfig, timestep: Float[Tensor, " batch"], max_timestep: float = MAX_TIMESTEP
) -> Float[Tensor, "batch rank"] | None:
    """Return the sigma mask of these timesteps, or None for an adapter that masks nothing."""
    return cfg.schedule(max_timestep).mask(timestep) if cfg.enable_rank_masking else None


def masks_and_scales(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Masks, tuple[float, ...]]:
    """Return what a call of the transformer carries for each adapter, for hooks that run after `patch_...` has completed it."""
    given = _attention_kwargs(args, kwargs, family_of(transformer).kwargs_position)
    return given["sigma_mask"], given[_SCALE_KEY]


def _build_layers(transformer: nn.Module, targets: Sequence[str], cfg: TLoRAConfig, seed: int | None) -> dict[str, Layer]:
    """Return a layer for each target, on the target's device and in its mode (an adapter may join a model in use)."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    layers = {}
    for name in targets:
        target = transformer.get_submodule(name)
        with _named_layer(name):
            layer = build_layer(target, cfg, generator, initialise=seed is not None)
        layers[name] = layer.to(device_of(target)).train(target.training)
    return layers


@contextmanager
def _named_layer(name: str) -> Iterator[None]:
    try:
        yield
    except InjectionError as error:
        raise InjectionError(f"{name}: {error}") from error


def _thaw(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(True)


def _is_linear(module: nn.Module) -> bool:
    """Accept nn.Linear, and the quantised Linears that imitate it without inheriting from it."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def _ends_with(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def _fill_attention_kwargs(transformer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Run before the transformer: complete the dict, and rename `scale` so that it gets past diffusers."""
    position = family_of(transformer).kwargs_position
    given = _attention_kwargs(args, kwargs, position)
    attributes, count = transformer.__dict__, transformer.__dict__["_tlora"].count
    masks = _for_each(given.pop("sigma_mask", attributes["_tlora_sigma_mask"]), count)
    scales = _for_each(given.pop("scale", attributes["_tlora_scale"]), count)
    given |= {"sigma_mask": tuple(None if mask is None else mask.contiguous() for mask in masks), _SCALE_KEY: scales}
    return _with_attention_kwargs(args, kwargs, position, given)


def _arming(position: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[Any, Any]]:
    """Return what runs before a block that takes the dict at this position."""

    def arm_layers(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Run in forward and in recompute alike: hand the call's mask to the block's layers."""
        given = _attention_kwargs(args, kwargs, position)
        masks, scales = given.pop("sigma_mask", None), given.pop(_SCALE_KEY, None)
        layers, together = _adapted_in(block)
        for layer in layers:
            layer.arm(masks[layer.slot] if masks else None, scales[layer.slot] if scales else 1.0)
        for shared in together:
            shared.open()
        return _with_attention_kwargs(args, kwargs, position, given)

    return arm_layers


def _for_each(given: Any, count: int) -> tuple[Any, ...]:
    """Return an entry for each adapter; what is no tuple is for all of them."""
    return given if isinstance(given, tuple) else (given,) * count


def _attention_kwargs(args: tuple[Any, ...], kwargs: dict[str, Any], position: int) -> dict[str, Any]:
    """Return a copy of the dict, given by position or by name."""
    return dict((args[position] if len(args) > position else kwargs.get("joint_attention_kwargs")) or {})


def _with_attention_kwargs(
    args: tuple[Any, ...], kwargs: dict[str, Any], position: int, given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the dict back where it came from."""
    if len(args) > position:
        return (*args[:position], given, *args[position + 1 :]), kwargs
    return args, {**kwargs, "joint_attention_kwargs": given}


def _disarm_layers(block: nn.Module, _args: tuple[Any, ...], _output: Any) -> None:
    layers, together = _adapted_in(block)
    for layer in layers:
        layer.arm(None, 1.0)
    for shared in together:
        shared.close()


def _adapted_in(block: nn.Module) -> tuple[Sequence[Layer], Sequence[SharedInput]]:
    found: tuple[Sequence[Layer], Sequence[SharedInput]] = block.__dict__.get("_tlora", ((), ()))
    return found


READ_TOGETHER = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))


def share_inputs(layers: Mapping[str, nn.Module]) -> None:
    """Let the layers of one adapter, by name, project down together where they read the same tensor."""
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in layers):
        for leaves in READ_TOGETHER:
            found = [layers.get(f"{parent}.{leaf}") for leaf in leaves]
            together = [layer for layer in found if isinstance(layer, TLoRALinear) and not layer.cfg.dropout]
            if len(together) > 1:
                shared = SharedInput([layer.down for layer in together])
                for place, layer in enumerate(together):
                    layer.shared, layer.place = shared, place


def shared_inputs(layers: Sequence[nn.Module]) -> list[SharedInput]:
    """Return what these layers share."""
    return list(dict.fromkeys(layer.shared for layer in layers if isinstance(layer, TLoRALinear) and layer.shared))


def stop_sharing(module: nn.Module) -> None:
    """Let every layer read its own weights alone again, as offloading one layer at a time needs."""
    for layer in module.modules():
        if isinstance(layer, TLoRALinear):
            layer.shared = None
