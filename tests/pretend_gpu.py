"""A GPU that is none: tensors keep real values on the CPU, while mixing devices fails as it does with CUDA.

    with PretendGpu():
        clip = load_clip("pocket-vit", "random", device="cuda")

Every call of a torch function is watched. A tensor that was moved or made with a cuda device carries a mark, which its
results inherit; a call with marked and unmarked tensors, or a marked tensor turned to NumPy, raises an error.
"""

from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

MARK = "_on_pretended_gpu"
GET_DEVICE = torch.Tensor.device.__get__
SET_DATA = torch.Tensor.data.__set__
MAKE_SUBCLASS = torch.Tensor._make_subclass  # of nn.Parameter, which no mode sees
# may take tensors of both sides, and give the side of the first: a copy, a choice of rows by indices on the CPU
CROSSING = {torch.Tensor.copy_, torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.__deepcopy__,
            torch._has_compatible_shallow_copy_type}
NEEDS_CPU = {torch.Tensor.numpy, torch.Tensor.__array__}


class PretendGpu(TorchFunctionMode):
    def __enter__(self):
        self.patch = mock.patch.object(torch.Tensor, "_make_subclass", make_subclass)
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.stop()
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == GET_DEVICE:
            return torch.device("cuda", 0) if marked(args[0]) else func(*args)
        if func == SET_DATA:
            func(*args)
            return mark(args[0], marked(args[1]))
        if func == torch.Tensor.pin_memory:
            return args[0]
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return move(func, args, kwargs)
        made_on_gpu, inputs = is_cuda(kwargs.pop("device", "cpu")), tensors([args, kwargs])
        sides = {marked(tensor) for tensor in inputs if tensor.ndim}
        if func in CROSSING:
            on_gpu = marked(args[0])
            if func == torch.Tensor.__getitem__ and not on_gpu and True in sides:
                raise RuntimeError("a tensor on the CPU is indexed by one on the GPU")
        elif len(sides) > 1:
            raise RuntimeError(f"{func} got tensors of both sides: {[(list(t.shape), marked(t)) for t in inputs]}")
        else:
            on_gpu = made_on_gpu or any(map(marked, inputs))
        if func in NEEDS_CPU and on_gpu:
            raise TypeError("can't convert a tensor on the GPU to numpy")
        return mark(func(*args, **kwargs), on_gpu)


def move(func, args, kwargs):
    """What `.to` and `.cpu` do: values stay, the mark changes, and with it the tensor unless it is there already."""
    named = [value for value in [*args[1:], *kwargs.values()] if is_device(value)]
    others = [marked(value) for value in args[1:] if isinstance(value, torch.Tensor)]
    if func == torch.Tensor.cpu:
        on_gpu = False
    else:
        on_gpu = is_cuda(named[0]) if named else others[0] if others else marked(args[0])
    moved = func(*("cpu" if is_device(value) else value for value in args),
                 **{key: "cpu" if is_device(value) else value for key, value in kwargs.items()})
    if moved is args[0] and on_gpu != marked(moved):
        moved = moved.view_as(moved)
    return mark(moved, on_gpu)


def make_subclass(cls, data, *more):
    return mark(MAKE_SUBCLASS(cls, data, *more), marked(data))


def mark(result, on_gpu):
    for tensor in tensors(result):
        setattr(tensor, MARK, on_gpu)
    return result


def marked(tensor):
    return getattr(tensor, MARK, False)


def tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def is_device(value):
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda"))


def is_cuda(device):
    return device is not None and torch.device(device).type == "cuda"
