"""What people look for in a module or among the layers that has another name here, or is not here."""

from __future__ import annotations

from ..errors import MissingNameError

_OF_MODULES = {
    "cuda": "Move it with .to('cuda').",
    "cpu": "Move it with .to('cpu').",
    "mps": "Apple's GPUs are reached by WebGPU: .to('webgpu').",
    "half": "Cast it with .to('float16'), or train in dm.amp.autocast().",
    "bfloat16": "Cast it with .to('bfloat16'), or train in dm.amp.autocast().",
    "float": "Cast it with .to('float32').",
    "double": "Cast it with .to('float64').",
    "device": "A parameter has a backend instead of a device: next(model.parameters()).backend.",
    "named_modules": "Use .modules() or .children().",
    "named_children": "Use .children(), which gives names too.",
    "register_buffer": "Assign nn.Parameter(x, requires_grad=False), which moves and is saved with the module.",
    "register_parameter": "Assign an nn.Parameter as an attribute.",
    "add_module": "Assign the module as an attribute.",
    "requires_grad_": "Set requires_grad of each of .parameters().",
    "compile": "Use dm.capture for a training step.",
    "training": "Call super().__init__() first in its __init__.",
}
_OF_LAYERS = {  # by how a name begins
    "Conv": "There are no convolutions: dualml is made for transformers.",
    "LSTM": "There are no recurrent layers: dualml is made for transformers.",
    "GRU": "There are no recurrent layers: dualml is made for transformers.",
    "RNN": "There are no recurrent layers: dualml is made for transformers.",
    "MaxPool": "There are no pooling layers; x.reshape(...).amax(dim) takes the largest of neighbours.",
    "AvgPool": "There are no pooling layers; x.reshape(...).mean(dim) takes the mean of neighbours.",
    "BatchNorm": "Use nn.LayerNorm or nn.RMSNorm.",
    "GroupNorm": "Use nn.LayerNorm or nn.RMSNorm.",
    "InstanceNorm": "Use nn.LayerNorm or nn.RMSNorm.",
    "Transformer": "Use nn.TransformerBlock, or a model of dualml.models.",
    "ModuleDict": "Use nn.ModuleList, or attributes of a Module.",
    "ParameterList": "Use attributes of a Module.",
    "ParameterDict": "Use attributes of a Module.",
    "SmoothL1Loss": "Use nn.L1Loss or nn.MSELoss.",
    "BCELoss": "Use nn.BCEWithLogitsLoss, before the sigmoid.",
}


def no_attribute(module: object, name: str) -> MissingNameError:
    """The error for an attribute that a module has not."""
    hint = f" {_OF_MODULES[name]}" if name in _OF_MODULES else ""
    return MissingNameError(f"[module] {type(module).__name__} has no attribute {name!r}.{hint}", name=name)


def no_layer(package: str, name: str) -> MissingNameError:
    """The error for a layer that the package has not."""
    hint = next((f" {text}" for start, text in _OF_LAYERS.items() if name.startswith(start)), "")
    return MissingNameError(f"[nn] there is no {package}.{name}.{hint}", name=name)
