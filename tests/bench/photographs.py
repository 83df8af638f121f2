"""Nine images that come inside scikit-image's wheel: no download, and nothing here was trained on them."""

import numpy as np
from PIL import Image, ImageOps
from skimage import data

LOADERS = {
    "astronaut": data.astronaut,
    "coffee": data.coffee,
    "chelsea": data.chelsea,
    "rocket": data.rocket,
    "motorcycle_left": lambda: data.stereo_motorcycle()[0],
    "hubble_deep_field": data.hubble_deep_field,
    "retina": data.retina,
    "ihc": data.immunohistochemistry,
    "color": data.colorwheel,
}


def photographs(size: int = 256) -> dict[str, np.ndarray]:
    "Name → uint8 [size, size, 3]: centre-cropped to a square, resized with a bicubic filter."
    return {
        name: np.asarray(
            ImageOps.fit(Image.fromarray(load()[..., :3]), (size, size), Image.Resampling.BICUBIC)
        )
        for name, load in LOADERS.items()
    }
