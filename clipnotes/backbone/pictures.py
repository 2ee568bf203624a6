"""Pictures of every kind as an encoder takes them: read as one sees them, preprocessed, or cropped at random.

What CLIP's own code does with a picture is PIL's `convert("RGB")`. For most files that is all there is to do. It differs from
what one sees, and is not done here unless `as_shown=False`, for
  EXIF orientation    photographs lie on their side; here they are turned upright
  transparency        what is behind is black, or whatever the editor left there; here it is white
  more than 8 bits    grey values above 255 become white; here 16 bits are scaled to 8. Where the file says only that values
                      have 32 bits, white is the least of 255, 65,535 and 2^31 - 1 (of floats also 1) that none exceeds
CMYK is converted as PIL does it, and of an animation the first picture is taken, either way.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipnotes.errors import ClipnotesError, shown
from clipnotes.seeding import fixed_random

ORIENTATION = 0x0112  # the EXIF tag
WHITES = {"I": (255, 65_535, 2**31 - 1), "F": (1, 255, 65_535, 2**31 - 1)}  # by PIL's name for values of 32 bits
READING = "as one sees it, 2"  # for the keys of caches: a change of how files are read makes all older features foreign


class ImageReader(torch.utils.data.Dataset):
    """Any of the image kinds that `Clip.encode_images` takes, as preprocessed tensors. as_shown: see `open_image`."""

    def __init__(self, images: Any, preprocess: Callable, as_shown: bool = True) -> None:
        self.images, self.preprocess, self.as_shown = check_several(images), preprocess, as_shown

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.preprocess(open_image(self.images[index], self.as_shown))

    def __getitems__(self, rows):
        """Several at once, as `DataLoader` asks for them: pixels of the model's own size, bit for bit as one by one."""
        from torchvision.transforms import Normalize, Resize

        steps = getattr(self.preprocess, "transforms", [None])
        if not (isinstance(self.images, np.ndarray) and isinstance(steps[-1], Normalize) and isinstance(steps[0], Resize)
                and self.images.shape[1:] == (size := steps[0].size, size, 3) and self.images.dtype == np.uint8):
            return [self[row] for row in rows]
        pixels = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)  # nothing to resize or to crop
        return steps[-1](pixels.float().div(255)).unbind()


class RandomViews(ImageReader):
    """Images as randomly cropped and mirrored tensors, which are a function of `entropy` (ints) and the row."""

    def __init__(self, images: Any, clip: Any, crop: tuple[float, float], entropy: list[int]) -> None:
        from torchvision.transforms import v2

        if not 0 < crop[0] <= crop[1] <= 1:
            raise ClipnotesError(f"crop = {tuple(crop)} is out of range; give the least and the largest share of an image's "
                                 "area, such as (0.08, 1).")
        super().__init__(images, v2.Compose([
            v2.RandomResizedCrop(clip.image_size, crop, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(*pixel_statistics(clip, "random views", "take the plain view"))]))
        self.entropy = entropy

    def __getitem__(self, index):
        with fixed_random(*self.entropy, index):
            return super().__getitem__(index)


def pixel_statistics(clip: Any, wish: str, instead: str) -> tuple:
    """(mean, std) of a CLIP's preprocessing, which a `wish` needs."""
    from torchvision.transforms import Normalize

    last = getattr(clip.preprocess, "transforms", [None])[-1]
    if not isinstance(last, Normalize):
        raise ClipnotesError(f"{wish} cannot be had: the preprocessing of {clip.name} does not end in Normalize; {instead}.")
    return last.mean, last.std


def check_several(images: Any) -> Any:
    """`images` where they are several, as a reader takes them; ClipnotesError for one image, tensors and other shapes."""
    from PIL import Image

    if isinstance(images, str | bytes | Path | Image.Image):
        raise ClipnotesError(f"images = {shown(images)} is one image; give a list, such as [image].")
    if isinstance(images, torch.Tensor):
        raise ClipnotesError(f"Images are a tensor {list(images.shape)}; give paths, PIL images or a uint8 array [N, H, W, 3].")
    colour = isinstance(images, np.ndarray) and images.ndim and images.shape[-1] in (3, 4)
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim != (4 if colour else 3):
        raise ClipnotesError(f"Images have shape {list(images.shape)}; give [N, H, W, 3], [N, H, W] of grey ones, or a list of "
                             "one array for one image.")
    if not hasattr(images, "__len__"):
        raise ClipnotesError(f"images = {shown(images)} are no list; give a list of paths, PIL images or uint8 arrays.")
    return images


def open_image(image: Any, as_shown: bool = True) -> Any:
    """A PIL image in RGB from a path, a PIL image or an array, see the module for what is done with unusual ones.

    Arrays are [H, W], [H, W, 3] or, with transparency, [H, W, 4]: uint8, uint16, or floats from 0 to 1. Raises ClipnotesError
    where an image cannot be read, is larger than Pillow deems safe (`PIL.Image.MAX_IMAGE_PIXELS`), or has other values.
    """
    from PIL import Image

    if isinstance(image, np.ndarray):
        return to_rgb(Image.fromarray(pixels_of_array(image)), as_shown)
    if not isinstance(image, str | Path | Image.Image):
        raise ClipnotesError(f"Image {shown(image)} is of type {type(image).__name__}; give a path, a PIL image or an array.")
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise ClipnotesError(f"Image {image} does not exist; check the data root and the manifest's image folder.")
    try:
        if isinstance(image, Image.Image):
            return to_rgb(image, as_shown)
        with Image.open(image) as opened:  # by its content: its ending may be that of another kind
            return to_rgb(opened, as_shown)
    except Exception as error:  # every kind of picture has errors of its own
        raise ClipnotesError(f"Image {image} cannot be read ({error}); fetch it again or remove it from the split.") from error


def to_rgb(image: Any, as_shown: bool) -> Any:
    from PIL import Image, ImageOps

    if not as_shown:
        return image.convert("RGB")
    of_16_bits = image.mode.startswith("I;16") or image.mode == "I" and image.format == "PPM"  # which Pillow scales to 16 bits
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(grey_8_bit(np.asarray(image), (65_535,) if of_16_bits else WHITES[image.mode]))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def grey_8_bit(values: np.ndarray, whites: tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W] of grey values with more bits; white: the least of `whites` that none exceeds."""
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"it has grey values from {values.min()} to {values.max()}, but they must be 0 or more")
    white = next((white for white in whites if values.max() <= white), values.max())
    return np.round(values / white * 255).astype(np.uint8)


def pixels_of_array(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W], [H, W, 3] or [H, W, 4] of an array of pixels; ClipnotesError for values or shapes that are none."""
    if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[-1] not in (3, 4) or not image.size:
        raise ClipnotesError(f"Image array has shape {list(image.shape)}; give [H, W], [H, W, 3] or [H, W, 4].")
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return np.round(image / 257).astype(np.uint8)
    if image.dtype.kind != "f":
        raise ClipnotesError(f"Image array of type {image.dtype}; give uint8 (0 to 255), uint16, or floats of 0 to 1.")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
        raise ClipnotesError(f"Image array of type {image.dtype} with values from {image.min():.4g} to {image.max():.4g}; "
                             "floats must lie between 0 and 1.")
    return np.round(image * 255).astype(np.uint8)
