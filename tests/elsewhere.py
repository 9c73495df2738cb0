"""A second device without one: tensors that compute on the CPU, and say that they are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

ELSEWHERE = torch.device("meta")


class There(torch.Tensor):
    """A tensor that lies elsewhere; ``here`` is the one on the CPU that it stands for."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        here = here.resolve_conj().resolve_neg()
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=ELSEWHERE,
            requires_grad=here.requires_grad,
        )
        made.here = here
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here!r})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(function, args, kwargs or {})


aten = torch.ops.aten
# Of these a device takes tensors of the CPU, too: indices, and what is copied.
MIXED = (
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
)


def computed(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What torch gives: elsewhere where its tensors are; refused where only some of them are."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    here = [each for each in tensors if not isinstance(each, There) and each.ndim]
    if there and here and function not in MIXED:
        raise RuntimeError(f"{function}: found {len(there)} tensors elsewhere, {len(here)} here")
    if function in MIXED[1:]:  # the first one says where the result is
        there = [args[0]] if isinstance(args[0], There) else []
        if not there and function is not aten.copy_.default and len(tensors) > len(here):
            raise RuntimeError(f"{function}: found a tensor here, indices or values elsewhere")
    stays_there = bool(there)
    settings = dict(kwargs)
    if settings.get("device") is not None:
        stays_there = is_there(settings["device"])
        settings["device"] = torch.device("cpu")
    plain_args, plain_kwargs = tree_map_only(There, lambda each: each.here, (args, settings))
    result = function(*plain_args, **plain_kwargs)
    if not stays_there:
        return result
    return return_and_correct_aliasing(function, args, kwargs, tree_map_only(Tensor, There, result))


def is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == ELSEWHERE.type


class Values(TorchFunctionMode):
    """Tensors from Python's numbers: torch leaves them empty on its ``meta``."""

    def __torch_function__(
        self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and is_there(kwargs.get("device")):
            given = args[0] if args else kwargs.pop("data")
            if not isinstance(given, Tensor):
                return function(given, **{**kwargs, "device": "cpu"}).to(ELSEWHERE)
        if function is torch.Tensor.new_tensor and isinstance(args[0], There):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(ELSEWHERE)
        if function is torch.Tensor.tolist and isinstance(args[0], There):
            return args[0].here.tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1]
            if isinstance(index, list):
                index = torch.tensor(index)
            elif isinstance(index, tuple):
                index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *args[2:])
        return function(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Inside, what is made on ``ELSEWHERE`` or moved there holds numbers, and does not mix."""

    def __enter__(self) -> Elsewhere:
        self.values = Values()
        self.values.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.values.__exit__(*error)

    def __torch_dispatch__(
        self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(function, args, kwargs or {})
