"""Networks built without drawing their initial weights, for a file or for their shapes alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# torch's functions that draw weights or scale what was drawn; all others are made of these
DRAWING = {nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_}
DRAWING |= {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.add_}
DRAWING |= {Tensor.clamp_}


class Undrawn(TorchFunctionMode):
    """Context in which parameters keep the values that memory had, as buffers don't.

    Each parameter is in the state dict that is to be loaded; tables of positions may not be.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if function in DRAWING and isinstance(tensor, nn.Parameter):
            return tensor
        return function(*args, **(kwargs or {}))
